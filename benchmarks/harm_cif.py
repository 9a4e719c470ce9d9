# ruff: noqa: E501  (a table: a line is a case)
"""Make CIF files that are wrong, and some that only look so."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from harm_judge import Bad, FileKind, kinds

_CELLS = count()


def cell_length() -> float:
    """Return a lattice parameter of no other input, for equal crystals would share a row."""
    return round(3.9 + 0.0007 * next(_CELLS), 4)


def cif(
    sites: Iterable[str] = ("Al1 Al 0 0 0", "Al2 Al .5 .5 0", "Al3 Al .5 0 .5", "Al4 Al 0 .5 .5"),
    *,
    a: object = None,
    cell: tuple[object, ...] = (),
    before: str = "",
    columns: str = "",
    after: str = "",
    name: str = "x",
) -> str:
    """Return the text of a CIF.

    One atom without symmetry is in the primitive cell of fcc, whose lattice parameter is ``a``.

    Parameters
    ----------
    sites : iterable of str
        Lines of the sites.
    a : object
        Lattice parameter of a cube; one of no other input if it is ``None``.
    cell : tuple
        Lengths and angles, if it is no cube.
    before, after : str
        What stands after the cell, and at the end.
    columns : str
        Names of the columns after those of the sites.
    name : str
        Of the block.
    """
    sites = list(sites)
    a = cell_length() if a is None else a
    lengths = (a, a, a, 90, 90, 90)
    if len(sites) == 1 and "symmetry" not in before and isinstance(a, float):
        lengths = (round(a / 2**0.5, 5),) * 3 + (60,) * 3
    lengths = cell or lengths
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    text = f"data_{name}\n" + "".join(
        f"_cell_{tag} {value}\n" for tag, value in zip(tags, lengths, strict=True)
    )
    text += before + "loop_\n_atom_site_label\n_atom_site_type_symbol\n"
    text += "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz")
    return (
        text
        + "".join(f"_atom_site_{c}\n" for c in columns.split())
        + "\n".join(sites)
        + after
        + "\n"
    )


def labels(sites: Iterable[str]) -> str:
    """Return the text of a CIF whose sites have labels only, no symbols."""
    return cif(sites).replace("_atom_site_type_symbol\n", "")


def one(symbol: str, label: str = "M1") -> str:
    """Return the text of a CIF with one atom and one of nickel.

    Parameters
    ----------
    symbol, label : str
        Of the atom that is not nickel.
    """
    return cif([f"{label} {symbol} 0 0 0", "Ni1 Ni .5 .5 .5"], a=2.9)


def _group(name: str, sites: Iterable[str], **options: object) -> str:
    before = f"_symmetry_space_group_name_H-M '{name}'\n"
    return cif(sites, before=before, **options)  # type: ignore[arg-type]


def _operators(
    lines: Iterable[str], sites: Iterable[str] = ("Al1 Al 0 0 0",), **options: object
) -> str:
    before = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'{line}'\n" for line in lines)
    return cif(sites, before=before, **options)  # type: ignore[arg-type]


_FCC = ["x,y,z", "x+1/2,y+1/2,z", "x+1/2,y,z+1/2", "x,y+1/2,z+1/2"]
_OTHER = "data_old\n" + cif(["Ni1 Ni 0 0 0"], name="inner").partition("\n")[2]
AL4 = ("Al4",)

CIF: list[FileKind] = kinds(
    {
        "CIF: partial occupancy": [
            Bad("half.cif", cif(["Al1 Al 0 0 0 .5"], columns="occupancy")),
            Bad("mix.cif", cif(["Al1 Al 0 0 0 .7", "Ni1 Ni 0 0 0 .3"], columns="occupancy")),
            Bad("uncertain.cif", cif(["Al1 Al 0 0 0 0.90(2)"], columns="occupancy")),
        ],
        "CIF: occupancy above one or none": [
            Bad("two.cif", cif(["Al1 Al 0 0 0 2.0"], columns="occupancy")),
            Bad("negative.cif", cif(["Al1 Al 0 0 0 -1"], columns="occupancy")),
            Bad("zero.cif", cif(["Al1 Al 0 0 0 0"], columns="occupancy")),
            Bad("nan.cif", cif(["Al1 Al 0 0 0 nan"], columns="occupancy")),
        ],
        "CIF: unknown occupancy": [
            Bad("question.cif", cif(["Al1 Al 0 0 0 ?"], columns="occupancy"), may=("Al",), reason=False),
        ],
        "CIF: disorder groups": [
            Bad("groups.cif", cif(
                ["Ni1 Ni 0 0 0 . .", "Al1 Al .5 .5 .45 A 1", "Al2 Al .5 .5 .7 A 2"], a=2.9,
                columns="disorder_assembly disorder_group",
            ), may=("AlNi",)),
            Bad("minus.cif", cif(
                ["Ni1 Ni 0 0 0 .", "Al1 Al .5 .5 .5 -1"], a=2.91, columns="disorder_group"
            ), may=("AlNi",)),
        ],
        "CIF: dummy atoms": [
            Bad("dum.cif", cif(
                ["Ni1 Ni 0 0 0 d", "Al1 Al .5 .5 .5 d", "Cnt1 C .5 0 0 dum"], a=2.92,
                columns="calc_flag",
            ), may=("AlNi",)),
        ],
        "CIF: hydrogens attached, without places": [
            Bad("hydrogens.cif", cif(
                ["Ni1 Ni 0 0 0 0", "O1 O .5 .5 .5 2"], a=4.1, columns="attached_hydrogens"
            )),
        ],
        "CIF: vacancies as labels": [
            Bad("va.cif", labels(["Va 0 0 0", "Ni1 .5 .5 .5"]), may=("Ni",)),
            Bad("vac.cif", labels(["Vac1 0 0 0", "Ni1 .5 .5 .5"]), may=("Ni",)),
            Bad("box.cif", one("X"), may=("Ni", "NiX", "XNi")),
        ],
        "CIF: mixed sites as labels": [
            Bad("comma.cif", labels(["Cu,Ni1 0 0 0", "O1 .5 .5 .5"])),
            Bad("slash.cif", labels(["Cu/Ni 0 0 0", "O1 .5 .5 .5"])),
            Bad("plus.cif", one("0.75Cu+0.25Pd")),
            Bad("typed.cif", one("Cu,Pd")),
        ],
        "CIF: labels of no element": [
            Bad("qq.cif", labels(["Qq1 0 0 0"])),
            Bad("number.cif", labels(["1 0 0 0"])),
            Bad("wat.cif", one("Wat")),
            Bad("m.cif", one("M")),
        ],
        "CIF: no cell": [
            Bad("none.cif", "data_x\n" + cif().partition("loop_")[1] + cif().partition("loop_")[2]),
            Bad("no-c.cif", cif().replace("_cell_length_c", "_note")),
            Bad("no-angles.cif", cif().replace("_cell_angle", "_note_angle"), may=AL4),
        ],
        "CIF: impossible cell lengths": [
            Bad(f"{word}.cif", cif(cell=(word, 4, 4, 90, 90, 90)), may=AL4)
            for word in ("0", "-4.05", "nan", "inf", "four", "?", "1e308", "1e-12", "4,05")
        ],
        "CIF: impossible cell angles": [
            Bad("flat.cif", cif(cell=(4, 4, 4, 120, 120, 120)), may=AL4),
            Bad("zero.cif", cif(cell=(4, 4, 4, 0, 90, 90))),
            Bad("straight.cif", cif(cell=(4, 4, 4, 180, 90, 90)), may=AL4),
            Bad("open.cif", cif(cell=(4, 4, 4, 30, 90, 150))),
            Bad("nan.cif", cif(cell=(4, 4, 4, "nan", 90, 90))),
        ],
        "CIF: no sites": [
            Bad("none.cif", cif().partition("loop_")[0]),
            Bad("header.cif", cif([])),
            Bad("no-z.cif", cif(["Al1 Al 0 0"]).replace("_atom_site_fract_z\n", "")),
        ],
        "CIF: coordinates that are none": [
            Bad(f"{name}.cif", cif([f"Al1 Al {word} 0 0"]))
            for name, word in (("question", "?"), ("dot", "."), ("nan", "nan"), ("inf", "inf"),
                               ("text", "left"), ("hex", "0x1F"))
        ],
        "CIF: far coordinates": [
            Bad("far.cif", cif(["Al1 Al 1e17 0 0"]), may=("Al",)),
            Bad("farther.cif", cif(["Al1 Al 1e308 0 0"]), may=("Al",)),
        ],
        "CIF: uneven loops": [
            Bad("short.cif", cif(["Al1 Al 0 0 0", "Al2 Al .5 .5"])),
            Bad("long.cif", cif(["Al1 Al 0 0 0", "Al2 Al .5 .5 0 .5"])),
        ],
        "CIF: operators that are none": [
            Bad("words.cif", _operators(["x,y,z", "upside down"])),
            Bad("two.cif", _operators(["x,y,z", "x,y"])),
            Bad("four.cif", _operators(["x,y,z", "x,y,z,x"])),
            Bad("code.cif", _operators(["x,y,z", "__import__(os).system(id),y,z"])),
            Bad("nought.cif", _operators(["x,y,z", "x+1/0,y,z"])),
        ],
        "CIF: operators that do not fit the cell": [
            Bad("cubic.cif", _operators(["x,y,z", "y,x,z"], cell=(3.9, 4.4, 5.1, 90, 90, 90),
                                        sites=["Al1 Al .1 .2 0"]), may=("Al2",)),
            Bad("stretch.cif", _operators(["x,y,z", "2x,y,z"], sites=["Al1 Al .2 .1 0"])),
            Bad("flatten.cif", _operators(["x,y,z", "x,y,0"], sites=["Al1 Al .2 .1 .3"])),
        ],
        "CIF: many operators": [
            Bad("many.cif", _operators(f"x+{i}/99999,y,z" for i in range(30000))),
            Bad("long.cif", _operators("-" * 2000 + f"x+{i}/9,y,z" for i in range(300)), may=("Al9",),
                reason=False),
        ],
        "CIF: group and cell contradict": [
            Bad("triclinic.cif", _group("F m -3 m", ["Al1 Al 0 0 0"], cell=(4, 4.3, 5, 80, 90, 90)),
                may=AL4),
            Bad("unknown.cif", _group("Q 7 7 7", ["Al1 Al 0 0 0"]), may=("Al",)),
            Bad("number.cif", cif(["Al1 Al 0 0 0"],
                                  before="_symmetry_Int_Tables_number 999\n"), may=("Al",)),
        ],
        "CIF: the setting is named": [
            Bad("origin2.cif", _group("F d -3 m :2", ["Ni1 Ni .125 .125 .125"], a=5.1),
                read=("Ni8",), reason=False),
            Bad("choice.cif", _group("P 4/n m m :2", ["Al1 Al .75 .25 0", "Ni1 Ni .25 .25 .24"],
                                     cell=(3.6, 3.6, 4.4, 90, 90, 90)), read=("Al2Ni2",), reason=False),
            Bad("rhombohedral.cif", _group("R -3 m :R", ["Al1 Al 0 0 0"],
                                           cell=(2.86, 2.86, 2.86, 60.5, 60.5, 60.5)),
                read=("Al",), reason=False),
        ],
        "CIF: operators left out": [
            Bad("left-out.cif", _group("F m -3 m", ["Al1 Al 0 0 0"]), must=AL4),
            Bad("identity.cif", _group("F m -3 m", ["Al1 Al 0 0 0"]).replace(
                "loop_\n", "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\nloop_\n", 1),
                may=("Al", "Al4")),
        ],
        "CIF: atoms do not fit the formula": [
            Bad("more.cif", cif(["Al1 Al 0 0 0"], before="_chemical_formula_sum 'Al3 Ni'\n"
                                "_cell_formula_units_Z 1\n"), may=("Al",)),
            Bad("z.cif", cif(before="_chemical_formula_sum 'Al'\n_cell_formula_units_Z 7\n"), may=AL4),
        ],
        "CIF: text fields": [
            Bad("phantom.cif", cif(["Al1 Al 0 0 0"]).replace("\n", f"\n_note\n;\n{_OTHER};\n", 1),
                must=("Al",), reason=False),
            Bad("word.cif", cif(["Al1 Al 0 0 0"]).replace(
                "\n", "\n_note\n;\ndata_collection was done.\nloop_\n;\n", 1),
                must=("Al",), reason=False),
        ],
        "CIF: text that does not end": [
            Bad("field.cif", cif(before="_note\n;\nit goes on\n")),
            Bad("quote.cif", cif(before="_note 'it goes on\n"), may=AL4, reason=False),
            Bad("block.cif", cif(["Al1 'Al 0 0 0"]), may=("Al",), reason=False),
        ],
        "CIF: tags or blocks twice": [
            Bad("tag.cif", cif(before="_cell_length_a 7.5\n")),
            Bad("block.cif", cif(["Al1 Al 0 0 0"]) + cif(["Ni1 Ni 0 0 0"], a=3.5), must=("Al", "Ni"),
                reason=False),
        ],
        "CIF: one bad block of three": [
            Bad("blocks.cif", cif(["Al1 Al 0 0 0"], name="a") + cif(["Al1 Al ? 0 0"], name="b")
                + cif(["Ni1 Ni 0 0 0"], a=3.52, name="c"), must=("Al", "Ni")),
        ],
        "CIF: very many blocks": [Bad("blocks.cif", "data_a\n" * 100_000)],
        "CIF: no data block": [
            Bad("none.cif", cif().partition("\n")[2]),
            Bad("words.cif", "This was a crystal once.\n"),
        ],
        "CIF: Cartesian or protein": [
            Bad("cartesian.cif", cif().replace("fract", "Cartn"), may=AL4),
            Bad("protein.cif", "data_1ABC\nloop_\n_atom_site.group_PDB\n_atom_site.type_symbol\n"
                "_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\nATOM N 1.0 2.0 3.0\n"),
        ],
        "CIF: numbers as people write them": [
            Bad("su.cif", cif(["Al1 Al 0.000(2) 0 0"], cell=("2.8711(2)",) * 3 + (60,) * 3),
                must=("Al",), reason=False),
            Bad("plus.cif", cif(["Al1 Al +0.0 -0.0 0."], cell=("2.8813",) * 3 + ("60.",) * 3),
                must=("Al",), reason=False),
            Bad("fraction.cif", cif(["Ni1 Ni 1/2 1/2 1/2"]), may=("Ni",), reason=False),
        ],
        "CIF: quotes and brackets without end": [
            Bad("regex.cif", "data_x\n_cell_length_a " + "1(" * 500_000 + "\n" + "'" * 100_000),
            Bad("fields.cif", "data_x\n" + "\n;" * 100_000),
        ],
        "CIF: a hundred thousand lines": [
            Bad("comments.cif", cif(["Al1 Al 0 0 0"]) + "# a line of a comment\n" * 100_000,
                may=("Al",), reason=False),
            Bad("atoms.cif", cif((f"Al{i} Al {i / 1e5} 0 0" for i in range(100_000)), a=500),
                may=("Al100000",)),
        ],
        "CIF: control characters in names": [
            Bad("esc.cif", cif(["Al1 Al ? 0 0"], name="\x1b]0;own\x07\x1b[31mRED")),
            Bad("html.cif", cif(["Al1 Al ? 0 0"], name="<script>alert(1)</script>")),
        ],
    }
)  # fmt: skip
