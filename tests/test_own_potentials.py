"""Potentials of other packages: entry points, module:callable, and the table they all share."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import hpcbench
from hpcbench.cli import main
from hpcbench.errors import ModelError, PotentialError
from hpcbench.potentials import catalogue, weights
from hpcbench.potentials.catalogue import BUILT_IN
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.registry import (
    has_both_precisions,
    listed_potentials,
    load_potential,
    spec_of,
    weights_sha256,
)
from hpcbench.potentials.spec import PotentialSpec
from hpcbench.potentials.weights import PackagedWeights
from hpcbench.scheduler.checks import _packages

ROOT = Path(__file__).parents[1]


def worked_example() -> dict[str, str]:
    """Return the files of CONTRIBUTING.md's example of a package of one's own, by their paths."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, re.M | re.S)
    (diff,) = (diff for diff in diffs if "toy_potential/" in diff)
    files: dict[str, str] = {}
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            files[name := line.removeprefix("+++ b/")] = ""
        elif line != "--- /dev/null":
            assert line[0] == "+", line
            files[name] += line[1:] + "\n"
    return files


EXAMPLE = worked_example()
ENTRY, PARAMETERS = EXAMPLE["toy_potential/__init__.py"], EXAMPLE["toy_potential/copper.json"]
PROJECT = tomllib.loads(EXAMPLE["pyproject.toml"])["project"]
(ENTRY_POINT,) = (f"{k} = {v}" for k, v in PROJECT["entry-points"]["hpcbench.potentials"].items())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed in."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name in ("toy_potential", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield folder
    for name in ("toy_potential", "other"):
        sys.modules.pop(name, None)


def install(site: Path, module: str, source: str, entry_point: str) -> None:
    """Put a package where pip puts it."""
    (site / module).mkdir()
    (site / module / "__init__.py").write_text(source)
    (site / module / "copper.json").write_text(PARAMETERS)
    name, version = module.replace("_", "-"), PROJECT["version"]
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[hpcbench.potentials]\n{entry_point}\n")
    importlib.invalidate_caches()
    catalogue._offered_on.cache_clear()


@pytest.fixture
def toy(site: Path) -> Path:
    install(site, "toy_potential", ENTRY, ENTRY_POINT)
    return site


def test_a_potential_of_a_package_runs_as_one_of_ours(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = weights.sha256_of(toy / "toy_potential" / "copper.json")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "+ toy-lj                 Lennard-Jones for copper" in out
    assert "float64, one by one, licence MIT" in out
    write("copper.cif", bulk("Cu", "fcc", a=3.5))
    words = ["run", "copper.cif", "--out", "toy.h5", "--model", "toy-lj"]
    quick = ["--dtype", "float64", "--mesh", "4", "4", "4", "--no-report", "--workers", "0"]
    assert main([*words, *quick, "--supercell", "2", "2", "2"]) == 0
    store = hpcbench.open("toy.h5")
    assert list(store.table["status"]) == ["done"]
    assert (store.settings["model"], store.settings["weights_sha256"]) == ("toy-lj", digest)
    provenance = json.loads(store.table["provenance"].iloc[0])
    assert (provenance["potential"], provenance["toy-potential"]) == ("toy-lj", "1.4")
    assert provenance["weights_sha256"] == digest
    # What is compared between ranks.
    assert _packages("toy-lj") == (PROJECT["name"],)
    # It does not know any other element.
    write("silver.cif", bulk("Ag", "fcc", a=4.0))
    words = ["run", "silver.cif", "--out", "silver.h5", "--model", "toy-lj"]
    assert main([*words, *quick]) == 1
    assert "does not know Ag" in hpcbench.open("silver.h5").table["reason"].iloc[0]
    capsys.readouterr()
    # Other parameters are another potential.
    (toy / "toy_potential" / "copper.json").write_text(PARAMETERS.replace("0.4", "0.5"))
    words = ["run", "copper.cif", "--out", "toy.h5", "--model", "toy-lj"]
    assert main([*words, *quick, "--supercell", "2", "2", "2"]) == 2
    assert "weights_sha256" in capsys.readouterr().err


def test_a_potential_of_a_package_keeps_to_its_entry(toy: Path) -> None:
    with pytest.raises(
        PotentialError,
        match=r"float64 only: give --dtype float64 .* for mattersim",
    ):
        load_potential("toy-lj", dtype="float32")
    with pytest.raises(ModelError, match=r"did you mean toy-lj\? known are .*, toy-lj, a Matt"):
        load_potential("toy-jl")
    potential = load_potential("toy-lj", dtype="float64")
    assert potential.info.elements == {29}
    assert "toy_potential" in sys.modules


def test_our_own_potentials_ask_for_no_package(toy: Path) -> None:
    load_potential("mattersim-demo", max_edges=1000)
    assert "toy_potential" not in sys.modules


@pytest.mark.parametrize(
    ("source", "entry", "words"),
    [
        ("raise RuntimeError('no licence')", "toy-lj = toy_potential:TOY", "RuntimeError: no lic"),
        ("TOY = 3", "toy-lj = toy_potential:TOY", "no PotentialSpec but a int"),
        (ENTRY, "toy-jl = toy_potential:TOY", "has another name, 'toy-lj'"),
        (ENTRY, "chgnet = toy_potential:TOY", "hpcbench has a potential of that name"),
        (ENTRY.replace("toy-lj", "toy lj"), "toy lj = toy_potential:TOY", "letters, digits"),
        (ENTRY.replace("toy_potential:load", "toy_potential:lost"), ENTRY_POINT, "could not be"),
        (ENTRY + "\nimport nothing_at_all", ENTRY_POINT, "No module named 'nothing_at_all'"),
        (ENTRY.replace("import json", "import nothing_at_all"), ENTRY_POINT, "could not be loaded"),
        (ENTRY.replace("return calc", "calc"), ENTRY_POINT, "made no potential but None"),
        (ENTRY.replace("LennardJones(**parameters)", "3"), ENTRY_POINT, "no ASE calculator but 3"),
    ],
)
def test_a_broken_entry_is_one_sentence_and_breaks_nothing_else(
    source: str, entry: str, words: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "toy_potential", source, entry)
    name = entry.partition(" = ")[0]
    line = next(line for line in reversed(listed_potentials()) if line.name == name)
    if line.available:
        with pytest.raises(PotentialError, match=words):
            load_potential(name, dtype="float64")
    else:
        assert words in line.state
    if name not in BUILT_IN:
        with pytest.raises(PotentialError):
            load_potential(name, dtype="float64")
    assert main(["models"]) == 0
    assert "+ mattersim-demo" in capsys.readouterr().out


def test_two_packages_with_one_name_are_told(toy: Path) -> None:
    install(toy, "other", ENTRY, "toy-lj = other:TOY")
    with pytest.raises(ModelError, match=r"toy_potential:TOY .* which of them is meant"):
        load_potential("toy-lj")


CALLABLES = """
from ase.calculators.emt import EMT
given = {}
def both(device, *, dtype="single"):
    given.update(device=device, dtype=dtype)
    return EMT()
def one(dtype):
    given.update(dtype=dtype)
    return EMT()
def nothing(**keywords):
    given.update(keywords)
    return EMT()
def by_place(device, /):
    return EMT()
def more(device, path):
    return EMT()
"""


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("both", {"device": "cpu", "dtype": "float64"}),
        ("one", {"dtype": "float64"}),
        ("nothing", {}),
    ],
)
def test_a_callable_is_given_device_and_dtype_if_it_takes_them(
    name: str, given: dict[str, str], site: Path
) -> None:
    (site / "other.py").write_text(CALLABLES)
    potential = load_potential(f"other:{name}", dtype="float64")
    assert sys.modules["other"].given == given
    assert (potential.info.dtype, potential.info.package) == ("float64", "other")
    assert not has_both_precisions(f"other:{name}")


@pytest.mark.parametrize("name", ["by_place", "more"])
def test_a_callable_that_needs_anything_else_is_refused(name: str, site: Path) -> None:
    (site / "other.py").write_text(CALLABLES)
    with pytest.raises(ModelError, match="it needs arguments"):
        load_potential(f"other:{name}")


PUBLISHED = ("mattersim-v1", "nequix", "m3gnet", "tensornet")
"""Names of potentials whose weights are not here."""


@pytest.mark.filterwarnings("ignore:No tensor product accelerator")  # SevenNet's own
@pytest.mark.parametrize("name", [name for name in BUILT_IN if not name.startswith(PUBLISHED)])
def test_the_table_says_what_a_loaded_potential_is(name: str) -> None:
    spec = BUILT_IN[name]
    pytest.importorskip(spec.distribution)
    potential = load_potential(name, dtype=spec.precisions[-1])
    info = potential.info
    assert (info.name, info.package) == (name, spec.distribution)
    assert spec.response == (info.responds or info.differentiable)
    assert spec.batched == (not isinstance(potential, OneByOne))
    assert spec.elements is None or spec.elements == info.elements
    assert info.weights_sha256 == spec.weights.sha256 == weights_sha256(name)


def test_weights_that_a_name_does_not_stand_for_are_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("toy-lj")
    other = PackagedWeights("toy_potential", "copper.json", "0" * 64)
    object.__setattr__(spec, "weights", other)
    with pytest.raises(PotentialError, match=r"not those that this name .* 0000000000000000"):
        load_potential("toy-lj", dtype="float64")
    with pytest.raises(PotentialError, match="Install a release of toy-potential"):
        weights_sha256("toy-lj")


def test_a_package_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sevenn", None)
    with pytest.raises(PotentialError, match=r"sevennet-0 needs its package: .* setup sevennet"):
        load_potential("sevennet-0")
    assert isinstance(spec_of("sevennet-0"), PotentialSpec)
    line = next(line for line in listed_potentials() if line.name == "sevennet-0")
    assert (line.available, line.state) == (False, "./launch.sh setup sevennet")
