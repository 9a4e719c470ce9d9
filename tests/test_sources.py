"""Reading crystals: formats, names, archives, lists, and everything that can be wrong with them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import read, write
from ase.spacegroup import crystal as spacegroup_crystal

from hpcbench.crystal import Crystal
from hpcbench.curation.validation import examine
from hpcbench.errors import SourceError, UnsuitableError
from hpcbench.sources import (
    LeftOut,
    SourceFile,
    Unreadable,
    find_files,
    find_sources,
    merge,
    read_file,
)

BAD = Path(__file__).parent / "data" / "bad"


def salt(x: float = 0.5, edge: float = 4.0) -> Atoms:
    """An oblique invented salt: Cl first, so that a reader that sorts is found out."""
    cell = [[edge, 0.0, 0.0], [0.25, edge, 0.0], [0.125, 0.25, edge]]
    return Atoms("ClNa", scaled_positions=[[x, 0.25, 0.125], [0.0, 0.0, 0.0]], cell=cell, pbc=True)


def structure_dict(atoms: Atoms) -> dict[str, object]:
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_structure(atoms).as_dict()


def phonopy_text(atoms: Atoms) -> str:
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(symbols=list(atoms.symbols), cell=atoms.cell[:], positions=atoms.positions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phonopy.yaml"
        phonopy.Phonopy(cell, np.diag([1, 2, 3]), log_level=0).save(path)
        return path.read_text()


def write_format(folder: Path, kind: str, atoms: Atoms) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "cif":
        path = folder / "salt.cif"
        write(path, atoms, format="cif")
    elif kind == "poscar":
        path = folder / "POSCAR"
        write(path, atoms, format="vasp", direct=True)
    elif kind == "vasp":
        path = folder / "salt.vasp"
        write(path, atoms, format="vasp", direct=False)
    elif kind == "xyz":
        path = folder / "salt.extxyz"
        write(path, atoms, format="extxyz")
    elif kind == "xyz.gz":
        path = folder / "salt.xyz.gz"
        text = io.StringIO()
        write(text, atoms, format="extxyz")
        path.write_bytes(gzip.compress(text.getvalue().encode()))
    elif kind == "json":
        path = folder / "salt.json"
        path.write_text(json.dumps(structure_dict(atoms)))
    elif kind == "json.gz":
        path = folder / "salt.json.gz"
        path.write_bytes(gzip.compress(json.dumps([structure_dict(atoms)]).encode()))
    elif kind == "db":
        path = folder / "salt.db"
        with connect(path) as database:
            database.write(atoms)
    elif kind == "yaml":
        path = folder / "phonopy_disp.yaml"
        path.write_text(phonopy_text(atoms))
    elif kind == "yaml.xz":
        path = folder / "salt.yaml.xz"
        path.write_bytes(lzma.compress(phonopy_text(atoms).encode()))
    else:
        path = folder / "salt.yaml.bz2"
        path.write_bytes(bz2.compress(phonopy_text(atoms).encode()))
    return path


KINDS = ["cif", "poscar", "vasp", "xyz", "xyz.gz", "json", "json.gz", "db", "yaml", "yaml.xz", "b"]


def pack(folder: Path, archive: Path) -> None:
    """Put a folder's files into an archive, with one folder level."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for path in sorted(folder.iterdir()):
                target.write(path, f"things/{path.name}")
    else:
        endings = {".tar": "w:", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
        with tarfile.open(archive, endings[archive.suffix]) as target:
            for path in sorted(folder.iterdir()):
                target.add(path, f"things/{path.name}")


def read_all(*sources: str | Path, with_supercell: bool = False) -> list[Crystal | Unreadable]:
    files = find_files(sources)
    return [r for file in files for r in read_file(file, with_supercell=with_supercell)]


def kinds(records: list[Crystal | Unreadable]) -> list[str]:
    return [record.kind if isinstance(record, Unreadable) else "" for record in records]


def assert_salt(record: Crystal | Unreadable, x: float = 0.5) -> None:
    assert isinstance(record, Crystal), record
    expected = salt(x)
    assert list(record.numbers) == [17, 11]
    # A CIF has no orientation: compare the metric and the coordinates.
    assert np.allclose(record.cell @ record.cell.T, expected.cell @ expected.cell.T, atol=1e-5)
    fractional = np.linalg.solve(record.cell.T, record.positions.T).T
    assert np.allclose(fractional, expected.get_scaled_positions(), atol=1e-6)


# Formats


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("archive", ["", "a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz"])
def test_round_trip(tmp_path: Path, kind: str, archive: str) -> None:
    path = write_format(tmp_path / "in", kind, salt())
    source = tmp_path / archive if archive else path.parent
    if archive:
        pack(path.parent, source)
    (record,) = read_all(source)
    assert_salt(record)
    origin = f"{source}::things/{path.name}" if archive else str(path)
    assert [(o.file, o.index) for o in record.origins] == [(origin, 0)]
    folder = "things" if archive else "in"
    names = {"poscar": f"{folder}-POSCAR", "yaml": f"{folder}-phonopy_disp"}
    assert record.name == names.get(kind, "salt")


def test_importing_loads_no_parser() -> None:
    code = (
        "import sys, hpcbench.sources; "
        "print([m for m in ('ase', 'pymatgen', 'phonopy', 'yaml') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_frames_names_and_generators(tmp_path: Path) -> None:
    frames = [salt(0.1 * i) for i in range(1, 7)]
    frames[1].info = {"generator": "DiffCSP", "source_id": 47}
    frames[2].info = {"name": "my salt", "generator": "hand"}
    frames[3].info = {"material_id": "mp-22862"}
    frames[4].info = {"id": 12}
    frames[5].info = {"energy": -1.0, "stress": np.zeros((3, 3))}
    frames[5].pbc = False  # a writer that forgot
    write(tmp_path / "many.extxyz", frames)
    records = read_all(tmp_path / "many.extxyz")
    names = ["many-0", "DiffCSP-47", "my salt", "mp-22862", "many-12", "many-5"]
    assert [r.name for r in records] == names
    for i, record in enumerate(records, start=1):
        assert_salt(record, 0.1 * i)
        assert record.origins[0].index == i - 1
    assert [r.origins[0].generator for r in records] == ["", "DiffCSP", "hand", "", "", ""]


def test_frames_are_read_lazily(tmp_path: Path) -> None:
    write(tmp_path / "many.extxyz", [salt(0.1), salt(0.2)])
    with (tmp_path / "many.extxyz").open("a") as file:
        file.write("junk\n")
    records = read_file(SourceFile(str(tmp_path / "many.extxyz"), explicit=True))
    assert_salt(next(records), 0.1)


def test_json_layouts(tmp_path: Path) -> None:
    one, two = structure_dict(salt(0.1)), structure_dict(salt(0.2))
    layouts = {
        "list.json": ([one, two], ["list-0", "list-1"]),
        "names.json": ({"first": one, "second": two}, ["first", "second"]),
        "objects.json": (
            [{"mp_id": "mp-1", "structure": one}, {"structure": two, "generator": "G", "id": 3}],
            ["mp-1", "G-3"],
        ),
        "object.json": ({"structure": one, "material_id": "mp-1"}, ["object"]),
        "column.json": ({"structure": {"a": one, "b": two}}, ["a", "b"]),
    }
    for file, (content, names) in layouts.items():
        (tmp_path / file).write_text(json.dumps(content))
        records = read_all(tmp_path / file)
        assert [r.name for r in records] == names
        assert_salt(records[0], 0.1)


def test_database_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with connect(path) as database:
        database.write(salt(0.1), generator="G", source_id=5)
        gone = database.write(salt(0.9))
        database.write(salt(0.2), name="named")
        database.write(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]]))
    with connect(path) as database:
        database.delete([gone])
    before = path.read_bytes()
    records = read_all(path)
    assert kinds(records) == ["", "", "no cell"]
    assert [r.name for r in records] == ["G-5", "named", "rows-2"]
    assert_salt(records[1], 0.2)
    assert path.read_bytes() == before


def test_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    path.write_bytes((BAD / "foreign.db").read_bytes())
    assert kinds(read_all(path)) == ["database"]
    assert path.read_bytes() == (BAD / "foreign.db").read_bytes()
    assert os.listdir(tmp_path) == ["foreign.db"]


def test_supercell_of_phonopy_only_when_asked(tmp_path: Path) -> None:
    path = write_format(tmp_path, "yaml", salt())
    (without,) = read_all(path)
    (with_matrix,) = read_all(path, with_supercell=True)
    assert isinstance(without, Crystal) and isinstance(with_matrix, Crystal)
    assert without.supercell_matrix is None
    assert np.array_equal(with_matrix.supercell_matrix, np.diag([1, 2, 3]))
    assert without.id != with_matrix.id


def test_phonopy_in_bohr(tmp_path: Path) -> None:
    text = phonopy_text(salt()).replace('length: "angstrom"', 'length: "au"')
    assert '"au"' in text
    (tmp_path / "a.yaml").write_text(text)
    (record,) = read_all(tmp_path / "a.yaml")
    assert isinstance(record, Crystal)
    assert np.isclose(record.cell[0, 0], 4.0 * 0.529177, atol=1e-5)


# CIF


CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
{extra}
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{sites}
"""


def cif(sites: str, extra: str = "", name: str = "x", a: str = "5.64", gamma: str = "90") -> str:
    return CIF.format(sites=sites, extra=extra, name=name, a=a, c=a, gamma=gamma)


IDENTITY = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'"
ROCK_SALT = "_symmetry_space_group_name_H-M Fm-3m\n_symmetry_Int_Tables_number 225\n"


def read_text(tmp_path: Path, text: str) -> list[Crystal | Unreadable]:
    (tmp_path / "a.cif").write_text(text)
    return read_all(tmp_path / "a.cif")


def test_cif_list_stays_as_it_is(tmp_path: Path) -> None:
    sites = "Cl Cl1 0.3333 1.25 -0.1\nNa Na1 0 0 0\nCl Cl2 0.3333 1.25 -0.1"
    (record,) = read_text(tmp_path, cif(sites, IDENTITY))
    assert isinstance(record, Crystal)
    assert list(record.numbers) == [17, 11, 17]
    expected = np.array([[0.3333, 1.25, -0.1], [0, 0, 0], [0.3333, 1.25, -0.1]]) * 5.64
    assert np.array_equal(record.positions, expected)
    with pytest.raises(UnsuitableError, match=r"Cl \(atom 1\) and Cl \(atom 3\)"):
        examine(record)


@pytest.mark.parametrize(
    "symmetry", [ROCK_SALT, ROCK_SALT + IDENTITY, "_space_group_IT_number 225"], ids=str.strip
)
def test_cif_asymmetric_unit_of_a_generator(tmp_path: Path, symmetry: str) -> None:
    """A space group with no operators, or with the identity alone as CrystaLLM writes it."""
    extra = symmetry + "\n_chemical_formula_sum 'Na4 Cl4'"
    (record,) = read_text(tmp_path, cif("Na Na 0 0 0\nCl Cl 0.5 0.5 0.5", extra))
    assert isinstance(record, Crystal)
    assert list(record.numbers) == [11] * 4 + [17] * 4
    (origin,) = record.origins
    assert dict(origin.columns)["mended"].startswith("symmetry operators of ")
    examine(record, min_distance=2.8)
    (again,) = read_text(tmp_path, cif("Na Na 0 0 0\nCl Cl 0.5 0.5 0.5", extra))
    assert again.id == record.id


def test_cif_full_list_with_the_name_of_its_group(tmp_path: Path) -> None:
    faces = ["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"]
    holes = ["0.5 0.5 0.5", "0.5 0 0", "0 0.5 0", "0 0 0.5"]
    sites = "\n".join([f"Na Na {x}" for x in faces] + [f"Cl Cl {x}" for x in holes])
    (record,) = read_text(tmp_path, cif(sites, ROCK_SALT + IDENTITY))
    assert isinstance(record, Crystal)
    assert list(record.numbers) == [11] * 4 + [17] * 4
    assert record.origins[0].columns == ()


def test_cif_operators_and_rounded_special_positions(tmp_path: Path) -> None:
    """Rounded thirds give one atom at a special position, and not several beside each other."""
    magnesium = spacegroup_crystal(
        "Mg", [(1 / 3, 2 / 3, 0.25)], spacegroup=194, cellpar=[3.2, 3.2, 3.2, 90, 90, 120]
    )
    rotations, shifts = magnesium.info["spacegroup"].get_op()
    operators = []
    for rotation, shift in zip(rotations, shifts, strict=True):
        axes = []
        for row, move in zip(rotation, shift, strict=True):
            terms = "".join(f"{int(n):+d}*{x}" for n, x in zip(row, "xyz", strict=True) if n)
            axes.append(terms.replace("1*", "") + ("+1/2" if move else ""))
        operators.append("'" + ", ".join(axes) + "'")
    extra = "loop_\n_space_group_symop_operation_xyz\n" + "\n".join(operators)
    text = cif("Mg2+ Mg1 0.333 0.667(1) 0.25", extra, a="3.2", gamma="120")
    (record,) = read_text(tmp_path, text)
    assert isinstance(record, Crystal)
    assert record.natoms == 2
    fractional = np.linalg.solve(record.cell.T, record.positions.T).T
    assert np.allclose(fractional[0], [1 / 3, 2 / 3, 0.25], atol=1e-9)


def test_cif_blocks(tmp_path: Path) -> None:
    """Blocks of one name are two crystals, text blocks none, and a cut-off block harms no other."""
    good = cif("Na Na 0 0 0", name="same")
    text = "data_global\n_journal_year 1999\n" + good + good.replace("5.64", "5.65") + good[:-12]
    records = read_text(tmp_path, text)
    assert kinds(records) == ["", "", "truncated"]
    assert [r.name for r in records] == ["same", "same", "a-2"]


@pytest.mark.parametrize(
    ("symbol", "number"), [("Fe3+", 26), ("FE", 26), ("O2-", 8), ("D", 1), ("Na1", 11)]
)
def test_cif_type_symbols(tmp_path: Path, symbol: str, number: int) -> None:
    (record,) = read_text(tmp_path, cif(f"{symbol} label 0 0 0"))
    assert isinstance(record, Crystal)
    assert list(record.numbers) == [number]


@pytest.mark.parametrize(
    ("label", "number"), [("Co1", 27), ("C1", 6), ("Ow", 8), ("CaA", 20), ("NA2", 11), ("Q1", 0)]
)
def test_cif_labels_without_type(tmp_path: Path, label: str, number: int) -> None:
    text = cif(f"{label} 0 0 0").replace("_atom_site_type_symbol\n", "")
    (record,) = read_text(tmp_path, text)
    if number:
        assert isinstance(record, Crystal)
        assert list(record.numbers) == [number]
    else:
        assert kinds([record]) == ["unknown element"]


# Finding files


def test_folder_in_natural_order_without_what_is_no_crystal(tmp_path: Path) -> None:
    for name in ["gen_10.cif", "gen_2.cif", "sub/gen_1.cif", ".hidden.cif", "__MACOSX/gen_2.cif"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, salt())
    for name in ["README.md", "run.log", "list.txt", "band.yaml", "results.csv"]:
        (tmp_path / name).write_text("x")
    names = [str(Path(f.path).relative_to(tmp_path)) for f in find_files([tmp_path])]
    assert names == ["gen_2.cif", "gen_10.cif", "sub/gen_1.cif"]
    assert find_sources([tmp_path]).note() == (
        "left out: 1 .log files (run.log), 1 .md files (README.md), 1 CSV tables without "
        "structures (results.csv), 1 YAML files without a crystal (band.yaml), 1 lists of sources "
        "(list.txt)"
    )


def test_each_file_once_and_named_stays_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.cif", salt())
    write(tmp_path / "b.cif", salt(0.2))
    monkeypatch.chdir(tmp_path)
    files = find_files([".", "./b.cif", "*.cif", str(tmp_path / "a.cif")])
    assert files == [SourceFile("a.cif", True), SourceFile("b.cif", True)]


def test_globs(tmp_path: Path) -> None:
    for name in ["a1.cif", "a2.cif", "b.cif", "deep/er/a3.cif", "brackets[1].cif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, salt())

    def found(pattern: str) -> list[str]:
        return [Path(f.path).name for f in find_files([tmp_path / pattern])]

    assert found("a?.cif") == ["a1.cif", "a2.cif"]
    assert found("**/a*.cif") == ["a1.cif", "a2.cif", "a3.cif"]
    assert found("de*") == ["a3.cif"]
    assert found("brackets[1].cif") == ["brackets[1].cif"]


def test_list_file(tmp_path: Path) -> None:
    write_format(tmp_path / "one", "cif", salt(0.1))
    write_format(tmp_path / "two", "xyz", salt(0.2))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "all.txt").write_text(
        "# my crystals\n../one  # a folder\n\n../two/*.extxyz\nmore.lst\n"
    )
    (tmp_path / "lists" / "more.lst").write_text(f"{tmp_path}/one/salt.cif\n")
    records = read_all(tmp_path / "lists" / "all.txt")
    assert len(records) == 2
    assert_salt(records[0], 0.1)
    assert_salt(records[1], 0.2)


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README").write_text("x")
    (tmp_path / "self.txt").write_text("other.txt\n")
    (tmp_path / "other.txt").write_text("# comes back\nself.txt\n")
    (tmp_path / "void.txt").write_text("# nothing\n")
    (tmp_path / "lost.txt").write_text("\nlost.cif\n")
    for source, words in [
        ("nothing.cif", "no file or folder"),
        ("*.cif", "No file matches"),
        ("empty", "holds no crystal files"),
        ("notes", r"1 files of no format \(README\); name files themselves"),
        ("self.txt", r"other.txt, line 2: .*names itself"),
        ("void.txt", "names no source"),
        ("lost.txt", r"lost.txt, line 2: .*no file or folder"),
    ]:
        with pytest.raises(SourceError, match=words) as caught:
            find_files([tmp_path / source])
        assert "\n" not in str(caught.value)


# Archives


def test_archive_members_that_mean_harm_or_nothing(tmp_path: Path) -> None:
    text = io.StringIO()
    write(text, salt(), format="extxyz")
    names = ["/etc/a.xyz", "../../b.xyz", "__MACOSX/c.xyz", "d/.e.xyz", "README", "f.zip"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, text.getvalue())
    records = read_all(tmp_path / "a.zip")
    assert kinds(records) == ["", "", "nested archive"]
    assert [r.name for r in records] == ["a", "b", "f.zip"]
    left_out = find_sources([tmp_path / "a.zip"]).left_out
    assert left_out == [LeftOut(f"{tmp_path}/a.zip::README", "files of no format")]
    assert sorted(os.listdir(tmp_path)) == ["a.zip"]


def test_damaged_member_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    text = io.StringIO()
    write(text, [salt(0.1), salt(0.2)], format="extxyz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in ("one.xyz", "two.xyz", "three.xyz"):
            archive.writestr(name, text.getvalue())
    data = bytearray(path.read_bytes())
    data[data.index(b"two.xyz") + 20] ^= 1  # fails the checksum
    path.write_bytes(data)
    by_file = Counter(
        (r.origin.file.split("::")[1], r.kind) for r in read_all(path) if isinstance(r, Unreadable)
    )
    assert by_file[("two.xyz", "archive")] == 1
    crystals = [r.name for r in read_all(path) if isinstance(r, Crystal)]
    assert {"one-0", "one-1", "three-0", "three-1"} <= set(crystals)


def test_truncated_tar_keeps_what_came_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        frames = [salt(x) for x in rng.random(50)]
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in" / f"{i:02d}.extxyz", frames)
    pack(tmp_path / "in", tmp_path / "a.tar.gz")
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[: len(data) // 2])
    records = read_all(tmp_path / "a.tar.gz")
    assert sum(isinstance(r, Crystal) for r in records) > 200
    assert kinds(records)[-1] == "archive"
    assert len({r.id for r in records}) == len(records)


# What cannot be read


BAD_FILES = {
    "POSCAR-dummy-element": ["unknown element"],
    "POSCAR-no-elements": ["unknown element"],
    "POSCAR-short": ["truncated"],
    "POSCAR-truncated": ["syntax"],
    "POSCAR-words": ["syntax"],
    "bad-operator.cif": ["symmetry"],
    "binary.cif": ["binary"],
    "broken.db": ["database"],
    "corrupt.tar.gz": ["archive"],
    "corrupt.zip": ["archive"],
    "cut-between-atoms.cif": ["formula"],
    "deep.json": ["too large"],
    "disordered.cif": ["disordered"],
    "disordered.json": ["disordered"],
    "dummy-element.cif": ["unknown element"],
    "dummy-element.json": ["unknown element"],
    "empty.cif": ["empty"],
    "empty.db": ["empty"],
    "empty.extxyz": ["empty"],
    "empty.zip": ["empty"],
    "foreign.db": ["database"],
    "impossible-angles.cif": ["no cell"],
    "invalid.json": ["syntax"],
    "last-truncated.extxyz": ["", "", "truncated"],
    "magnetic.cif": ["magnetic"],
    "malformed.json": ["syntax"],
    "middle-atom-extra.extxyz": ["", "syntax", ""],
    "middle-atom-missing.extxyz": ["", "truncated", ""],
    "middle-bad-header.extxyz": ["", "syntax", ""],
    "middle-bad-number.extxyz": ["", "syntax", ""],
    "middle-dummy-element.extxyz": ["", "unknown element", ""],
    "middle.json": ["", "no structure", ""],
    "molecule.json": ["no cell"],
    "molecule.xyz": ["no cell"],
    "nan.extxyz": ["not finite"],
    "nested.zip": ["nested archive"],
    "no-atoms.cif": ["no atoms"],
    "no-atoms.extxyz": ["no atoms"],
    "no-cell.cif": ["no cell"],
    "no-crystals.zip": ["empty"],
    "no-structure.json": ["no structure"],
    "not-a-cif.cif": ["syntax"],
    "not-an-xyz.xyz": ["syntax"],
    "not-compressed.extxyz.gz": ["compression"],
    "not-compressed.json.bz2": ["compression"],
    "not-compressed.yaml.xz": ["compression"],
    "phonopy-invalid.yaml": ["syntax"],
    "phonopy-malformed.yaml": ["syntax"],
    "phonopy-no-cell.yaml": ["no structure"],
    "readable-deuterium.cif": [""],
    "readable-latin1.cif": [""],
    "readable-utf16.cif": [""],
    "truncated.cif": ["truncated"],
    "truncated.extxyz.gz": ["", "", "", "", "", "", "compression"],
    "unknown-coordinate.cif": ["syntax"],
    "unknown-group.cif": ["symmetry"],
    "unknown.dat": ["unknown format"],
    "zero-cell.extxyz": ["no cell"],
}


def test_every_bad_file_has_its_kind() -> None:
    assert sorted(BAD_FILES) == sorted(p.name for p in BAD.iterdir() if p.name != "README.md")


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str) -> None:
    records = read_all(BAD / name)
    assert kinds(records) == BAD_FILES[name]
    for index, record in enumerate(records):
        if isinstance(record, Unreadable):
            assert record.reason == f"{record.kind}: {record.message}"
            assert record.origin.index == index
            assert record.message and "\n" not in record.message
            assert len(record.id) == 16 and record.id.startswith("x")


def test_bad_files_of_a_folder_stop_nothing(tmp_path: Path) -> None:
    records = read_all(BAD)
    crystals, unreadable = merge(records)
    assert crystals
    # These are not read when nobody names them: nothing in them looks like a crystal.
    left_out = {Path(item.path).name: item.kind for item in find_sources([BAD]).left_out}
    assert left_out == {
        "README.md": ".md files",
        "deep.json": "JSON files without structures",
        "foreign.db": "databases without crystals",
        "invalid.json": "JSON files without structures",
        "no-crystals.zip::README.md": ".md files",
        "no-structure.json": "JSON files without structures",
        "phonopy-no-cell.yaml": "YAML files without a crystal",
        "unknown.dat": ".dat files",
    }
    expected = Counter(
        kind for name in BAD_FILES for kind in BAD_FILES[name] if kind and name not in left_out
    )
    assert Counter(u.kind for u in unreadable) == expected


def test_file_that_vanishes(tmp_path: Path) -> None:
    (record,) = read_file(SourceFile(str(tmp_path / "gone.cif"), explicit=False))
    assert kinds([record]) == ["file"]


def test_unreadable_id_is_of_the_origin() -> None:
    one, two = read_all(BAD / "empty.cif"), read_all(BAD / "empty.cif")
    assert one[0].id == two[0].id
    assert one[0].id != read_all(BAD / "empty.extxyz")[0].id


# Merging


def test_merge_joins_origins(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [salt(0.1), salt(0.2), salt(0.1)])
    write(tmp_path / "b.vasp", salt(0.2), direct=True, format="vasp")
    records = read_all(tmp_path)
    crystals, unreadable = merge([*records, *records])
    assert not unreadable
    assert [c.name for c in crystals] == ["a-0", "a-1"]
    found = [[(Path(o.file).name, o.index) for o in c.origins] for c in crystals]
    assert found == [[("a.extxyz", 0), ("a.extxyz", 2)], [("a.extxyz", 1), ("b.vasp", 0)]]


# Curation


def crystal(atoms: Atoms) -> Crystal:
    return Crystal.from_ase(atoms, "x")


def test_examine_accepts_a_crystal() -> None:
    examine(crystal(salt()))
    examine(crystal(Atoms("H", cell=np.eye(3) * 1.2, pbc=True)))


def test_examine_names_the_overlap() -> None:
    atoms = Atoms("NaCl", positions=[[0.1, 0, 0], [3.9, 0, 0]], cell=[4, 4, 4], pbc=True)
    with pytest.raises(UnsuitableError) as caught:
        examine(crystal(atoms))
    assert caught.value.reason == (
        "overlap: Na (atom 1) and Cl (atom 2) (a periodic image) are 0.200 A apart (limit 0.5 A)"
    )
    examine(crystal(atoms), min_distance=0.1)


def test_examine_sees_an_atom_and_its_own_image() -> None:
    atoms = Atoms("Na", cell=[0.4, 10, 10], pbc=True)
    with pytest.raises(UnsuitableError, match=r"Na \(atom 1\) and Na \(atom 1\) \(a periodic"):
        examine(crystal(atoms))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (np.eye(3) * 0.9, "volume is 0.729"),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], "volume is 0 "),
        ([[40, 0, 0], [0, 40, 0], [0, 0, 0.05]], "0.05 A high"),
        (np.diag([2e4, 4, 4]), "2e.04 A long"),
        (np.diag([np.nan, 4, 4]), "NaN"),
    ],
)
def test_examine_refuses_cells(cell: np.ndarray, words: str) -> None:
    record = Crystal.from_arrays("x", (), np.array(cell, float), np.zeros((1, 3)), np.array([11]))
    with pytest.raises(UnsuitableError, match=words) as caught:
        examine(record)
    assert caught.value.kind == "cell"


def test_examine_refuses_positions_that_are_not_finite() -> None:
    positions = np.array([[0, 0, 0], [np.inf, 2, 2]])
    record = Crystal.from_arrays("x", (), np.eye(3) * 4.0, positions, np.array([11, 17]))
    with pytest.raises(UnsuitableError, match="atom 2") as caught:
        examine(record)
    assert caught.value.kind == "coordinates"


@pytest.mark.parametrize("element", ["Pu", "Po", "Ra", "Og"])
def test_examine_refuses_elements_without_mass(element: str) -> None:
    with pytest.raises(UnsuitableError, match=element) as caught:
        examine(crystal(Atoms(element, cell=[4, 4, 4], pbc=True)))
    assert caught.value.kind == "no mass"


# Other people's data


def refusals(crystals: list[Crystal]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in crystals:
        try:
            examine(record)
        except UnsuitableError as error:
            counts[error.kind] += 1
    return counts


@pytest.mark.reference
def test_reference_mix(reference_data: Path) -> None:
    crystals, unreadable = merge(read_all(reference_data / "generated" / "mix-1000.extxyz"))
    assert (len(crystals), len(unreadable)) == (1000, 0)
    assert refusals(crystals) == {"overlap": 15, "no mass": 3}
    assert set(Counter(c.origins[0].generator for c in crystals).values()) == {125}
    assert crystals[0].name == "DiffCSP-47"


@pytest.mark.reference
@pytest.mark.parametrize("run", ["run1", "run2"])
def test_reference_mattergen(reference_data: Path, run: str) -> None:
    folder = reference_data / "generated" / "native" / "mattergen" / run
    frames = read_all(folder / "generated_crystals.extxyz")
    members = read_all(folder / "generated_crystals_cif.zip")
    assert [len(frames), len(members)] == [16, 16]
    assert all(isinstance(record, Crystal) for record in frames + members)
    assert {m.name for m in members} == {f"gen_{i}" for i in range(16)}
    by_name = {m.name: m for m in members}
    for i, frame in enumerate(frames):
        assert np.array_equal(frame.numbers, by_name[f"gen_{i}"].numbers)


@pytest.mark.reference
def test_reference_mattergen_release(reference_data: Path) -> None:
    records = read_all(reference_data / "generated" / "native" / "mattergen" / "release-cifs.zip")
    assert len(records) == 772
    assert Counter(kinds(records)) == {"": 770, "disordered": 2}


@pytest.mark.reference
def test_reference_omatg(reference_data: Path) -> None:
    folder = reference_data / "generated" / "native" / "omatg"
    nonsense = read_all(folder / "20241022-095708.xyz")
    assert len(nonsense) == 200
    # pbc F F F with a cell: read as crystals, and refused for what they are.
    assert all(isinstance(record, Crystal) for record in nonsense)
    refused = refusals(merge(nonsense)[0])
    assert refused["cell"] == 6 and refused["overlap"] == 32
    assert len(read_all(folder / "example.xyz")) == 219


@pytest.mark.reference
def test_reference_phonopy(reference_data: Path) -> None:
    from phonopy.interface.phonopy_yaml import read_phonopy_yaml

    folder = reference_data / "phonons"
    files = [f for f in find_files([folder]) if f.path.endswith((".yaml", ".yaml.xz"))]
    assert len(files) >= 40
    for file in files:
        (record,) = read_file(file, with_supercell=True)
        assert isinstance(record, Crystal)
        if Path(file.path).stat().st_size > 60_000:
            continue  # phonopy's own reader takes seconds for force constants
        expected = read_phonopy_yaml(file.path)
        assert expected.unitcell is not None
        units = expected.physical_units
        factor = 1.0 if units is None else units.distance_to_A
        assert np.allclose(record.cell, expected.unitcell.cell * factor)
        assert np.allclose(record.positions, expected.unitcell.positions * factor)
        assert np.array_equal(record.numbers, expected.unitcell.numbers)
        if expected.supercell_matrix is not None:
            assert np.array_equal(record.supercell_matrix, expected.supercell_matrix)
    (record,) = read_all(folder / "mdr" / "mp-1000.yaml.bz2", with_supercell=True)
    assert isinstance(record, Crystal)
    assert (record.name, record.formula) == ("mp-1000", "Ba4Te4")


@pytest.mark.reference
def test_reference_json(reference_data: Path) -> None:
    file = reference_data / "heat-capacity" / "alexandria-binary-pbe-phonon-2025.1.json.gz"
    records = read_all(file)
    assert len(records) == 1170
    assert not any(kinds(records))
    assert records[0].name == "mp-1105"


@pytest.mark.reference
def test_reference_frames_as_ase_reads_them(reference_data: Path) -> None:
    path = reference_data / "potential-benchmarks" / "random-TP.xyz"
    records = read_all(path)
    frames = read(path, ":")
    assert len(records) == len(frames)
    for record, atoms in zip(records, frames, strict=True):
        assert isinstance(record, Crystal)
        assert np.array_equal(record.positions, atoms.positions)
        assert np.array_equal(record.cell, atoms.cell[:])
