"""Supercells by length and by atoms, how far force constants reach, and the next larger one."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import minkowski_reduce
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.errors import ConfigError
from hpcbench.phonons.force_constants import decay
from hpcbench.phonons.supercells import heights, matrix_of_length, next_larger, require_size
from hpcbench.planning.costs import supercell_of
from hpcbench.report.html import write_report

CELLS = {
    "cubic": bulk("Cu", cubic=True).cell[:],
    "fcc": bulk("Cu").cell[:],
    "hcp": bulk("Ti").cell[:],
    "slanted": np.array([[3.0, 0.1, 0.0], [2.4, 3.1, 0.2], [-0.3, 1.1, 9.0]]),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("length", [6.0, 9.5, 15.0])
def test_it_is_as_high_as_asked_and_no_higher_than_it_must(cell, length: float) -> None:  # type: ignore[no-untyped-def]
    matrix = matrix_of_length(cell, 2, length, 0, "diagonal")
    np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))
    high = heights(matrix.T @ cell)
    assert (high >= 0.999 * length).all()
    single = heights(cell)
    assert (high - single < length).all()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cubes_have_no_short_vector(cell) -> None:  # type: ignore[no-untyped-def]
    matrix = matrix_of_length(cell, 2, 9.0, 400, "cubic")
    supercell = matrix.T @ cell
    assert np.linalg.det(matrix) > 0
    assert 2 * np.linalg.det(matrix) <= 400
    shortest = np.linalg.norm(minkowski_reduce(supercell)[0], axis=1).min()
    assert shortest >= 9.0
    # Closer to a cube than multiples of the lattice vectors are, or as close.
    diagonal = matrix_of_length(cell, 2, 9.0, 0, "diagonal").T @ cell
    assert _slant(supercell) <= _slant(diagonal) + 1e-9


def _slant(cell) -> float:  # type: ignore[no-untyped-def]
    units = cell / np.linalg.norm(cell, axis=1)[:, None]
    return float(np.abs(units @ units.T - np.eye(3)).max())


def test_a_supercell_has_no_more_atoms_than_allowed() -> None:
    cell = np.diag([3.0, 4.0, 12.0])
    assert np.array_equal(matrix_of_length(cell, 4, 12.0, 0, "diagonal"), np.diag([4, 3, 1]))
    # Lowered along the longest direction first.
    assert np.array_equal(matrix_of_length(cell, 4, 12.0, 40, "diagonal"), np.diag([3, 3, 1]))
    assert np.array_equal(matrix_of_length(cell, 4, 12.0, 30, "diagonal"), np.diag([3, 2, 1]))
    assert np.array_equal(matrix_of_length(cell, 4, 12.0, 2, "diagonal"), np.eye(3))


def test_the_next_larger_one_grows_where_it_is_lowest() -> None:
    two = np.diag([2, 2, 2])
    assert np.array_equal(next_larger(CELLS["cubic"], two), np.diag([3, 3, 3]))
    assert np.array_equal(next_larger(CELLS["fcc"], two), np.diag([3, 3, 3]))
    assert np.array_equal(next_larger(np.diag([3.0, 3.1, 12.0]), two), np.diag([3, 3, 2]))
    body = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    larger = next_larger(CELLS["cubic"], body)
    assert np.linalg.det(larger) >= 2 * np.linalg.det(body)
    assert heights(larger.T @ CELLS["cubic"]).min() > heights(body.T @ CELLS["cubic"]).min()


def test_settings_give_the_same_supercell_before_the_run_and_in_it() -> None:
    config = load_config({"supercell": ["12"], "supercell_atoms": "100"}, None, {})
    assert config.supercell == (12.0,)
    crystal = Crystal.from_ase(Atoms("NaCl", cell=np.diag([4.0, 4.0, 6.0]), pbc=True))
    chosen = supercell_of(crystal, config.supercell, config.supercell_atoms, config.supercell_shape)
    assert np.array_equal(chosen, np.diag([3, 3, 2]))
    stored = config.deciding_settings()
    assert (stored["supercell"], stored["supercell_atoms"]) == ([12.0], 100)
    assert "check_margin" not in stored
    with pytest.raises(ConfigError, match="a length of at least 5 A"):
        load_config({"supercell": "2"}, None, {})


def test_a_large_supercell_is_set_aside_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crystals = [bulk("Cu", cubic=True), bulk("Cu", cubic=True) * (4, 4, 2)]
    ase.io.write(tmp_path / "copper.extxyz", crystals)
    command = ["run", str(tmp_path / "copper.extxyz"), "--model", "ase.calculators.emt:EMT"]
    command += ["--mesh", "4", "4", "4", "--band-points", "11", "--workers", "0", "--no-report"]
    assert main([*command, "--out", str(tmp_path / "s.h5")]) == 1
    table = hpcbench.open(tmp_path / "s.h5").table.set_index("natoms")
    assert table["status"].to_dict() == {4: "done", 128: "failed"}
    assert table["reason"][128] == (
        "large supercell: 1024 atoms, more than --largest-supercell 1000"
    )
    capsys.readouterr()
    main(["plan", str(tmp_path / "copper.extxyz"), "--model", "ase.calculators.emt:EMT"])
    assert "large supercell" in capsys.readouterr().out
    # No limit, and one that the smaller one is above as well.
    assert require_size(128, np.diag([2, 2, 2]), 0) is None
    command += ["--largest-supercell", "31", "--out", str(tmp_path / "none.h5")]
    assert main(command) == 1
    assert set(hpcbench.open(tmp_path / "none.h5").table["status"]) == {"failed"}


def test_a_marginal_verdict_is_not_checked_in_too_large_a_supercell(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "copper.cif", bulk("Cu", cubic=True))
    command = ["run", str(tmp_path / "copper.cif"), "--model", "ase.calculators.emt:EMT"]
    command += ["--mesh", "4", "4", "4", "--band-points", "11", "--workers", "0", "--no-report"]
    command += ["--check-margin", "100", "--largest-supercell", "100"]
    assert main([*command, "--out", str(tmp_path / "s.h5")]) == 0
    (row,) = hpcbench.open(tmp_path / "s.h5").rows()
    assert (row["status"], row["again"]) == ("done", "")
    assert row["notes"] == (
        "not computed again (larger): 108 atoms, more than --largest-supercell 100"
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> hpcbench.Store:
    """Silicon and rock salt by length; silicon's margin is 0.2 THz, and that is looked into."""
    folder = tmp_path_factory.mktemp("margin")
    (folder / "crystals").mkdir()
    for name in ("Si_start_strained", "MgO_start_strained"):
        shutil.copy(DEMO / f"{name}.cif", folder / "crystals")
    quick = ["--mesh", "6", "6", "6", "--band-points", "11", "--workers", "0", "--no-report"]
    arguments = ["run", str(folder / "crystals"), "--model", "mattersim-demo", *quick]
    arguments += ["--supercell", "6", "--dtype", "float64"]
    assert main([*arguments, "--out", str(folder / "first.h5"), "--criterion", "mesh"]) == 0
    first = hpcbench.open(folder / "first.h5").table.set_index("name")["min_frequency_mesh"]
    silicon, salt = first["Si_start_strained"], first["MgO_start_strained"]
    assert abs(silicon - salt) > 0.1
    (folder / "own.toml").write_text(
        f'[[criteria]]\nname = "near"\nplace = "mesh"\nthreshold = {silicon - 0.02}\n'
        'gamma_threshold = "left out"\n'
    )
    arguments += ["--criteria", str(folder / "own.toml"), "--criterion", "near"]
    assert main([*arguments, "--check-margin", "0.05", "--out", str(folder / "s.h5")]) == 0
    return hpcbench.open(folder / "s.h5")


def test_a_marginal_verdict_is_checked_in_the_next_larger_supercell(
    store: hpcbench.Store, tmp_path: Path
) -> None:
    silicon = store.row(store.find("Si_start_strained"))
    assert silicon["again"] == "larger"
    (key,) = store.history.ids
    first = store.row(key)
    assert first["margin"] == pytest.approx(0.02, abs=1e-6)
    assert store.computations(silicon["id"]) == [key, silicon["id"]]
    assert np.linalg.det(silicon["supercell_matrix"]) > np.linalg.det(first["supercell_matrix"])
    assert first["margin"] != silicon["margin"]
    # Both are kept, whole.
    for row in (first, silicon):
        assert len(store.phonopy(row["id"]).supercell) == 2 * round(
            np.linalg.det(row["supercell_matrix"])
        )
    salt = store.row(store.find("MgO_start_strained"))
    assert (salt["again"], abs(salt["margin"]) > 0.05) == ("", True)
    page = " ".join(write_report(store, tmp_path / "r.html").read_text().split())
    assert "1 crystal was computed more than once." in page
    assert "next larger supercell (1)." in page


def test_force_constants_decay_with_the_supercell(demo64) -> None:
    from hpcbench.phonons.calculate import PhononSettings, analyse, prepare
    from hpcbench.phonons.supercells import displaced_copies

    settings = PhononSettings("auto", 0.01, 1e-5, 11, (4, 4, 4), (300.0,), 0.1)
    atoms = ase.io.read(DEMO / "Si_start_strained.cif")
    found = []
    for number in (1, 2, 3, 4):
        phonon = prepare(atoms, number * np.eye(3, dtype=np.int64), settings)
        copies = displaced_copies(phonon)
        prepared = demo64.prepare(copies)
        (forces,) = demo64.forces([(prepared, 0, len(copies))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = analyse(phonon, forces, settings)
        assert result.decay == decay(result.phonon)
        found.append(result.decay)
    assert found == sorted(found, reverse=True)
    # Neighbours at half the cell, and beyond twice the potential's reach.
    assert found[0] > 0.1
    assert found[3] < 0.01
