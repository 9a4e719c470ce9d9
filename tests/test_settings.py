"""CIF and POSCAR: elements and settings are what the file says, or the file has a reason."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from hpcbench.crystal import Crystal
from hpcbench.relaxation.symmetry import find_space_group
from hpcbench.sources import Unreadable, find_files, read_file

CASES = Path(__file__).parent / "data" / "reading"


def read(path: Path) -> list[Crystal | Unreadable]:
    return [record for file in find_files([path]) for record in read_file(file)]


def read_text(tmp_path: Path, text: str, name: str = "a.cif") -> Crystal | Unreadable:
    (tmp_path / name).write_text(text)
    (record,) = read(tmp_path / name)
    return record


def said(record: Crystal | Unreadable) -> dict[str, object]:
    assert isinstance(record, Crystal), record
    return dict(record.origins[0].columns)


def group_of(record: Crystal | Unreadable) -> int:
    assert isinstance(record, Crystal), record
    return find_space_group(record.to_ase(), 0.01).number


# ---------------------------------------------------------------- the cases


@pytest.mark.parametrize(
    ("name", "natoms", "group"),
    [("Si-origin2-c2.cif", 8, 227), ("CuO-P4nmm-2.cif", 4, 129), ("Bi-rhcR.cif", 2, 166)],
)
def test_the_setting_that_a_name_gives(name: str, natoms: int, group: int) -> None:
    (record,) = read(CASES / name)
    assert isinstance(record, Crystal) and record.natoms == natoms
    assert group_of(record) == group
    assert list(said(record)) == ["mended"]


@pytest.mark.parametrize("name", ["phantom.cif", "textfield.cif"])
def test_a_text_field_is_text(name: str) -> None:
    (record,) = read(CASES / name)
    atoms = ase.io.read(CASES / name)
    assert isinstance(record, Crystal)
    assert record.formula == atoms.get_chemical_formula("hill")
    np.testing.assert_allclose(record.cell, atoms.cell[:], atol=1e-12)
    np.testing.assert_allclose(record.positions, atoms.positions, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("disorder-groups.cif", "disordered: site Cl1B is one of several alternatives"),
        ("attached-H.cif", "hydrogens: 2 of site O1 are not listed"),
        ("va.cif", "vacancy: site Va is a vacancy"),
        ("mixed.cif", "disordered: site Fe,Mn1 is a mixture"),
        ("nbzr.cif", "disordered: site Nb,Zr is a mixture"),
        ("type-mixed.cif", "disordered: site Si1 is a mixture"),
        ("MgO-B1.vasp", "unknown element: the file does not name its elements"),
    ],
)
def test_what_is_not_one_atom_has_a_reason(name: str, reason: str) -> None:
    (record,) = read(CASES / name)
    assert isinstance(record, Unreadable) and record.reason.startswith(reason)


def test_a_dummy_site_is_left_out_and_said() -> None:
    (record,) = read(CASES / "calc-dum.cif")
    assert isinstance(record, Crystal) and record.formula == "ClCs"
    assert said(record) == {"note": "dummy sites left out: Cnt1"}


# ---------------------------------------------------------------- elements


POSCAR = "{comment}\n1.0\n0 2 2\n2 0 2\n2 2 0\n{counts}\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.mark.parametrize(
    ("comment", "counts", "formula"),
    [
        ("MgO", "1 1", "MgO"),
        (" Mg  O ", "1 1", "MgO"),
        ("CO", "1 1", "CO"),
        ("Co", "2", "Co2"),
        ("O Mg", "1 1", "MgO"),
        ("x\n1.0\n0 2 2\n2 0 2\n2 2 0\nMg_pv/6a2f O", "1 1", "MgO"),
    ],
)
def test_a_comment_that_is_the_symbols(
    tmp_path: Path, comment: str, counts: str, formula: str
) -> None:
    lines = comment.split("\n")
    text = POSCAR.format(comment=lines[0], counts=counts)
    if len(lines) > 1:
        text = text.replace(f"\n{counts}", f"\n{lines[-1]}\n{counts}")
    record = read_text(tmp_path, text, "a.vasp")
    assert isinstance(record, Crystal) and record.formula == formula


@pytest.mark.parametrize(
    ("comment", "counts"),
    [
        ("B1 MgO", "1 1"), ("MgO rock salt", "1 1"), ("Mg2O2", "1 1"), ("mgo", "1 1"), ("", "1 1"),
        ("CO", "2"), ("MgO", "2"), ("Mg O H", "1 1"), ("Made with VESTA", "1 1"), ("In P", "2"),
    ],
)  # fmt: skip
def test_any_other_comment_names_no_elements(tmp_path: Path, comment: str, counts: str) -> None:
    record = read_text(tmp_path, POSCAR.format(comment=comment, counts=counts), "a.vasp")
    assert isinstance(record, Unreadable) and record.kind == "unknown element", record


def test_elements_without_numbers_of_atoms(tmp_path: Path) -> None:
    text = POSCAR.format(comment="x", counts="Mg O Si\n1 1")
    record = read_text(tmp_path, text, "a.vasp")
    assert isinstance(record, Unreadable)
    assert record.reason == "syntax: 3 elements are named, 2 numbers of atoms given"


HEAD = """data_x
_cell_length_a {a}
_cell_length_b {b}
_cell_length_c {c}
_cell_angle_alpha {alpha}
_cell_angle_beta {alpha}
_cell_angle_gamma {gamma}
"""


def head(
    a: float = 5.0, b: float = 0.0, c: float = 0.0, alpha: float = 90, gamma: float = 90
) -> str:
    return HEAD.format(a=a, b=b or a, c=c or a, alpha=alpha, gamma=gamma)


def sites(*rows: str, more: str = "", typed: bool = False) -> str:
    tags = ["label", *["type_symbol"] * typed, "fract_x", "fract_y", "fract_z", *more.split()]
    return "loop_\n" + "\n".join(f"_atom_site_{tag}" for tag in tags) + "\n" + "\n".join(rows)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Fe/Mn1", "disordered"), ("Si0.75Al0.25", "disordered"), ("SiAl1", "disordered"),
        ("Mg&Fe", "disordered"), ("(Na,K)1", "disordered"), ("M1", "unknown element"),
        ("Vac1", "vacancy"), ("Vc", "vacancy"), ("'\N{WHITE SQUARE}1'", "vacancy"),
        ("Du1", "unknown element"), ("X1", "unknown element"), ("Wat1", "unknown element"),
        ("Cg1", "unknown element"), ("T1", "unknown element"), ("HO1", "unknown element"),
        ("OH1", "hydrogens"), ("O-H", "hydrogens"), ("1", "unknown element"),
    ],
)  # fmt: skip
def test_labels_that_are_no_element(tmp_path: Path, label: str, kind: str) -> None:
    record = read_text(tmp_path, head() + sites(f"{label} 0 0 0", "O2 .5 .5 .5"))
    assert isinstance(record, Unreadable) and record.kind == kind, record


@pytest.mark.parametrize(
    ("label", "formula", "elements"),
    [
        ("Va1", "'V O'", "OV"), ("HO1", "'H O'", "HO"), ("HO1", "'Ho O'", "HoO"),
        ("T1", "'T O'", "HO"), ("SI1", "'Si O'", "OSi"), ("Fe1A", "", "FeO"),
        ("Fe(1)", "", "FeO"), ("Fe1_2", "", "FeO"), ("C1'", "", "CO"), ("CaM4", "", "CaO"),
        ("Oa", "", "O2"), ("SI1", "", "OSi"), ("D1", "", "HO"), ("O1w", "", "O2"),
    ],
)  # fmt: skip
def test_labels_that_are_an_element(
    tmp_path: Path, label: str, formula: str, elements: str
) -> None:
    extra = f"_chemical_formula_sum {formula}\n" if formula else ""
    record = read_text(tmp_path, head() + extra + sites(f"{label} 0 0 0", "O2 .5 .5 .5"))
    assert isinstance(record, Crystal), record
    assert record.formula == elements


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Si/Al", "disordered"), ("SiAl", "disordered"), ("Vac", "vacancy"), ("X", "unknown"),
        ("H2O", "disordered"), ("Siva", "unknown"), ("'Na, K'", "disordered"),
    ],
)  # fmt: skip
def test_types_that_are_no_element(tmp_path: Path, kind: str, reason: str) -> None:
    text = head() + sites(f"a {kind} 0 0 0", "b O .5 .5 .5", typed=True)
    record = read_text(tmp_path, text)
    assert isinstance(record, Unreadable) and record.reason.startswith(reason), record


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("occupancy", ("0.5", "1"), "disordered"),
        ("occupancy", ("0", "1"), ""),
        ("disorder_group", ("1", "."), ""),
        ("disorder_group", ("-1", "."), "disordered"),
        ("disorder_group", ("1", "2"), "disordered"),
        ("attached_hydrogens", ("?", "0"), ""),
        ("attached_hydrogens", ("3", "0"), "hydrogens"),
        ("calc_flag", ("Dum", "d"), ""),
        ("calc_flag", ("dum", "dum"), "no atoms"),
    ],
)
def test_sites_that_are_no_atoms(
    tmp_path: Path, column: str, values: tuple[str, str], reason: str
) -> None:
    rows = [f"N1 0 0 0 {values[0]}", f"O1 .5 .5 .5 {values[1]}"]
    record = read_text(tmp_path, head() + sites(*rows, more=column))
    if reason:
        assert isinstance(record, Unreadable) and record.kind == reason, record
    else:
        assert isinstance(record, Crystal), record
        left_out = column == "calc_flag" or values[0] == "0"
        assert record.formula == ("O" if left_out else "NO")


# ---------------------------------------------------------------- settings


def silicon(symmetry: str, x: str = ".125", formula: str = "") -> str:
    return head(5.43) + symmetry + formula + sites(f"Si1 {x} {x} {x}")


def named(name: str, tag: str = "_symmetry_space_group_name_H-M") -> str:
    return f"{tag} '{name}'\n"


@pytest.mark.parametrize(
    "symmetry",
    [
        named("F d -3 m :2"),
        named("Fd-3m:2"),
        named("F d -3 m Z"),
        named("F d -3 m (origin choice 2)"),
        named("F d -3 m") + named("-F 4vw 2vw 3", "_symmetry_space_group_name_Hall"),
        named("-F 4vw 2vw 3", "_space_group_name_Hall"),
        named("Fd-3m", "_space_group_name_H-M_alt") + "_space_group_IT_coordinate_system_code 2\n",
        # The usual setting gives 16 atoms.
        named("F d -3 m") + "_chemical_formula_sum Si8\n",
        named("F d -3 m") + "_chemical_formula_sum Si\n_cell_formula_units_Z 8\n",
    ],
)  # fmt: skip
def test_the_same_silicon(tmp_path: Path, symmetry: str) -> None:
    record = read_text(tmp_path, silicon(symmetry))
    assert isinstance(record, Crystal), record
    assert (record.formula, group_of(record)) == ("Si8", 227)
    assert list(said(record)) == ["mended"]


def test_a_setting_that_nothing_tells_is_noted(tmp_path: Path) -> None:
    record = read_text(tmp_path, silicon(named("F d -3 m")))
    assert isinstance(record, Crystal) and record.formula == "Si16"
    assert said(record)["note"] == "usual setting of F d -3 m taken: its file names none"


@pytest.mark.parametrize(
    ("symmetry", "reason"),
    [
        (named("F d -3 m :2") + "_chemical_formula_sum Si\n_cell_formula_units_Z 4\n", "formula"),
        (named("F d -3 m :1") + "_chemical_formula_sum Si\n_cell_formula_units_Z 8\n", "formula"),
        (named("F d -3 m :2") + "_symmetry_Int_Tables_number 225\n", "symmetry"),
        (named("F d -3 m :1") + named("-F 4vw 2vw 3", "_symmetry_space_group_name_Hall"), "symm"),
        (named("P n m a") + named("-F 4vw 2vw 3", "_symmetry_space_group_name_Hall"), "symmetry"),
        (named("P 63/m m c"), "symmetry: the operators of P 63/m m c do not leave the cell"),
        (named("R -3 m :H"), "symmetry: the operators of R -3 m :H do not leave the cell"),
        (named("P 1") + "_symmetry_Int_Tables_number 227\n", "symmetry"),
        (named("Q -1"), "symmetry: the space group 'Q -1' is not known"),
        (named("Q -1") + "_symmetry_Int_Tables_number 2\n", "symmetry: the space group 'Q -1'"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, symmetry: str, reason: str) -> None:
    record = read_text(tmp_path, silicon(symmetry))
    assert isinstance(record, Unreadable) and record.reason.startswith(reason), record


def test_a_name_that_nobody_knows_with_a_number_that_the_formula_confirms(tmp_path: Path) -> None:
    symmetry = named("Fd-3mm") + "_symmetry_Int_Tables_number 227\n_chemical_formula_sum Si8\n"
    assert group_of(read_text(tmp_path, silicon(symmetry, "0"))) == 227


def operators(*texts: str) -> str:
    return "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(f"'{t}'" for t in texts) + "\n"


def test_a_bomb_of_operators(tmp_path: Path) -> None:
    """All products of a hundred thousand would take the memory of a machine."""
    texts = [f"x+{n}/100003,y,z" for n in range(20_000)]
    record = read_text(tmp_path, head() + operators(*texts) + sites("Si1 .1 .2 .3"))
    assert isinstance(record, Unreadable)
    assert record.reason == "too large: 20,000 symmetry operations (limit 400)"


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("x,y,z", "-y,x-y,z", "-x+y,-x,z"), "does not leave the cell as it is"),
        (("x,y,z", "-x,y,z", "x,-y,z"), "the 3 operators that are listed make no group"),
        (("x,y,z", "x,x,z"), "not a rotation"),
        (("x,y,z", "x,y"), "not a rotation"),
        (("x,y,z", "x+1/2,y,z", "x,y+1/2,z"), "make no group"),
    ],
)
def test_operators_that_are_none(tmp_path: Path, texts: tuple[str, ...], reason: str) -> None:
    record = read_text(tmp_path, head() + operators(*texts) + sites("Si1 .1 .2 .3"))
    assert isinstance(record, Unreadable) and record.kind == "symmetry"
    assert reason in record.message


def test_operators_in_decimals_and_of_odd_cells(tmp_path: Path) -> None:
    """pymatgen writes operators of the cell that it found: 2x-z+91/358."""
    text = head() + operators("x,y,z", "-x+0.5, -y+.5, z+0.3333", "x,y,z+.66667", "-x+.5,-y+.5,z",
                              "x,y,z+0.3333", "1/2-x,1/2-y,z+2/3")  # fmt: skip
    record = read_text(tmp_path, text + sites("Si1 .1 .2 .1"))
    assert isinstance(record, Crystal) and record.natoms == 6
    text = head() + operators("x,y,z", "91/358-x,-y,-z")
    record = read_text(tmp_path, text + sites("Si1 .1 .2 .1"))
    assert isinstance(record, Crystal) and record.natoms == 2


def test_the_group_that_is_found_is_the_one_named_or_the_row_says_so(tmp_path: Path) -> None:
    text = head(4.12) + named("F m -3 m") + operators("x,y,z", "-x,-y,-z")
    record = read_text(tmp_path, text + sites("Cs1 0 0 0", "Cl1 .5 .5 .5"))
    assert said(record)["note"] == (
        "its file names the space group F m -3 m (225), it has Pm-3m (221)"
    )
    right = read_text(tmp_path, text.replace("F m -3 m", "P m -3 m") + sites("Cs 0 0 0"))
    assert said(right) == {}


@pytest.mark.parametrize("units", [1, 3])
def test_a_list_that_is_not_z_times_the_formula(tmp_path: Path, units: int) -> None:
    """Half of the sites are missing, in the right ratio: composition cannot tell."""
    text = head() + f"_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z {units}\n"
    record = read_text(tmp_path, text + sites("Na1 0 0 0", "Cl1 .5 .5 .5"))
    if units == 1:
        assert isinstance(record, Crystal)
    # Many writers give the formula of the whole cell, whatever Z is.
    doubled = text.replace("'Na Cl'", "'Na2 Cl2'")
    record = read_text(tmp_path, doubled + sites("Na1 0 0 0", "Cl1 .5 .5 .5"))
    assert isinstance(record, Unreadable) and record.kind == "formula"
    assert f"{units} x 'Na2 Cl2'" in record.message


# ---------------------------------------------------------------- syntax


def test_sloppy_headers_are_mended(tmp_path: Path) -> None:
    text = head().replace("data_x\n", "data_x of a model\n")
    text += "_symmetry_space_group_name_H-M P 1\n_publ_author A. Writer and others\n"
    record = read_text(tmp_path, text + sites("Si1 0 0 0"))
    assert said(record) == {"mended": "texts without quotes"}
    assert isinstance(record, Crystal) and record.formula == "Si"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("_cell_length_b 5.0", "_cell_length_b 5.0\n_cell_length_b 6.0"), "syntax: _cell_length"),
        (("_cell_length_b 5.0", "_cell_length_b 5.0\n_cell_length_b 5.0"), ""),
        (("_cell_length_b 5.0", "_cell_length_b 5.0\n_note\n;open"), "truncated: "),
        (("_cell_length_b 5.0", "_cell_length_b 5.0\nfree words here"), "syntax: not CIF at 'free"),
        (("_cell_length_b", "_cell.length_b"), ""),
        (("_cell_length_b", "_CELL_LENGTH_B"), ""),
    ],
)  # fmt: skip
def test_syntax(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    record = read_text(tmp_path, head().replace(*change) + sites("Si1 0 0 0"))
    if reason:
        assert isinstance(record, Unreadable) and record.reason.startswith(reason), record
    else:
        assert isinstance(record, Crystal), record


def test_text_fields_hide_no_block(tmp_path: Path) -> None:
    """Nor does a block behind a text field vanish."""
    block = head() + sites("Si1 0 0 0") + "\n"
    noted = block.replace("data_x\n", "data_y\n_note\n;\ndata_z\n_cell_length_a 1\n;\n")
    (tmp_path / "a.cif").write_text(block + noted + block.replace("data_x", "data_w"))
    assert [record.name for record in read(tmp_path / "a.cif")] == ["x", "y", "w"]


@pytest.mark.parametrize("number", ["99999999999", "4294967297", "0", "-1", "119"])
def test_atomic_numbers_that_are_none(tmp_path: Path, number: str) -> None:
    path = tmp_path / "odd.extxyz"
    path.write_text(
        f'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=Z:I:1:pos:R:3\n{number} 0 0 0\n'
        '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=Z:I:1:pos:R:3\n29 0 0 0\n'
    )
    (file,) = find_files([str(path)])
    first, second = read_file(file)
    assert isinstance(first, Unreadable)
    assert first.reason.startswith("unknown element: ")
    assert isinstance(second, Crystal)
    assert second.formula == "Cu"
