"""Masses, handedness and boundary conditions that a source names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import read as read_ase
from ase.io import write
from phonopy import Phonopy
from phonopy.interface.phonopy_yaml import read_phonopy_yaml

import hpcbench
from hpcbench.cells import periodicity, right_handed
from hpcbench.crystal import Crystal
from hpcbench.curation.primitive import primitive_of
from hpcbench.curation.validation import examine
from hpcbench.errors import UnsuitableError
from hpcbench.interop.exporting import export
from hpcbench.masses import named, of_elements, species
from hpcbench.origin import Origin
from hpcbench.phonons.force_constants import fit_force_constants
from hpcbench.phonons.nondiagonal import displace_at
from hpcbench.phonons.rational import RationalQ
from hpcbench.phonons.spectrum import seekpath_band_path
from hpcbench.phonons.supercells import displace
from hpcbench.planning.crystal_list import CRYSTALS, ListedCrystal, _row
from hpcbench.results.identity import crystal_of
from hpcbench.sources import Unreadable, find_files, read_file
from hpcbench.store.reader import Store

CASES = Path(__file__).parent / "data" / "reading"
DEUTERIUM = 2.01410178


def read(path: Path) -> list[Crystal | Unreadable]:
    return [record for file in find_files([path]) for record in read_file(file)]


def one(path: Path) -> Crystal:
    (record,) = read(path)
    assert isinstance(record, Crystal), record
    return record


def note(record: Crystal | Unreadable) -> str:
    assert isinstance(record, Crystal), record
    return str(dict(record.origins[0].columns).get("note", ""))


# ---------------------------------------------------------------- masses


def test_masses_that_files_name(tmp_path: Path) -> None:
    protium, deuterium = one(CASES / "CuH.vasp"), one(CASES / "CuD.vasp")
    phonopy, frame = one(CASES / "phonopy_params.yaml"), one(CASES / "masses.extxyz")
    assert protium.masses is None
    assert deuterium.masses is not None and phonopy.masses is not None
    np.testing.assert_allclose(deuterium.masses, [63.546, DEUTERIUM])
    np.testing.assert_allclose(phonopy.masses, [63.546, 2.014])
    assert frame.masses is not None and list(frame.masses) == [200, 1]
    # Files round: 2.014 is deuterium.
    assert protium.id != deuterium.id == phonopy.id
    assert (protium.numbers == deuterium.numbers).all()
    atoms = deuterium.to_ase()
    write(tmp_path / "again.extxyz", atoms)
    with connect(tmp_path / "again.db") as database:
        database.write(atoms)
    for name in ("again.extxyz", "again.db"):
        again = one(tmp_path / name)
        assert again.id == Crystal.from_ase(atoms).id
        assert again.masses is not None
        np.testing.assert_allclose(again.masses, deuterium.masses)
    (tmp_path / "a.cif").write_text((CASES.parent / "bad" / "readable-deuterium.cif").read_text())
    cif = one(tmp_path / "a.cif")
    assert cif.masses is not None and cif.masses[1] == DEUTERIUM


def test_masses_of_the_elements_are_none(tmp_path: Path) -> None:
    """Whatever edition of the table a file has."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    plain = Crystal.from_ase(atoms)
    atoms.set_masses([22.99, 35.45])
    write(tmp_path / "a.extxyz", atoms)
    assert Crystal.from_ase(atoms).id == plain.id
    assert one(tmp_path / "a.extxyz").masses is None


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("masses", "0 1", "masses of the source not taken: atom 1 has a mass of 0"),
        ("masses", "2 -1", "masses of the source not taken: atom 2 has a mass of -1"),
        ("masses", "inf 1", "masses of the source not taken: atom 1 has a mass of inf"),
        ("masses", "nan 1", "masses of the source not taken: some are no numbers"),
        ("mass", "200 1", "masses of the source not taken: the unit of a column 'mass'"),
    ],
)
def test_masses_that_cannot_be_taken_are_noted(
    tmp_path: Path, column: str, values: str, said: str
) -> None:
    text = (CASES / "masses.extxyz").read_text().replace("masses:R", f"{column}:R")
    first, second = values.split()
    text = text.replace("0 200", f"0 {first}").replace("2.06 1", f"2.06 {second}")
    (tmp_path / "a.extxyz").write_text(text)
    record = one(tmp_path / "a.extxyz")
    assert record.masses is None
    assert note(record).startswith(said)
    assert record.id == one_of(np.diag([4.12] * 3)).id


def one_of(cell: np.ndarray) -> Crystal:
    positions = np.array([[0, 0, 0], [2.06, 2.06, 2.06]])
    return Crystal.from_arrays("x", (), cell, positions, np.array([55, 17]))


def test_an_element_without_a_mass_may_have_that_of_its_source() -> None:
    atoms = Atoms("PuO", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4, 4, 4], pbc=True)
    with pytest.raises(UnsuitableError, match="no atomic mass for Pu"):
        examine(Crystal.from_ase(atoms))
    atoms.set_masses([244, 16])
    examine(Crystal.from_ase(atoms))
    masses, _ = named(np.array([94, 1]), [np.nan, DEUTERIUM])
    assert masses is not None and np.isnan(masses[0])


def test_masses_go_through_the_list_of_crystals() -> None:
    for name in ("CuD.vasp", "CuH.vasp"):
        crystal = one(CASES / name)
        row = _row(ListedCrystal((0, 0), crystal))
        assert set(row) == {field.name for field in (*CRYSTALS.columns, *CRYSTALS.ragged)}
        again = crystal_of(row)
        assert again.id == crystal.id
        np.testing.assert_array_equal(again.to_ase().get_masses(), crystal.to_ase().get_masses())
        assert again.to_ase().has("masses") == (name == "CuD.vasp")


def test_a_crystal_with_masses_keeps_its_cell() -> None:
    atoms = bulk("Cu", cubic=True)
    assert primitive_of(Crystal.from_ase(atoms), 0.01).natoms == 1
    atoms.set_masses([62.9296, 64.9278, 62.9296, 64.9278])
    assert primitive_of(Crystal.from_ase(atoms), 0.01).natoms == 4


def computed(atoms: Atoms, primitive_matrix: str) -> Phonopy:
    """Force constants of EMT in a supercell of 2 x 2 x 2."""
    phonon = displace(
        atoms,
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix=primitive_matrix,
        displacement=0.01,
        symprec=1e-5,
    )
    forces = []
    for supercell in phonon.supercells_with_displacements or ():
        moved = Atoms(
            supercell.numbers, positions=supercell.positions, cell=supercell.cell, pbc=True
        )
        moved.calc = EMT()
        forces.append(moved.get_forces())
    fit_force_constants(phonon, np.array(forces))
    return phonon


def test_isotopes_in_order_are_not_one_primitive_atom() -> None:
    """Copper in layers of two isotopes is tetragonal, with the spectrum of its masses."""
    atoms = bulk("Cu", cubic=True)
    whole = computed(atoms, "P")
    layers = np.where(atoms.positions[:, 2] > 0.1, 70.0, 50.0)
    atoms.set_masses(layers)
    assert list(species(atoms.numbers, layers)) == [0, 1, 1, 0]
    ordered = computed(atoms, "auto")
    assert sorted(ordered.primitive.masses) == [50, 70]
    assert ordered.primitive_symmetry.dataset.number == 123
    # The force constants of plain copper with these masses, nothing reduced by symmetry.
    whole.dynamical_matrix.run([0.0, 0.0, 0.0])
    plain = np.sqrt(np.repeat(whole.primitive.masses, 3))
    roots = np.sqrt(np.repeat(layers, 3))
    matrix = whole.dynamical_matrix.dynamical_matrix * np.outer(plain, plain)
    expected = np.linalg.eigvalsh(matrix / np.outer(roots, roots))
    # Half of the q of the larger cell's Gamma.
    folded = ordered.primitive.cell @ np.linalg.inv(atoms.cell[:]) @ [1, 0, 0]
    found = ordered.run_qpoints([[0, 0, 0], folded]).frequencies.ravel()
    squared = (found / ordered.unit_conversion_factor) ** 2 * np.sign(found)
    np.testing.assert_allclose(np.sort(squared), expected, atol=2e-4 * expected.max())
    path = seekpath_band_path(ordered, 11, cell_is_standard=False)
    assert any("Z" in ends for ends in path.labels)
    half = RationalQ((1, 0, 0), (2, 1, 1))
    small = displace_at(ordered.primitive, half, displacement=0.01, symprec=1e-5)
    assert sorted(small.primitive.masses) == [50, 70]


# ---------------------------------------------------------------- handedness


def test_a_left_handed_cell_is_turned_and_nothing_else() -> None:
    for name in ("CuAu-c-left.extxyz", "MgO-left.vasp"):
        record = one(CASES / name)
        given = read_ase(CASES / name)
        assert np.linalg.det(given.cell[:]) < 0 < np.linalg.det(record.cell)
        np.testing.assert_array_equal(record.cell, -given.cell[:])
        np.testing.assert_allclose(record.positions, given.positions)
        assert note(record) == "left-handed cell: its lattice vectors are reversed"
        twin = Crystal.from_ase(given)
        assert np.linalg.det(twin.cell) > 0
        np.testing.assert_allclose(twin.cell, record.cell)
    cell, said = right_handed(np.eye(3))
    assert not said and (cell == np.eye(3)).all()


# ---------------------------------------------------------------- boundary conditions


def test_boundary_conditions_that_are_open() -> None:
    dimer, layer = read(CASES / "mol-box.extxyz")
    assert note(dimer) == 'pbc "F F F" without vacuum: taken as periodic'
    assert note(layer) == 'pbc "T T F" without vacuum: taken as periodic'


def test_a_molecule_in_a_box_is_no_crystal(tmp_path: Path) -> None:
    atoms = Atoms("N2", positions=[[10, 10, 10], [10, 10, 11.1]], cell=[20, 20, 20])
    write(tmp_path / "a.extxyz", atoms)
    with connect(tmp_path / "b.db") as database:
        database.write(atoms)
    for name in ("a.extxyz", "b.db"):
        (record,) = read(tmp_path / name)
        assert isinstance(record, Unreadable)
        assert record.reason == (
            "not periodic: pbc F F F and vacuum on all sides: a molecule, not a crystal"
        )
    # Said to be periodic, it is a question of its phonons.
    atoms.pbc = True
    write(tmp_path / "c.extxyz", atoms)
    assert not note(one(tmp_path / "c.extxyz"))


@pytest.mark.parametrize(
    ("pbc", "height", "isolated", "noted"),
    [
        ((True, True, False), 20, False, False),
        ((True, True, False), 4, False, True),
        ((False, False, False), 20, False, True),
        ((True, True, True), 4, False, False),
    ],
)
def test_vacuum_where_it_does_not_repeat(
    pbc: tuple[bool, ...], height: float, isolated: bool, noted: bool
) -> None:
    found = periodicity(pbc, np.diag([3.0, 3.0, height]), np.zeros((1, 3)))
    assert (found.is_isolated, bool(found.note)) == (isolated, noted)


def test_boundary_conditions_of_json_and_of_python(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(np.diag([3.0, 3.0, 3.0]), pbc=(True, True, False))
    Structure(lattice, ["Cu"], [[0, 0, 0]]).to(str(tmp_path / "a.json"))
    assert "taken as periodic" in note(one(tmp_path / "a.json"))
    text = (tmp_path / "a.json").read_text()
    for odd in ("[true]", '"TTF"', "7", "null"):
        (tmp_path / "b.json").write_text(text.replace(" ", "").replace("[true,true,false]", odd))
        assert not note(one(tmp_path / "b.json"))
    atoms = Atoms("Cu", cell=[3, 3, 3])
    record = Crystal.from_ase(atoms, "x", (Origin("python"),))
    assert "taken as periodic" in note(record)


# ---------------------------------------------------------------- extended XYZ


@pytest.mark.parametrize(
    "comment",
    [
        'Lattice="4 0 0 0 4 0 0 0 4" stress="1 2 3 4 5 6"',
        'Lattice="4 0 0 0 4 0 0 0 4" virial="1 2 3 4 5 6" stress=[1,2,3,4,5,6]',
        'Lattice="4 0 0 0 4 0 0 0 4" stress="1 2 3 4 5 6 7 8 9" name="a b"',
        'Lattice="4 0 0 0 4 0 0 0 4" stress=unknown',
        'Lattice="4 4 4"',
        'Lattice="4 4 4 0 0 0"',
    ],
)
def test_matrices_of_other_lengths(tmp_path: Path, comment: str) -> None:
    (tmp_path / "a.xyz").write_text(f"1\n{comment} Properties=species:S:1:pos:R:3\nCu 0 0 0\n")
    record = one(tmp_path / "a.xyz")
    np.testing.assert_array_equal(record.cell, np.eye(3) * 4)


@pytest.mark.parametrize("lattice", ["4 4 4 90 90 90", "4 4", "4 0 0 0 4 0 0 0 x"])
def test_lattices_that_are_none(tmp_path: Path, lattice: str) -> None:
    (tmp_path / "a.xyz").write_text(f'1\nLattice="{lattice}"\nCu 0 0 0\n')
    (record,) = read(tmp_path / "a.xyz")
    assert isinstance(record, Unreadable) and record.kind in ("no cell", "syntax")


def test_a_lattice_is_read_row_by_row() -> None:
    frame = one(CASES / "CuAu-a-std.extxyz")
    np.testing.assert_array_equal(frame.cell, [[1.95, 1.95, 0], [-1.95, 1.95, 0], [0, 0, 3.7]])
    assert one(CASES / "voigt6.extxyz").id == one_of(np.diag([4.12] * 3)).id


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """By both protocols: twins of either handedness, and of either hydrogen."""
    names = ("CuAu-a-std.extxyz", "CuAu-c-left.extxyz", "CuH.vasp", "CuD.vasp")
    path = tmp_path_factory.mktemp("masses") / "s.h5"
    hpcbench.run(
        [one(CASES / name) for name in names], model="ase.calculators.emt:EMT", out=path,
        protocol="both", supercell=(2, 2, 2), dtype="float64", mesh=(4, 4, 4), band_points=11,
        workers=0, keep_forces=True,
    )  # fmt: skip
    return hpcbench.open(path)


def test_twins_have_the_same_phonons_by_every_protocol(store: Store) -> None:
    right, left = store.find("CuAu-a-std"), store.find("CuAu-c-left")
    for suffix in ("", ":phononbench"):
        one_, other = store.row(right + suffix), store.row(left + suffix)
        assert one_["status"] == other["status"] == "done"
        for name in ("max_frequency", "min_frequency_mesh", "energy"):
            assert one_[name] == pytest.approx(other[name], abs=1e-5), name
        assert one_["verdict"] == other["verdict"]
        assert one_["spacegroup_number"] == other["spacegroup_number"] == 123
    assert "left-handed cell" in store.row(left)["notes"]
    assert "left-handed cell" not in store.row(right)["notes"]


def test_deuterium_vibrates_as_its_mass(store: Store, tmp_path: Path) -> None:
    light, heavy = store["CuH"], store["CuD"]
    assert len(light.row["masses"]) == 0
    np.testing.assert_allclose(heavy.row["masses"], [63.546, DEUTERIUM])
    np.testing.assert_allclose(heavy.force_constants, light.force_constants, atol=1e-6)
    reduced = [1 / (1 / 63.546 + 1 / mass) for mass in (1.00794, DEUTERIUM)]
    highest = [result.row["gamma_optical"] for result in (light, heavy)]
    assert highest[0] / highest[1] == pytest.approx(np.sqrt(reduced[1] / reduced[0]), rel=1e-4)
    phonon = store.phonopy("CuD")
    np.testing.assert_allclose(phonon.primitive.masses, [63.546, DEUTERIUM])
    # It goes out, and comes back.
    only = store[[heavy.id]]
    export(only, "phonopy", tmp_path / "phonopy")
    (folder,) = (entry for entry in (tmp_path / "phonopy").iterdir() if entry.is_dir())
    written = read_phonopy_yaml(folder / "phonopy.yaml")
    assert written.unitcell is not None
    np.testing.assert_allclose(written.unitcell.masses, [63.546, DEUTERIUM], atol=1e-6)
    assert one(folder / "phonopy.yaml").masses is not None
    export(only, "extxyz", tmp_path / "a.extxyz")
    assert one(tmp_path / "a.extxyz").masses is not None


def test_masses_are_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    from hpcbench.cli import main

    assert main(["show", "CuD", "--store", str(store.path)]) == 0
    assert "H 2.014 u, of its source" in capsys.readouterr().out


def test_elements_have_phonopys_masses() -> None:
    table = of_elements()
    assert table[29] == 63.546 and np.isnan(table[94]) and np.isnan(table[0])
