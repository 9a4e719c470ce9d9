"""Crystals whose verdict noise decides are computed again in double precision."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.report.html import write_report

NAMES = ("C_start_strained", "Cu_start_strained")
# Relaxed cells differ by more than the noise of forces. An even mesh does not meet Gamma.
QUICK = ["--relax", "none", "--mesh", "4", "4", "4", "--band-points", "21", "--no-report"]
QUICK += ["--supercell", "2", "2", "2"]
# Displacements alone: their errors are what is looked at here.
QUICK += ["--interpolation-error", "0"]


def run_in(folder: Path, *words: str) -> None:
    """The program, in this process, which has loaded the libraries; files lie in the folder."""
    with contextlib.chdir(folder):
        assert main(["run", *words, *QUICK]) == 0


def run(folder: Path, *arguments: str) -> hpcbench.Store:
    crystals = folder / "crystals"
    if not crystals.exists():
        crystals.mkdir(parents=True)
        for name in NAMES:
            shutil.copy(DEMO / f"{name}.cif", crystals)
    out = folder / "store.h5"
    if "--out" in arguments:
        out = folder / arguments[arguments.index("--out") + 1]
    run_in(folder, "crystals", "--model", "mattersim-demo", "--out", str(out), *arguments)
    return hpcbench.open(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> hpcbench.Store:
    """Diamond is judged by a threshold that is nearer to its lowest mode than its rounding."""
    folder = tmp_path_factory.mktemp("again")
    double = run(folder / "exact", "--dtype", "float64", "--displacement", "0.001")
    row = double.row(double.find(NAMES[0]))
    lowest = row["min_frequency_mesh"]
    (folder / "single").mkdir()
    (folder / "single" / "own.toml").write_text(
        f'[[criteria]]\nname = "near"\nplace = "mesh"\nthreshold = {lowest - 1.6e-4:.12f}\n'
        'gamma_threshold = "left out"\n'
    )
    return run(folder / "single", "--criteria", "own.toml", "--criterion", "near")


def test_a_crystal_near_a_threshold_is_extrapolated_and_computed_in_double(
    store: hpcbench.Store,
) -> None:
    assert len(store) == len(store.table) == len(list(store)) == len(NAMES)
    again = store.row(store.find(NAMES[0]))
    assert store.history.ids == [f"{again['id']}:first", f"{again['id']}:extrapolated"]
    first, single = (store.row(key) for key in store.history.ids)
    for row, kind in ((first, "first"), (single, "extrapolated")):
        assert (row["parent"], row["again"]) == (again["id"], kind)
        assert "near" in row["within_noise"].split(", ")
        assert row["verdict"] == row["verdict_near"] == "undetermined"
        assert "float64" not in row["provenance"]
        np.testing.assert_array_equal(again["relaxed_positions"], row["relaxed_positions"])
        assert not np.array_equal(again["force_constants"], row["force_constants"])
    # No length is left, and what rounding does is not known: so double precision decides.
    assert single["cause"] == "rounding"
    assert single["roughness"] < 0.5
    # The crystal's row is the last computation, and the others stay.
    assert (again["parent"], again["again"]) == ("", "float64")
    assert "float64" in again["provenance"]
    assert again["within_noise"] == again["cause"] == ""
    assert again["verdict"] == again["verdict_near"] != "undetermined"
    exact = hpcbench.open(store.path.parents[1] / "exact" / "store.h5")
    expected = exact.row(exact.find(NAMES[0]))["min_frequency_mesh"]
    assert again["min_frequency_mesh"] == pytest.approx(expected, abs=8e-5)
    assert again["force_noise"] < 0.5 * single["force_noise"]
    # Displacements are never shortened to see the truth: half and quarter ones tell the limit.
    lengths = np.linalg.norm(again["displacement_vectors"], axis=1)
    np.testing.assert_allclose(lengths, 0.01, rtol=1e-9)
    assert again["seconds_forces"] > 0.0
    assert np.isnan(first["seconds_forces"])


def test_others_are_not_computed_again(store: hpcbench.Store) -> None:
    copper = store.row(store.find(NAMES[1]))
    assert (copper["within_noise"], copper["again"], copper["parent"]) == ("", "", "")
    assert store.computations(copper["id"]) == [copper["id"]]


def test_the_first_computation_is_a_result_like_others(store: hpcbench.Store) -> None:
    key = store.history.ids[0]
    assert store[key].verdict == store.row(key)["verdict_near"]
    assert len(store.phonopy(key).supercell) == 16
    assert list(store.history.table.index) == store.history.ids
    assert store.unfinished_ids() == []
    assert store.where("natoms < 10").ids == store.ids
    assert main(["verify", str(store.path)]) == 0


def test_the_report_says_how_many_changed(
    store: hpcbench.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = " ".join(write_report(store, tmp_path / "report.html").read_text().split())
    assert "1 crystal was computed more than once." in page
    assert "float64 (1)." in page
    assert main(["report", str(store.path), "--table", "-o", str(tmp_path / "r.html")]) == 0
    assert "1 computed more than once, which changed 1 verdict" in capsys.readouterr().out


def test_exports_are_of_the_crystals(store: hpcbench.Store, tmp_path: Path) -> None:
    assert main(["export", str(store.path), "-o", str(tmp_path / "t.csv")]) == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + len(NAMES)
    folder = tmp_path / "cif"
    assert main(["export", str(store.path), "--format", "cif", "-o", str(folder)]) == 0
    assert len(list(folder.rglob("*.cif"))) == len(NAMES)


def test_repair_keeps_the_history(store: hpcbench.Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    data = bytearray(store.path.read_bytes())
    with h5py.File(store.path) as file:
        chunk = file["ragged/band_frequencies/values"].id.get_chunk_info(0)
    middle = chunk.byte_offset + chunk.size // 2
    data[middle : middle + 8] = bytes(8)
    copy.write_bytes(data)
    assert main(["repair", str(copy)]) in (0, 1)
    mended = hpcbench.open(copy)
    lost = set(store.history.ids) | set(store.ids)
    lost -= set(mended.ids) | set(mended.history.ids)
    for key in mended.history.ids:
        assert mended.row(key)["parent"]
    assert len(lost) < 3


def test_a_reanalysis_knows_the_noise(store: hpcbench.Store, tmp_path: Path) -> None:
    out = tmp_path / "other.h5"
    words = ["reanalyse", str(store.path), "--out", str(out), "--workers", "0"]
    assert main([*words, "--band-points", "31"]) == 0
    other = hpcbench.open(out)
    for key in (*store.ids, *store.history.ids):
        before, after = store.row(key), other.row(key)
        for name in ("within_noise", "verdict", "again", "force_noise"):
            assert before[name] == after[name]
        assert after["noise_mesh"] == pytest.approx(before["noise_mesh"], rel=1e-6)
    # At another threshold that is not near to anything, nothing is within the noise.
    (tmp_path / "far.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "mesh"\nthreshold = -5.0\n'
    )
    words[3] = str(tmp_path / "far.h5")
    assert main([*words, "--criteria", str(tmp_path / "far.toml"), "--criterion", "near"]) == 0
    far = hpcbench.open(tmp_path / "far.h5")
    assert set(far.table["within_noise"]) == {""}


ROUNDED = """
from ase.calculators.emt import EMT

class Rounded(EMT):
    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.results["forces"] = self.results["forces"].round(4)
"""


def test_without_double_precision_rounding_is_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "rounded.py").write_text(ROUNDED)
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.02, seed=2)
    write(tmp_path / "Cu.cif", crystal)

    def run_rounded(out: str, *arguments: str) -> hpcbench.Store:
        words = ["Cu.cif", "--out", out, "--model", "rounded:Rounded"]
        run_in(tmp_path, *words, *arguments)
        return hpcbench.open(tmp_path / out)

    first = run_rounded("first.h5")
    (row,) = (first.row(key) for key in first.ids)
    (tmp_path / "own.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "mesh"\n'
        f"threshold = {row['min_frequency_mesh']:.9f}\n"
    )
    store = run_rounded("store.h5", "--criteria", "own.toml", "--criterion", "near")
    (key,) = store.history.ids
    row, again = store.row(key), store.row(store.ids[0])
    assert again["again"] == "extrapolated"
    assert "near" in row["within_noise"] and "near" in again["within_noise"]
    assert (again["verdict"], again["cause"]) == ("undetermined", "rounding")
    page = " ".join(write_report(store, tmp_path / "report.html").read_text().split())
    assert "displacements of several lengths, extrapolated (1)." in page


CUSP = """
import numpy as np
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list

class Cusp(EMT):
    # With 0.02 eV/A for each atom off the mean of its neighbours, however little.
    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        i, j, vectors = neighbor_list("ijD", self.atoms, 3.0)
        count = np.maximum(np.bincount(i, minlength=len(self.atoms)), 1)[:, None]
        off = np.zeros((len(self.atoms), 3))
        np.add.at(off, i, -vectors)
        off /= count
        length = np.linalg.norm(off, axis=1, keepdims=True)
        pull = 0.02 * off / np.maximum(length, 1e-9) * (length > 1e-6)
        forces = self.results["forces"] - pull
        np.add.at(forces, j, (pull / count)[i])
        self.results["forces"] = forces
"""


def test_where_the_potential_has_a_cusp_the_displacements_stand(tmp_path: Path) -> None:
    (tmp_path / "cusp.py").write_text(CUSP)
    write(tmp_path / "Cu.cif", bulk("Cu", a=3.62))
    (tmp_path / "own.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "commensurate"\nthreshold = 4.0\n'
        'gamma_threshold = "left out"\n'
    )
    words = ["Cu.cif", "--out", "s.h5", "--model", "cusp:Cusp", "--workers", "0"]
    run_in(tmp_path, *words, "--criteria", "own.toml", "--criterion", "near")
    store = hpcbench.open(tmp_path / "s.h5")
    row = store.row(store.ids[0])
    # The computation is the first one, with a quarter of its first displacement beside it.
    assert store.history.ids == []
    assert (row["again"], row["cause"]) == ("", "")
    assert row["roughness"] > 1.0
    assert "potential not smooth" in row["notes"]
    assert row["verdict"] == row["verdict_near"] == "stable"


def test_the_limit_decides_where_the_length_could(tmp_path: Path) -> None:
    """Without symmetry, what is left in double precision is the length of the displacements."""
    atoms = read(DEMO / "AlN_start_strained.cif")
    atoms.rattle(0.02, seed=3)
    (tmp_path / "crystals").mkdir()
    write(tmp_path / "crystals" / "AlN.cif", atoms)
    found = {}
    for length in ("0.01", "0.001"):
        settings = "--dtype", "float64", "--displacement", length
        (found[length],) = run(tmp_path, *settings, "--out", f"{length}.h5").table.to_dict(
            "records"
        )
    lowest = {length: row["min_frequency_mesh"] for length, row in found.items()}
    (tmp_path / "own.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "mesh"\n'
        f"threshold = {(lowest['0.01'] + lowest['0.001']) / 2:.9f}\n"
    )
    words = "--dtype", "float64", "--displacement", "0.01"
    store = run(tmp_path, *words, "--criteria", "own.toml", "--criterion", "near")
    (key,) = store.history.ids
    first, again = store.row(key), store.row(store.ids[0])
    assert (first["verdict"], first["cause"]) == ("undetermined", "length of the displacements")
    assert again["again"] == "extrapolated"
    assert again["verdict"] == ("stable" if lowest["0.001"] > lowest["0.01"] else "unstable")
    change = abs(lowest["0.001"] - lowest["0.01"])
    assert abs(again["min_frequency_mesh"] - lowest["0.001"]) < 0.25 * change
