"""Training sets: perturbed supercells by Lee and Xia's recipe, labelled, split by composition."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.geometry import get_distances
from ase.io import read
from scipy.stats import kstest

import hpcbench
from hpcbench.cells import heights
from hpcbench.cli import main
from hpcbench.errors import SourceError, StoreError, StoreMismatchError, UsageError
from hpcbench.interop.exporting import export, export_training_set
from hpcbench.interop.training_recipe import PARTS, Recipe
from hpcbench.interop.training_set import TABLE, write_training_set
from hpcbench.interop.training_split import composition_of, deal, split_of
from hpcbench.outputs import SETTINGS_FILE, TRAINING_FILE
from hpcbench.phonons.perturbed import multiples_of_atoms
from hpcbench.potentials.ase_calculator import PotentialCalculator
from hpcbench.potentials.registry import load_potential
from hpcbench.sources import find_sources
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder

QUICK: dict[str, Any] = {
    "mesh": (4, 4, 4), "band_points": 11, "supercell": (2, 2, 2), "workers": 0,
}  # fmt: skip
SMALL = Recipe(per_crystal=2, atoms=(16, 40), split=(0.6, 0.2, 0.2))


def l12(corner: str, face: str, a: float) -> Atoms:
    places = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms([corner, face, face, face], scaled_positions=places, cell=[a] * 3, pbc=True)


def l10(one: str, other: str, a: float) -> Atoms:
    cell = [a / 2**0.5, a / 2**0.5, a]
    return Atoms([one, other], scaled_positions=[(0, 0, 0), (0.5,) * 3], cell=cell, pbc=True)


def alloys() -> list[Atoms]:
    """Aluminium and copper; some twice in other cells, and two phases of one composition."""
    crystals = {
        "Al": bulk("Al"),
        "Al cell": bulk("Al", cubic=True),
        "Cu": bulk("Cu"),
        "Cu bcc": bulk("Cu", "bcc", a=2.87),
        "Al3Cu": l12("Cu", "Al", 3.9),
        "AlCu3": l12("Al", "Cu", 3.7),
        "AlCu": l10("Al", "Cu", 3.8),
        "=AlCu": bulk("AlCu", "cesiumchloride", a=3.0),
    }
    for name, atoms in crystals.items():
        atoms.info["name"] = name
    return list(crystals.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("training") / "s.h5"
    crystals = [*alloys(), bulk("Si")]
    hpcbench.run(crystals, model="ase.calculators.emt:EMT", out=path, dtype="float64", **QUICK)
    opened = Store(path)
    assert dict(opened.table["status"].value_counts()) == {"done": 8, "failed": 1}
    return opened


@pytest.fixture(scope="module")
def default(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "set"
    assert export(store, "training", folder) == 7
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the batched demo potential in single precision."""
    path = tmp_path_factory.mktemp("training") / "demo.h5"
    crystals = [bulk("Cu"), bulk("Si"), bulk("MgO", "rocksalt", a=4.25)]
    hpcbench.run(crystals, model="mattersim-demo", out=path, fmax=0.005, **QUICK)
    return Store(path)


def frames(folder: Path, part: str = "") -> list[Atoms]:
    paths = [folder / f"{name}.extxyz" for name in ([part] if part else PARTS)]
    return [atoms for path in paths if path.exists() for atoms in read(path, ":")]


def lines(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / TABLE).read_text().splitlines()))


def lengths(atoms: Atoms, store: Store) -> np.ndarray:
    """Displacements from the nearest ideal sites of the same element, each taken once."""
    row = store.row(atoms.info["id"])
    cell = Atoms(row["numbers"], row["relaxed_positions"], cell=row["relaxed_cell"], pbc=True)
    times = np.rint(atoms.cell.lengths() / cell.cell.lengths()).astype(int)
    ideal = cell.repeat(times)
    np.testing.assert_allclose(ideal.cell, atoms.cell, atol=1e-12)
    distances = get_distances(atoms.positions, ideal.positions, atoms.cell, True)[1]
    nearest = distances.argmin(axis=1)
    assert sorted(nearest) == list(range(len(ideal)))
    np.testing.assert_array_equal(ideal.numbers[nearest], atoms.numbers)
    return distances.min(axis=1)


def test_supercells_are_those_of_the_recipe(store: Store, default: Path) -> None:
    """Six of each crystal, of 100 to 200 atoms, all atoms displaced by 0.01 to 0.05 A."""
    found = frames(default)
    assert set(Counter(atoms.info["id"] for atoms in found).values()) == {6}
    assert all(100 <= len(atoms) <= 200 for atoms in found)
    every = np.concatenate([lengths(atoms, store) for atoms in found])
    assert every.min() >= 0.01 - 1e-7 and every.max() <= 0.05 + 1e-7
    # The lengths are uniform, and no supercell occurs twice.
    assert kstest(every, "uniform", args=(0.01, 0.04)).pvalue > 1e-3
    assert len({atoms.positions.tobytes() for atoms in found}) == len(found)


def test_directions_are_uniform(store: Store, default: Path) -> None:
    """A sphere's points have uniform heights along any axis (Archimedes)."""
    found = [atoms for atoms in frames(default) if atoms.info["name"] == "AlCu"]
    row = store.row(found[0].info["id"])
    cell = Atoms(row["numbers"], row["relaxed_positions"], cell=row["relaxed_cell"], pbc=True)
    ideal = cell.repeat(np.rint(found[0].cell.lengths() / cell.cell.lengths()).astype(int))
    unit = []
    for atoms in found:
        vectors, distances = get_distances(atoms.positions, ideal.positions, atoms.cell, True)
        index = distances.argmin(axis=1)
        unit += [-vectors[i, j] / distances[i, j] for i, j in enumerate(index)]
    for axis in ((1, 0, 0), (0, 0, 1), (0.6, 0.8, 0)):
        assert kstest(np.array(unit) @ axis, "uniform", args=(-1, 2)).pvalue > 1e-3


def test_labels_are_those_of_the_calculator(store: Store, default: Path) -> None:
    for atoms in frames(default)[::5]:
        given = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        again = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        again.calc = EMT()
        assert given[0] == pytest.approx(again.get_potential_energy(), abs=1e-9)
        # Eight decimals are written.
        np.testing.assert_allclose(given[1], again.get_forces(), atol=1e-8)
        np.testing.assert_allclose(given[2], again.get_stress(voigt=False), atol=1e-12)
        assert np.abs(given[1]).max() > 0.05


def test_labels_of_batches_are_those_of_single_structures(demo: Store, tmp_path: Path) -> None:
    """By the demo potential in one pass, and alone as an ASE calculator, in double precision."""
    export_training_set(demo, tmp_path / "set", SMALL)
    double = PotentialCalculator(load_potential("mattersim-demo", dtype="float64"))
    found = frames(tmp_path / "set")
    assert len({len(atoms) for atoms in found}) > 1
    for atoms in found:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress()
        atoms.calc = double
        assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-5)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=5e-5)
        np.testing.assert_allclose(stress, atoms.get_stress(), atol=5e-6)


def test_mace_finds_the_labels_under_its_names(default: Path) -> None:
    """``mace.tools.default_keys``; energy and stress in ``info``, forces in ``arrays``."""
    for atoms in frames(default)[::7]:
        assert atoms.info["REF_energy"] == atoms.get_potential_energy()
        np.testing.assert_array_equal(atoms.arrays["REF_forces"], atoms.get_forces())
        # Nine numbers, which MACE makes a matrix of.
        stress = atoms.get_stress(voigt=False)
        np.testing.assert_array_equal(atoms.info["REF_stress"], stress.ravel())


def test_no_composition_is_in_two_parts(default: Path, store: Store) -> None:
    parts: dict[str, set[str]] = {part: set() for part in PARTS}
    for part in PARTS:
        for atoms in frames(default, part):
            # The reduced formula, by ASE.
            parts[part].add(atoms.symbols.formula.reduce()[0].format("hill"))
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 5
    # Both phases of AlCu and of Cu went the same way.
    together = Counter((line["composition"], line["part"]) for line in lines(default))
    assert (
        together["AlCu", "train"] + together["AlCu", "test"] + together["AlCu", "validation"] == 2
    )
    about = json.loads((default / TRAINING_FILE).read_text())
    for part in PARTS:
        found = frames(default, part)
        assert about["supercells"][part] == len(found)
        assert about["crystals"][part] == len({atoms.info["id"] for atoms in found})


def test_a_crystal_is_in_the_set_once(default: Path, store: Store) -> None:
    """Relaxed copper in two cells is one crystal; bcc copper is another."""
    left_out = [line for line in lines(default) if not line["part"]]
    assert len(left_out) == 1 and left_out[0]["name"] in ("Al", "Al cell")
    (other,) = (line for line in lines(default) if line["composition"] == "Al" and line["part"])
    assert left_out[0]["reason"] == f"duplicate: the same crystal as {other['id']}"
    assert json.loads((default / TRAINING_FILE).read_text())["left_out"] == 1
    # Names are no formulas for spreadsheets.
    assert "'=AlCu" in {line["name"] for line in lines(default)}


def test_random_numbers_follow_from_seed_and_crystal(store: Store, tmp_path: Path) -> None:
    def of(name: str, some: Store, recipe: Recipe) -> dict[tuple[str, int], np.ndarray]:
        export_training_set(some, tmp_path / name, recipe)
        return {
            (atoms.info["id"], atoms.info["perturbation"]): atoms.positions
            for atoms in frames(tmp_path / name)
        }

    first = of("first", store, SMALL)
    for name in (TABLE, TRAINING_FILE, *(f"{part}.extxyz" for part in PARTS)):
        assert (tmp_path / "first" / name).exists()
    again = of("again", store, SMALL)
    for name in (TABLE, TRAINING_FILE, *(f"{part}.extxyz" for part in PARTS)):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert first.keys() == again.keys()
    larger = of("larger", store, Recipe(3, (0.01, 0.05), (16, 40), 0, (0.6, 0.2, 0.2)))
    alone = of("alone", store[[store.find("Cu bcc")]], SMALL)
    assert len(larger) == 3 * len(first) / 2 and len(alone) == 2
    for some in (first, alone):
        for key, positions in some.items():
            np.testing.assert_array_equal(positions, larger[key])
    other = of("other", store, Recipe(2, (0.01, 0.05), (16, 40), 1, (0.6, 0.2, 0.2)))
    assert not any(np.array_equal(first[key], other[key]) for key in first)


def test_vasp_and_frames_without_labels_are_the_same_supercells(
    store: Store, tmp_path: Path
) -> None:
    from pymatgen.io.vasp import Poscar

    for kind in ("vasp", "extxyz"):
        words = ["export", str(store.path), "--format", "training", "--unlabelled", kind]
        words += ["--per-crystal", "2", "--atoms", "16", "40", "-o", str(tmp_path / kind)]
        assert main(words) == 0
    number = 0
    for part in PARTS:
        for atoms in frames(tmp_path / "extxyz", part):
            assert atoms.calc is None and not {"REF_energy", "REF_stress"} & atoms.info.keys()
            (folder,) = (tmp_path / "vasp" / part).glob(f"*-{atoms.info['id']}")
            path = folder / str(atoms.info["perturbation"]) / "POSCAR"
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                poscar = Poscar.from_file(path, check_for_potcar=False)
            # Each element has its own POTCAR once.
            assert len(poscar.site_symbols) == len(set(poscar.site_symbols))
            np.testing.assert_array_equal(poscar.structure.atomic_numbers, atoms.numbers)
            np.testing.assert_allclose(poscar.structure.cart_coords, atoms.positions, atol=1e-8)
            np.testing.assert_allclose(poscar.structure.lattice.matrix, atoms.cell, atol=1e-12)
            number += 1
    assert number == 14 == len(list((tmp_path / "vasp").rglob("POSCAR")))
    assert lines(tmp_path / "vasp") == lines(tmp_path / "extxyz")
    # A search for crystals leaves them out.
    with pytest.raises(SourceError, match="6 exports of hpcbench"):
        find_sources([str(tmp_path)])


class Talks(EMT):
    def calculate(self, *words: Any) -> None:
        print("computing")
        super().calculate(*words)


def test_what_potentials_print_is_not_among_the_results(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("ase.calculators.emt.EMT", Talks)
    words = ["export", str(store.path), "--format", "training", "--id", "AlCu", "=AlCu"]
    words += ["--per-crystal", "2", "--atoms", "16", "40", "-o", str(tmp_path / "set")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "computing" in said.err
    assert said.out == (
        f"{tmp_path / 'set'}: train 2 crystals and 4 supercells, validation 0 crystals and "
        f"0 supercells, test 0 crystals and 0 supercells: see crystals.csv\n"
    )


class Fails(EMT):
    """EMT without stresses, which fails where an atom is displaced to one side."""

    def get_stress(self, *words: Any) -> np.ndarray:
        raise NotImplementedError("no stress")

    def calculate(self, atoms: Atoms, *words: Any) -> None:
        if len(atoms) > 8 and atoms.numbers[0] == 29 and atoms.positions[0, 0] > 0:
            raise RuntimeError("to the right")
        super().calculate(atoms, *words)


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    crystals = [bulk("Cu"), bulk("Al")]
    hpcbench.run(
        crystals, model="ase.calculators.emt:EMT", out=tmp_path / "f.h5", relax="none", **QUICK
    )
    monkeypatch.setattr("ase.calculators.emt.EMT", Fails)
    return Store(tmp_path / "f.h5")


def test_a_potential_that_fails_is_a_reason(fails: Store, tmp_path: Path) -> None:
    recipe = Recipe(per_crystal=12, atoms=(16, 40))
    summary = export_training_set(fails, tmp_path / "set", recipe)
    copper, aluminium = sorted(lines(tmp_path / "set"), key=lambda line: line["name"] != "Cu")
    assert aluminium["supercells"] == "12" and not aluminium["reason"]
    assert 0 < int(copper["supercells"]) < 12
    assert copper["reason"] == (
        f"{12 - int(copper['supercells'])} supercells without labels: RuntimeError: to the right"
    )
    found = frames(tmp_path / "set")
    assert summary.supercells.total() == len(found) == 12 + int(copper["supercells"])
    assert all("stress" not in atoms.calc.results for atoms in found)
    assert all("REF_stress" not in atoms.info for atoms in found)


def test_crystals_without_a_supercell_have_their_reason(store: Store, tmp_path: Path) -> None:
    summary = export_training_set(store, tmp_path / "set", Recipe(1, atoms=(2, 3)))
    assert summary.left_out == 3
    reasons = {line["name"]: line["reason"] for line in lines(tmp_path / "set")}
    assert "has none of 2 to 3" in reasons["Al3Cu"] and not reasons["Cu"]
    with pytest.raises(StoreError, match="no crystal with phonons has a supercell of 7 to 7 atoms"):
        export_training_set(store[[store.find("Al3Cu")]], tmp_path / "none", Recipe(atoms=(7, 7)))
    assert not (tmp_path / "none").exists()


def test_rows_that_are_no_crystals_have_their_reason(store: Store, tmp_path: Path) -> None:
    path = Path(shutil.copy(store.path, tmp_path / "s.h5"))
    (cells,) = (at for at, field in store.schema.by_path().items() if field.name == "relaxed_cell")
    with h5py.File(path, "r+") as file:
        file[cells][store.ids.index(store.find("Al3Cu"))] = 0
    summary = export_training_set(Store(path), tmp_path / "set", SMALL)
    assert summary.crystals.total() == 6
    (line,) = (line for line in lines(tmp_path / "set") if line["name"] == "Al3Cu")
    assert "its cell has no volume" in line["reason"] and line["composition"] == "Al3Cu"


def test_crystals_that_are_finished_meanwhile_wait_for_the_next_set(
    store: Store, tmp_path: Path
) -> None:
    """They were compared with nothing, and their composition is in no part."""
    recipe = Recipe(1, (0.01, 0.05), (8, 20), 0, (0.6, 0.2, 0.2), "extxyz")
    some = store[[store.find(name) for name in ("Al", "AlCu", "Cu")]]
    summary = write_training_set(store, tmp_path, recipe, split_of(some, recipe), None)
    assert summary.crystals.total() == 3 and summary.left_out == 5
    reasons = {line["name"]: line["reason"] for line in lines(tmp_path)}
    assert reasons["Al cell"] == reasons["Al3Cu"] == "new: finished after the set was begun"


def test_no_part_of_an_earlier_set_is_left_and_nothing_of_others_is_removed(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "test.extxyz").write_text("mine")
    train_only = Recipe(1, (0.01, 0.05), (8, 20), 0, (1, 0, 0), "extxyz")
    export_training_set(store, tmp_path, train_only, force=True)
    assert (tmp_path / "test.extxyz").read_text() == "mine"
    every = Recipe(1, (0.01, 0.05), (8, 20), 0, (0.6, 0.2, 0.2), "extxyz")
    export_training_set(store, tmp_path, every, force=True)
    assert len(frames(tmp_path, "test")) > 0
    export_training_set(store, tmp_path, train_only, force=True)
    assert not (tmp_path / "test.extxyz").exists()


REFUSED: list[tuple[list[str], str]] = [
    (["--format", "csv", "--seed", "1"], "--seed is for --format training only, not for csv"),
    (["--per-crystal", "6"], "--per-crystal is for --format training only, not for csv"),
    (["--format", "forces", "--atoms", "1", "2"], "--atoms is for --format training only"),
    (["--format", "cif", "--unlabelled", "vasp"], "--unlabelled is for --format training only"),
    (["--format", "extxyz", "--split", "1", "0", "0"], "--split is for --format training only"),
    (["--format", "json", "--displacement", "0", "1"], "--displacement is for --format training"),
    (["--format", "training", "--per-crystal", "0"], "give at least 1"),
    (["--format", "training", "--displacement", "0", "0.05"], "above 0"),
    (["--format", "training", "--displacement", "0.05", "0.01"], "the shortest and the longest"),
    (["--format", "training", "--displacement", "0.01", "nan"], "the shortest and the longest"),
    (["--format", "training", "--displacement", "0.01", "inf"], "the shortest and the longest"),
    (["--format", "training", "--atoms", "200", "100"], "the fewest and the most"),
    (["--format", "training", "--atoms", "0", "100"], "the fewest and the most"),
    (["--format", "training", "--seed", "-1"], "give 0 or more"),
    (["--format", "training", "--split", "0.5", "0.5", "0.5"], "add up to 1"),
    (["--format", "training", "--split", "0", "0.5", "0.5"], "add up to 1"),
    (["--format", "training", "-o", "-"], "cannot go to standard output"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_wrong_use_is_refused(
    words: list[str],
    said: str,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(store.path), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(store.path, tmp_path / "s.h5"))
    shutil.copytree(RunFolder(store.path).path, RunFolder(path).path, symlinks=True)
    words = ["export", str(path), "--format", "training", "--per-crystal", "1"]
    words += ["--atoms", "8", "20", "--unlabelled", "vasp"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    places = [str(path), str(RunFolder(path).path), str(tmp_path / "mine"), str(tmp_path / "file")]
    for place in places:
        assert main([*words, "-o", place]) == 2
    assert main(words) == 0
    (done,) = (tmp_path / "s.h5-training").glob("train/Cu_bcc-*/1")
    (done / "OUTCAR").write_text("of a long computation")
    before = (done / "POSCAR").read_bytes()
    capsys.readouterr()
    # Also not over an earlier set: two sets would be mixed.
    assert main([*words, "--seed", "3"]) == 2
    assert "has files in it: give a new folder" in capsys.readouterr().err
    assert (done / "POSCAR").read_bytes() == before
    assert main([*words, "--force", "-o", str(RunFolder(path).path)]) == 2
    assert "is the run folder of a store" in capsys.readouterr().err
    assert main([*words, "--force", "-o", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_what_fails_leaves_no_half_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the third frame."""
    import ase.io

    count = itertools.count()

    def full(*words: Any, **more: Any) -> None:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        write(*words, **more)

    write = ase.io.write
    monkeypatch.setattr("ase.io.write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export_training_set(store, tmp_path / "set", SMALL)
    assert [path.name for path in (tmp_path / "set").iterdir()] == [SETTINGS_FILE]


def test_stores_that_have_no_potential_are_refused(
    store: Store, demo: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    export(store[[store.find("Cu bcc")]], "phonopy", tmp_path / "p")
    assert main(["import", str(tmp_path / "p"), "--out", str(tmp_path / "i.h5")]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    words = ["export", "i.h5", "--format", "training", "-o", "set"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "is an import, and has no potential: --unlabelled writes supercells without" in said
    assert not (tmp_path / "set").exists()
    assert main([*words, "--unlabelled", "extxyz"]) == 0

    def others(model: str) -> str:
        return "0" * 64

    monkeypatch.setattr("hpcbench.interop.training_labels.weights_sha256", others)
    with pytest.raises(StoreMismatchError, match="other weights of mattersim-demo"):
        export_training_set(demo, tmp_path / "other", SMALL)


def test_supercells_are_read_as_they_are_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more are made than fit into a pass, however many crystals there are."""
    from hpcbench.interop import training_set

    made, most = [0, 0], [0]
    write, supercells = training_set._Frames.write, training_set._supercells

    def counted(*words: Any) -> Iterator[Atoms]:
        for atoms in supercells(*words):
            made[0] += 1
            most[0] = max(most[0], made[0] - made[1])
            yield atoms

    def written(self: Any, one: Any) -> None:
        made[1] += len(one.supercells)
        write(self, one)

    monkeypatch.setattr(training_set, "_supercells", counted)
    monkeypatch.setattr(training_set._Frames, "write", written)
    export_training_set(store, tmp_path / "set", SMALL)
    assert made == [14, 14]
    # EMT takes one structure a pass: those of a crystal, and the next crystal's.
    assert most[0] <= 4


def brute(cell: np.ndarray, natoms: int, least: int, most: int) -> tuple[float, int] | None:
    """The largest lowest height, and the fewest cells that have it."""
    best = None
    number = range(1, most // natoms + 1)
    for times in itertools.product(number, repeat=3):
        cells = int(np.prod(times))
        if least <= cells * natoms <= most:
            lowest = float(heights(np.array(times)[:, None] * cell).min())
            if best is None or lowest > best[0] + 0.01:
                best = lowest, cells
            elif lowest > best[0] - 0.01:
                best = max(lowest, best[0]), min(cells, best[1])
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_supercell_is_the_highest_of_its_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    natoms = int(rng.integers(1, 40))
    cell = np.diag(rng.uniform(2.5, 7, 3)) + rng.normal(0, 0.5, (3, 3))
    positions = rng.uniform(size=(natoms, 3)) @ cell
    wanted = brute(cell, natoms, 40, 90)
    found = multiples_of_atoms(cell, positions, 40, 90)
    assert found is not None and wanted is not None
    assert heights(np.array(found)[:, None] * cell).min() == pytest.approx(wanted[0], abs=0.02)
    assert 40 <= np.prod(found) * natoms <= 90


def test_supercells_of_simple_cells() -> None:
    cubic, one, two = 3.0 * np.eye(3), np.zeros((1, 3)), np.array([[0.0] * 3, [1.5] * 3])
    assert multiples_of_atoms(cubic, one, 100, 200) == (5, 5, 5)
    assert multiples_of_atoms(cubic, two, 100, 200) == (4, 4, 4)
    assert multiples_of_atoms(np.diag([3.0, 3.0, 6.0]), two, 100, 200) == (5, 5, 3)
    # Not across a vacuum, and not a molecule.
    for axis in range(3):
        slab = np.full(3, 3.0)
        slab[axis] = 20.0
        times = [10, 10, 10]
        times[axis] = 1
        assert multiples_of_atoms(np.diag(slab), one, 100, 120) == tuple(times)
    assert multiples_of_atoms(20.0 * np.eye(3), one, 1, 200) == (1, 1, 1)
    assert multiples_of_atoms(20.0 * np.eye(3), one, 2, 200) is None
    assert multiples_of_atoms(cubic, two, 3, 3) is None
    assert multiples_of_atoms(cubic, np.zeros((201, 3)), 100, 200) is None


def test_compositions_are_dealt_out_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 5, 40, 1000):
        counts = {f"X{index}": int(rng.integers(1, 6)) for index in range(number)}
        for seed in range(3):
            parts = deal(counts, (0.8, 0.1, 0.1), seed)
            assert parts.keys() == counts.keys()
            sizes = Counter[str]()
            for composition, part in parts.items():
                sizes[part] += counts[composition]
            assert sizes["train"] > 0
            assert (sizes["test"] > 0) == (number > 1)
            assert (sizes["validation"] > 0) == (number > 2)
            if number >= 40:
                for part in PARTS[1:]:
                    assert abs(sizes[part] - 0.1 * sum(counts.values())) <= 5
    assert deal(counts, (0.8, 0.1, 0.1), 0) != deal(counts, (0.8, 0.1, 0.1), 1)
    assert set(deal(counts, (1, 0, 0), 0).values()) == {"train"}
    # Where crystals are added few compositions change their part.
    more = deal(counts | {"Y": 3}, (0.8, 0.1, 0.1), 0)
    before = deal(counts, (0.8, 0.1, 0.1), 0)
    assert sum(more[key] != part for key, part in before.items()) <= 3


def test_a_composition_is_a_reduced_formula() -> None:
    assert composition_of({"numbers": np.array([8, 8, 14])}) == "O2Si"
    assert composition_of({"numbers": np.array([11, 17] * 4)}) == "ClNa"
    assert composition_of({"numbers": np.array([6, 1, 1, 1, 1])}) == "CH4"
    assert composition_of({"numbers": np.array([29] * 4)}) == "Cu"


def test_recipes_are_checked_in_python_too() -> None:
    with pytest.raises(UsageError, match="unlabelled"):
        Recipe(unlabelled="cif")


@pytest.mark.slow
def test_a_potential_learns_from_the_set(store: Store, tmp_path: Path) -> None:
    """MatterSim's own training of the demo potential: forces of other compositions get better.

    The demo potential knows aluminium and copper, but not their alloys. As Lee and Xia do, forces
    alone are learnt.
    """
    pytest.importorskip("wandb")
    import torch
    from mattersim.datasets.utils.build import build_dataloader
    from mattersim.forcefield.potential import Potential

    folder = tmp_path / "set"
    export_training_set(store, folder, Recipe(3, (0.01, 0.05), (12, 32), 0, (0.7, 0.0, 0.3)))
    checkpoint = load_checkpoint_path()

    def error(path: Path) -> float:
        calculator = PotentialCalculator(load_potential(str(path)))
        differences = []
        for atoms in frames(folder, "test"):
            given = atoms.get_forces()
            atoms.calc = calculator
            differences.append(np.abs(atoms.get_forces() - given).ravel())
        return float(np.concatenate(differences).mean())

    before = error(checkpoint)
    train = frames(folder, "train")
    torch.manual_seed(0)
    loader = build_dataloader(
        train, [atoms.get_potential_energy() for atoms in train],
        [atoms.get_forces() for atoms in train], batch_size=4, shuffle=True,
    )  # fmt: skip
    potential = Potential.from_checkpoint(
        str(checkpoint), load_training_state=False, device="cpu", lr=1e-3
    )
    potential.train_model(
        loader, None, torch.nn.HuberLoss(delta=0.01), include_energy=False, include_forces=True,
        epochs=6, save_checkpoint=True, save_path=str(tmp_path / "model"),
    )  # fmt: skip
    assert error(tmp_path / "model" / "best_model.pth") < 0.7 * before


def load_checkpoint_path() -> Path:
    from hpcbench.potentials.registry import weights_file

    path = weights_file("mattersim-demo")
    assert path is not None
    return path
