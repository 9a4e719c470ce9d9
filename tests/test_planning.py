"""Test predicted costs: counting, fitting to measured ones, storing, and showing them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from hpcbench.cli import main
from hpcbench.crystal import Crystal
from hpcbench.curation.validation import examine
from hpcbench.errors import HpcbenchError
from hpcbench.events import ProgressReader
from hpcbench.phonons.supercells import displace, supercell_of
from hpcbench.planning import costs
from hpcbench.planning.calibration import accuracy, learn, listed_costs, taken
from hpcbench.planning.costs import (
    CostModel,
    Work,
    fit,
    guess,
    keep_cost_model,
    kind_of,
    load_cost_model,
    predict_work,
)
from hpcbench.planning.displacements import count
from hpcbench.planning.prediction import span
from hpcbench.planning.prefetch_limit import most_seconds_held
from hpcbench.potentials.catalogue import BUILT_IN
from hpcbench.relaxation.symmetry import idealise
from hpcbench.store.reader import Store

EMT = "ase.calculators.emt:EMT"
TWO = np.diag([2, 2, 2])
SUPERCELLS = (TWO, np.diag([1, 2, 3]), np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def phonopys_count(atoms: Atoms, matrix: np.ndarray) -> int:
    with warnings.catch_warnings():
        # Some of these supercells have less symmetry than their crystals: phonopy says so.
        warnings.simplefilter("ignore", UserWarning)
        phonon = displace(
            atoms, supercell_matrix=matrix, primitive_matrix="auto", displacement=0.01, symprec=1e-5
        )
    return len(phonon.dataset["first_atoms"])


def crystals() -> Iterator[Atoms]:
    yield bulk("Cu")
    yield bulk("Cu", cubic=True)
    yield bulk("Si")
    yield bulk("Mg")
    yield bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    yield bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    yield Atoms("SrTiO3", [(0, 0, 0), (2, 2, 2), (2, 2, 0), (2, 0, 2), (0, 2, 2)], cell=[4] * 3)
    tetragonal = Atoms("TiO2", [(0, 0, 0), (1.4, 1.4, 0), (0.9, 2.3, 1.5)], cell=[4.6, 4.6, 3.0])
    yield tetragonal
    rattled = bulk("Si", cubic=True)
    rattled.rattle(0.2, seed=1)
    yield rattled


@pytest.mark.parametrize("matrix", SUPERCELLS, ids=["2x2x2", "1x2x3", "body-centred"])
@pytest.mark.parametrize("atoms", list(crystals()), ids=lambda atoms: str(atoms.symbols))
def test_displaced_supercells_are_counted_as_phonopy_does(atoms: Atoms, matrix: np.ndarray) -> None:
    atoms.pbc = True
    assert count(Crystal.from_ase(atoms), matrix, 1e-5).copies == phonopys_count(atoms, matrix)


@pytest.mark.parametrize(
    ("atoms", "freedom"),
    [
        (bulk("Cu"), 1),  # the lattice constant
        (bulk("Mg"), 2),  # a and c
        (bulk("ZnO", "wurtzite", a=3.25, c=5.2), 4),  # a, c, and both atoms along c
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 1),
    ],
)
def test_free_parameters_are_those_that_symmetry_leaves(atoms: Atoms, freedom: int) -> None:
    assert count(Crystal.from_ase(atoms), TWO, 1e-5).freedom == freedom


def test_a_crystal_without_symmetry_is_free_in_everything() -> None:
    atoms = Atoms("LiHBeCN", np.random.default_rng(0).random((5, 3)) * 4, cell=[3.9, 4.6, 5.3])
    atoms.cell[1, 0], atoms.cell[2, 1] = 0.4, 0.7
    counts = count(Crystal.from_ase(atoms), TWO, 1e-5)
    assert (counts.copies, counts.freedom) == (6 * 5, 3 * 5 + 6)


@pytest.mark.reference
def test_counts_of_generated_crystals(reference_data: Path) -> None:
    right = total = 0
    for atoms in read(reference_data / "generated" / "mix-1000.extxyz", index="::10"):
        crystal = Crystal.from_ase(atoms)
        try:
            examine(crystal)
        except HpcbenchError:
            continue
        ideal = idealise(atoms, 0.01).atoms
        total += 1
        right += count(crystal, TWO, 0.01).copies == phonopys_count(ideal, TWO)
    assert total > 80
    assert right >= 0.97 * total


def test_work_follows_size_symmetry_and_what_is_relaxed() -> None:
    diamond = Crystal.from_ase(bulk("Si"))
    atoms = bulk("Si", cubic=True)
    conventional = Crystal.from_ase(atoms)
    atoms.rattle(0.2, seed=1)
    rattled = Crystal.from_ase(atoms)
    small, large, low = (predict_work(c, TWO, 0.01) for c in (diamond, conventional, rattled))
    assert (small.copies, small.supercell_atoms) == (1, 16)
    assert (large.copies, large.supercell_atoms) == (1, 64)
    assert large.forces == pytest.approx(4 * small.forces)
    # With two more each, which tell the noise.
    assert low.copies == 48 and low.forces == pytest.approx(50 / 3 * large.forces)
    assert low.relaxation > 2 * large.relaxation > 4 * small.relaxation
    fixed = predict_work(diamond, TWO, 0.01, relax="none")
    assert fixed.forces == small.forces and fixed.relaxation < 0.1 * small.relaxation


def test_a_supercell_is_the_settings_or_the_sources() -> None:
    crystal = Crystal.from_ase(bulk("Si"))
    assert np.array_equal(supercell_of(crystal, (1, 2, 3)), np.diag([1, 2, 3]))
    assert np.array_equal(supercell_of(crystal, "source"), np.eye(3))
    asks = Crystal.from_arrays("Si", (), crystal.cell, crystal.positions, crystal.numbers, TWO)
    assert np.array_equal(supercell_of(asks, "source"), TWO)


# ---------------------------------------------------------------- rates

TRUE = CostModel(2e-6, 5e-7, 0.1, 2e-6, 1.0)


def some_works(number: int) -> list[Work]:
    rng = np.random.default_rng(0)
    relaxation = rng.lognormal(np.log(2e5), 1.0, number)
    forces = rng.lognormal(np.log(5e5), 1.5, number)
    atoms = rng.integers(8, 160, number)
    return [
        Work(float(a), float(b), 10, int(c)) for a, b, c in zip(relaxation, forces, atoms, strict=1)
    ]


def test_rates_are_found_again_from_noisy_seconds() -> None:
    works = some_works(400)
    rng = np.random.default_rng(1)
    seconds = np.array([TRUE.seconds(work) for work in works]) * rng.lognormal(0.0, 0.3, 400)
    seconds[:4] *= 100  # a stuck file system
    model = fit(works, seconds)
    predicted = np.array([model.seconds(work) for work in works])
    assert predicted.sum() == pytest.approx(seconds.sum())
    scale = seconds.sum() / sum(TRUE.seconds(work) for work in works)
    assert model.forces == pytest.approx(scale * TRUE.forces, rel=0.15)
    assert model.relaxation == pytest.approx(scale * TRUE.relaxation, rel=0.25)
    assert 1.2 < model.spread < 2.0
    assert model.crystals == 400 and model.measured


def test_crystals_that_are_all_alike_scale_the_guess() -> None:
    work = Work(1e5, 1e5, 5, 64)
    model = fit([work] * 12, np.full(12, 7.0))
    assert model.seconds(work) == pytest.approx(7.0)
    assert model.relaxation == pytest.approx(model.forces)


def test_measured_rates_are_kept_by_potential_precision_and_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = CostModel(1e-6, 1e-6, 0.1, 0.0, 1.4, 50, "here")
    keep_cost_model("m", "abc", "float32", "cpu", measured)
    assert load_cost_model("m", "abc", "float32", "cpu") == measured
    for other in (
        ("n", "abc", "float32", "cpu"),
        ("m", "abd", "float32", "cpu"),
        ("m", "abc", "float64", "cpu"),
        ("m", "abc", "float32", "cuda:0"),
    ):
        assert not load_cost_model(*other).measured
    # Weights are the same wherever they lie; and those of another GPU are better than a guess.
    assert load_cost_model("/folder/m", "abc", "float32", "cpu") == measured
    monkeypatch.setattr(costs, "device_name", lambda kind: "GPU of another node")
    keep_cost_model("m", "abc", "float32", "cuda:0", measured)
    monkeypatch.setattr(costs, "device_name", lambda kind: "GPU of this node")
    assert load_cost_model("m", "abc", "float32", "cuda") == measured
    here = CostModel(2e-6, 1e-6, 0.1, 0.0, 1.4, 50, "this node")
    keep_cost_model("m", "abc", "float32", "cuda:1", here)
    monkeypatch.setattr(costs, "device_name", lambda kind: "GPU of another node")
    keep_cost_model("m", "abc", "float32", "cuda:0", measured)
    monkeypatch.setattr(costs, "device_name", lambda kind: "GPU of this node")
    assert load_cost_model("m", "abc", "float32", "cuda") == here


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[]", '{"m |  | float32": 3}', '{"m |  | float32": {"x": {"kind": "cpu"}}}'],
)
def test_a_spoilt_file_of_rates_is_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cache" / "hpcbench" / "rates.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert load_cost_model("m", "", "float32", "cpu") == guess("m", "cpu")
    keep_cost_model("m", "", "float32", "cpu", TRUE)
    assert load_cost_model("m", "", "float32", "cpu") == TRUE


def test_rates_that_cannot_be_kept_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_cost_model("m", "", "float32", "cpu", TRUE)
    assert load_cost_model("m", "", "float32", "cpu") == guess("m", "cpu")


def test_auto_is_a_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "GPUS", tmp_path / "gpus")
    assert kind_of("auto") == "cpu"
    information = tmp_path / "gpus" / "0000:01:00.0" / "information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    assert kind_of("auto") == "cuda"
    assert costs.device_name("cuda") == "NVIDIA H100 80GB HBM3"
    assert (kind_of("cuda:3"), kind_of("cpu")) == ("cuda", "cpu")
    assert guess("m", "cuda").forces < guess("m", "cpu").forces


# ---------------------------------------------------------------- how much a rank holds


def test_a_rank_holds_less_and_less_but_never_too_little() -> None:
    assert most_seconds_held(1e6, 1, 600.0) == 300.0
    assert most_seconds_held(0.0, 1, 600.0) == 300.0  # nobody is waiting for it
    assert most_seconds_held(1e6, 10, 600.0) == 300.0
    assert most_seconds_held(4000.0, 10, 600.0) == 100.0
    assert most_seconds_held(4.0, 10, 600.0) == 10.0
    assert most_seconds_held(4000.0, 10, 12.0) == 6.0


# ---------------------------------------------------------------- plan


def test_wall_times_follow_the_blocks() -> None:
    seconds = np.random.default_rng(0).lognormal(3.0, 1.0, 500)
    alone, eight = (span(seconds, ranks, 0, 1.25) for ranks in (1, 8))
    assert alone.seconds == pytest.approx(seconds.sum()) and alone.busy == pytest.approx(1.0)
    assert seconds.sum() / 8 <= eight.seconds < 1.15 * seconds.sum() / 8
    assert eight.busy == pytest.approx(seconds.sum() / 8 / eight.seconds)
    assert eight.walltime % 600 == 0
    assert 1.25 * eight.seconds < eight.walltime < 1.25 * eight.seconds + 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    rng = np.random.default_rng(0)
    atoms = []
    for number in range(15):
        one = bulk(["Cu", "Al", "Ni", "Au", "Ag"][number % 5], cubic=bool(number % 2))
        one.set_cell(one.cell * (1 + 0.02 * rng.random()), scale_atoms=True)
        atoms.append(one)
    write("metals.extxyz", atoms)
    write("overlap.cif", Atoms("Cu2", [(0, 0, 0), (0.1, 0, 0)], cell=[4] * 3, pbc=True))
    return tmp_path


RUN = ["--model", EMT, "--dtype", "float64", "--mesh", "4", "4", "4", "--device", "cpu"]
RUN += ["--workers", "0", "--supercell", "2", "2", "2"]


def test_plan_says_what_is_to_be_computed_and_how_long_it_takes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["metals.extxyz", "overlap.cif", *RUN]
    assert main(["plan", *words]) == 0
    out = capsys.readouterr().out
    for text in (
        "16 crystals: 15 to compute, 1 set aside (overlap 1)",
        "nothing measured yet",
        "rank-hours",
        "1,024",
        "00:10:00",
        "most expensive",
    ):
        assert text in out
    assert main(["plan", *words, "--json", "--ranks", "2", "3"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [entry["ranks"] for entry in plan["ranks"]] == [2, 3]
    total = plan["rank_seconds"]
    assert 0 < total["at_least"] < total["predicted"] < total["at_most"]
    assert plan["ranks"][1]["seconds"] <= plan["ranks"][0]["seconds"]
    assert (plan["to_compute"], plan["set_aside"]) == (15, {"overlap": 1})
    assert plan["store_bytes"] > 0 and not plan["rates"]["measured"]
    assert not (folder / "store.h5.run").exists()


def test_plan_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom hpcbench.cli import main\n"
        "main(['plan', 'metals.extxyz', '--model', 'mattersim-v1.0.0-5M'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert b"MB" in result.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [(["nowhere"], "nowhere"), (["metals.extxyz", "--model", "mattersm"], "did you mean")],
)
def test_plan_refuses_what_run_refuses(
    folder: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) in (2, 3)
    assert text in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "metals.extxyz", "--ranks", "0"])


def test_a_run_teaches_the_next_prediction(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["metals.extxyz", *RUN, "--out", "s.h5"]
    assert main(["run", *words, "--no-report"]) == 0
    store = Store("s.h5")
    progress = ProgressReader(store.folder.events).read()
    what = taken(store, progress)
    assert what is not None
    assert len(what.ids) == 15
    assert what.wall > 0 and what.seconds.sum() == pytest.approx(what.wall)
    assert what.seconds.min() > 0
    model = learn(store, progress)
    assert model is not None and model.crystals == 15
    capsys.readouterr()
    assert load_cost_model(EMT, "", "float64", "cpu") == model

    # The same crystals are predicted to take what they took, and the prediction says why.
    assert main(["plan", *words[:-1], "other.h5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rank_seconds"]["predicted"] == pytest.approx(what.wall, rel=1e-6)
    assert plan["rates"]["measured"]
    # What the store has needs no time.
    assert main(["plan", *words]) == 0
    assert "15 crystals: 0 to compute, 15 in s.h5 already" in capsys.readouterr().out

    costs_of_list = listed_costs(store.folder)
    assert costs_of_list.keys() == set(what.ids)
    twice = {key: 2 * seconds for key, seconds in zip(what.ids, what.seconds, strict=True)}
    found = accuracy(what, twice)
    assert found is not None
    assert found.predicted == pytest.approx(2 * found.actual)
    assert found.spread == pytest.approx(1.0)
    assert accuracy(what, {}) is None


def test_rates_of_many_crystals_are_not_given_up_for_those_of_few(folder: Path) -> None:
    words = ["metals.extxyz", *RUN, "--out", "s.h5"]
    assert main(["run", *words, "--no-report"]) == 0
    store = Store("s.h5")
    progress = ProgressReader(store.folder.events).read()
    many = CostModel(1e-6, 1e-6, 0.1, 0.0, 1.4, 500, "here")
    keep_cost_model(EMT, "", "float64", "cpu", many)
    assert learn(store, progress) is None
    assert load_cost_model(EMT, "", "float64", "cpu") == many


def test_edges_of_a_longer_cutoff_are_more_work() -> None:
    spec = BUILT_IN["nequix-oam-1"]
    assert spec.edges_per_second is not None
    # Work is counted within 5 A; Nequix has 1.728 times as many within its 6 A.
    assert guess("nequix-oam-1", "cpu").forces == pytest.approx(1.728 / spec.edges_per_second)
