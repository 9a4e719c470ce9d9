"""Supercells by length and by atoms, how far force constants reach, and the next larger one."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2
from ase.geometry import minkowski_reduce
from ase.spacegroup import crystal as of_space_group
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.config import RunConfig
from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.errors import ConfigError, UnsuitableError
from hpcbench.phonons.force_constants import decay
from hpcbench.phonons.supercells import (
    heights,
    lowest_height,
    matrix_of_length,
    next_larger,
    require_size,
    supercell_of,
)
from hpcbench.report.html import write_report

CELLS = {
    "cubic": bulk("Cu", cubic=True).cell[:],
    "fcc": bulk("Cu").cell[:],
    "hcp": bulk("Ti").cell[:],
    "slanted": np.array([[3.0, 0.1, 0.0], [2.4, 3.1, 0.2], [-0.3, 1.1, 9.0]]),
}


POINTS = np.array([[0.0, 0.0, 0.0], [0.3, 0.4, 4.0]])
"""Two atoms, between which there is no vacuum in any of these cells."""


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("length", [6.0, 9.5, 15.0])
def test_it_is_as_high_as_asked_and_no_higher_than_it_must(cell, length: float) -> None:  # type: ignore[no-untyped-def]
    matrix = matrix_of_length(cell, POINTS, length, 0, "diagonal")
    np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))
    high = heights(matrix.T @ cell)
    assert (high >= 0.999 * length).all()
    single = heights(cell)
    assert (high - single < length).all()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cubes_have_no_short_vector(cell) -> None:  # type: ignore[no-untyped-def]
    matrix = matrix_of_length(cell, POINTS, 9.0, 400, "cubic")
    supercell = matrix.T @ cell
    assert np.linalg.det(matrix) > 0
    assert 2 * np.linalg.det(matrix) <= 400
    shortest = np.linalg.norm(minkowski_reduce(supercell)[0], axis=1).min()
    assert shortest >= 9.0
    # Closer to a cube than multiples of the lattice vectors are, or as close.
    diagonal = matrix_of_length(cell, POINTS, 9.0, 0, "diagonal").T @ cell
    assert _slant(supercell) <= _slant(diagonal) + 1e-9


def _slant(cell) -> float:  # type: ignore[no-untyped-def]
    units = cell / np.linalg.norm(cell, axis=1)[:, None]
    return float(np.abs(units @ units.T - np.eye(3)).max())


def test_a_supercell_has_no_more_atoms_than_allowed() -> None:
    cell = np.diag([3.0, 4.0, 12.0])
    four = np.array([[0.0, 0.0, height] for height in (0.0, 3.0, 6.0, 9.0)])
    for most, multiples in (
        (0, [4, 3, 1]),
        # Lowered along the longest direction first.
        (40, [3, 3, 1]),
        (30, [3, 2, 1]),
        (2, [1, 1, 1]),
    ):
        matrix = matrix_of_length(cell, four, 12.0, most, "diagonal")
        assert np.array_equal(matrix, np.diag(multiples))


def test_directions_that_are_alike_are_multiplied_alike() -> None:
    """A cell that is cubic but for what its generator left open keeps its symmetry."""
    strained = np.diag([4.05, 3.98, 4.01])
    points = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    assert np.array_equal(
        matrix_of_length(strained, points, 12.0, 0, "diagonal"), np.diag([4, 4, 4])
    )
    assert np.array_equal(
        matrix_of_length(strained, points, 12.0, 120, "diagonal"), np.diag([3, 3, 3])
    )
    long = np.diag([4.05, 3.98, 5.0])
    assert np.array_equal(matrix_of_length(long, points, 12.0, 80, "diagonal"), np.diag([3, 3, 3]))
    # Diamond, the crystal with most atoms in a volume, has room in the default.
    diamond = bulk("C", a=3.567)
    assert RunConfig().supercell_atoms >= 2 * 6**3
    matrix = matrix_of_length(
        diamond.cell[:], diamond.positions, 12.0, RunConfig().supercell_atoms, "diagonal"
    )
    assert np.array_equal(matrix, np.diag([6, 6, 6]))


def layer() -> Atoms:
    atoms = mx2("MoS2", vacuum=7.5)
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize("shape", ["diagonal", "cubic"])
def test_nothing_is_multiplied_across_a_vacuum(shape: str) -> None:
    slab, chain = layer(), Atoms("Au", cell=[20.0, 15.0, 2.5], pbc=True)
    molecule = Atoms("CO", [(0, 0, 0), (0, 0, 1.1)], cell=np.diag([11.0, 11.0, 11.0]), pbc=True)
    # Wherever the cell's face cuts it.
    cut = layer()
    cut.positions[:, 2] += 8.4
    cut.wrap()
    graphite = graphene(vacuum=3.35 / 2)
    graphite.pbc = True
    for atoms, multiples in (
        (slab, [5, 5, 1]),
        (cut, [5, 5, 1]),
        (chain, [1, 1, 5]),
        (molecule, [1, 1, 1]),
    ):
        matrix = matrix_of_length(atoms.cell[:], atoms.positions, 12.0, 500, shape)
        assert np.array_equal(matrix, np.diag(multiples))
    # The gap between layers of a van der Waals crystal is no vacuum.
    matrix = matrix_of_length(graphite.cell[:], graphite.positions, 12.0, 500, "diagonal")
    assert np.array_equal(matrix, np.diag([6, 6, 4]))
    assert lowest_height(slab.cell[:], slab.positions) == pytest.approx(3.18 * np.sqrt(3) / 2)
    assert np.isnan(lowest_height(molecule.cell[:], molecule.positions))
    # Nor is the next larger one higher there.
    one = np.diag([5, 5, 1])
    assert np.array_equal(next_larger(slab.cell[:], slab.positions, one), np.diag([6, 6, 1]))
    with pytest.raises(UnsuitableError, match="vacuum on all sides"):
        next_larger(molecule.cell[:], molecule.positions, np.eye(3, dtype=int))


def test_the_next_larger_one_grows_where_it_is_lowest() -> None:
    two, tall = np.diag([2, 2, 2]), np.diag([3.0, 3.1, 12.0])
    assert np.array_equal(next_larger(CELLS["cubic"], POINTS, two), np.diag([3, 3, 3]))
    assert np.array_equal(next_larger(CELLS["fcc"], POINTS, two), np.diag([3, 3, 3]))
    assert np.array_equal(
        next_larger(tall, np.array([[0, 0, 0], [0, 0, 6.0]]), two), np.diag([3, 3, 2])
    )
    body = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    larger = next_larger(CELLS["cubic"], POINTS, body)
    assert np.linalg.det(larger) >= 2 * np.linalg.det(body)
    assert heights(larger.T @ CELLS["cubic"]).min() > heights(body.T @ CELLS["cubic"]).min()


def test_settings_give_the_same_supercell_before_the_run_and_in_it() -> None:
    config = load_config({"supercell": ["12"], "supercell_atoms": "100"}, None, {})
    assert config.supercell == (12.0,)
    crystal = Crystal.from_ase(Atoms("NaCl", cell=np.diag([4.0, 4.0, 6.0]), pbc=True))
    chosen = supercell_of(crystal, config.supercell, config.supercell_atoms, config.supercell_shape)
    assert np.array_equal(chosen, np.diag([3, 3, 2]))
    # Neither of the two is lowered where its numbers are given.
    plain = load_config({"supercell": ["3", "3", "3"], "supercell_atoms": "2"}, None, {})
    assert "supercell_atoms" not in plain.result_settings()
    stored = config.result_settings()
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
    command += ["--supercell", "2", "2", "2"]
    assert main([*command, "--out", str(tmp_path / "s.h5")]) == 1
    table = hpcbench.open(tmp_path / "s.h5").table.set_index("natoms")
    assert table["status"].to_dict() == {4: "done", 128: "failed"}
    assert table["reason"][128] == (
        "large supercell: 1024 atoms, more than --largest-supercell 1000"
    )
    capsys.readouterr()
    main([
        "plan", str(tmp_path / "copper.extxyz"), "--model", "ase.calculators.emt:EMT",
        "--supercell", "2", "2", "2",
    ])  # fmt: skip
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
    command += ["--supercell", "2", "2", "2"]
    command += ["--check-margin", "100", "--largest-supercell", "100"]
    assert main([*command, "--out", str(tmp_path / "s.h5")]) == 0
    (row,) = hpcbench.open(tmp_path / "s.h5").rows()
    assert (row["status"], row["again"]) == ("done", "")
    note = "not computed again (larger): 108 atoms, more than --largest-supercell 100"
    assert note in row["notes"].split("; ")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> hpcbench.Store:
    """Silicon and rock salt by length; silicon's margin is 0.2 THz, and that is looked into."""
    folder = tmp_path_factory.mktemp("margin")
    (folder / "crystals").mkdir()
    for name in ("Si_start_strained", "MgO_start_strained"):
        shutil.copy(DEMO / f"{name}.cif", folder / "crystals")
    quick = ["--mesh", "6", "6", "6", "--band-points", "11", "--workers", "0", "--no-report"]
    arguments = ["run", str(folder / "crystals"), "--model", "mattersim-demo", *quick]
    arguments += ["--supercell", "6", "--dtype", "float64", "--interpolation-error", "0"]
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
    from hpcbench.phonons.calculate import analyse, prepare
    from hpcbench.phonons.phonon_result import PhononSettings
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


def spectra_of(atoms: Atoms, potential, matrix: np.ndarray):  # type: ignore[no-untyped-def]
    from hpcbench.phonons.calculate import analyse_force_constants, prepare
    from hpcbench.phonons.force_constants import fit_force_constants
    from hpcbench.phonons.phonon_result import PhononSettings
    from hpcbench.phonons.supercells import displaced_copies

    settings = PhononSettings("auto", 0.01, 1e-5, 51, (4, 4, 4), (300.0,), 0.1)
    phonon = prepare(atoms, matrix, settings)
    copies = displaced_copies(phonon)
    (forces,) = potential.forces([(potential.prepare(copies), 0, len(copies))])
    fit_force_constants(phonon, forces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return analyse_force_constants(phonon, settings)


# Relaxed with mattersim-demo in float64: lattice parameters in A.
RELAXED = {
    "MgO": bulk("MgO", "rocksalt", a=4.25464),
    "Si": bulk("Si", a=5.46678),
    "AlN": of_space_group(
        ("Al", "N"), [(1 / 3, 2 / 3, 0.0), (1 / 3, 2 / 3, 0.38216)], spacegroup=186,
        cellpar=[3.12975, 3.12975, 5.01083, 90, 90, 120],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "off"), [("MgO", 2.4), ("Si", 2.3), ("AlN", 3.4)])
def test_the_default_suffices_where_two_cells_do_not(name: str, off: float, demo64) -> None:  # type: ignore[no-untyped-def]
    """Branches on the path: 2x2x2 is off by THz, and gives AlN a false mode.

    Of MgO the default is 5x5x5; of silicon 4x4x4, of AlN 5x5x3.
    """
    atoms = RELAXED[name]
    config = load_config({}, None, {})
    given = Crystal.from_ase(atoms)
    matrix = supercell_of(given, config.supercell, config.supercell_atoms, config.supercell_shape)
    low, high = (spectra_of(atoms, demo64, one) for one in (np.diag([2, 2, 2]), matrix))
    qpoints = high.path.qpoints
    branches = {
        which: result.phonon.run_qpoints(qpoints).frequencies
        for which, result in (("low", low), ("high", high))
    }
    assert np.abs(branches["low"] - branches["high"]).max() == pytest.approx(off, abs=0.15)
    assert high.spectra["path"].lowest[0] > -0.005
    if name == "Si":
        five = spectra_of(atoms, demo64, np.diag([5, 5, 5])).phonon.run_qpoints(qpoints).frequencies
        assert np.abs(branches["high"] - five).max() < 0.15
    if name == "AlN":
        assert low.spectra["path"].lowest[0] == pytest.approx(-0.47, abs=0.03)


def test_protocols_have_supercells_of_their_own(tmp_path: Path) -> None:
    """Of both, the literal half keeps 2x2x2, whatever is asked of the other; low ones are said."""
    copper = bulk("Cu", a=3.6)
    quick = {"model": "ase.calculators.emt:EMT", "mesh": (3, 3, 3), "band_points": 7, "workers": 0}
    for number, (asked, matrix) in enumerate(((None, 6), ((3, 3, 3), 3))):
        settings = {} if asked is None else {"supercell": asked}
        out = tmp_path / f"{number}.h5"
        hpcbench.run([copper], protocol="both", out=out, **quick, **settings)
        store = hpcbench.open(out)
        row, literal = store.row(store.ids[0]), store.row(store.beside.ids[0])
        assert np.array_equal(row["supercell_matrix"], matrix * np.eye(3))
        assert np.array_equal(literal["supercell_matrix"], 2 * np.eye(3))
        for one in (row, literal):
            cell = one["supercell_matrix"].T @ one["relaxed_cell"]
            assert one["supercell_height"] == pytest.approx(heights(cell).min())
        low = "supercell only 4.1 A high"
        assert literal["notes"] == low
        assert row["notes"] == ("" if asked is None else "supercell only 6.2 A high")
    shown = write_report(store, tmp_path / "r.html").read_text()
    assert "The supercell of 1 crystal is lower than 10" in shown
