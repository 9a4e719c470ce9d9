# ruff: noqa: E501  (a table: a line is a case)
"""Make POSCARs and extended XYZ that are wrong, and odd bytes, endings and crystals."""

from __future__ import annotations

import random

from harm_cif import cell_length, cif
from harm_judge import LEFT_OUT, NO_FORMAT, Bad, FileKind, alloy, kinds


def poscar(
    *,
    comment: str = "al",
    scale: object = "1.0",
    lattice: str = "",
    names: str = "Al\n",
    counts: str = "1",
    mode: str = "Direct",
    places: str = "0 0 0\n",
) -> str:
    """Return the text of a POSCAR, by its lines.

    Parameters
    ----------
    comment, scale, lattice, names, counts, mode, places
        The lines in their order; ``lattice`` is that of fcc where it is empty.
    """
    a = cell_length() / 2
    lattice = lattice or f"0 {a} {a}\n{a} 0 {a}\n{a} {a} 0"
    return f"{comment}\n{scale}\n{lattice}\n{names}{counts}\n{mode}\n{places}"


def xyz(
    lines: str = "Al 0 0 0\n", *, lattice: str = "", number: object = "", header: str = ""
) -> str:
    """Return the text of a frame of extended XYZ.

    Parameters
    ----------
    lines : str
        Those of the atoms.
    lattice : str
        Nine numbers; a cell of fcc where it is empty.
    number : object
        Of atoms; that of the lines where it is empty.
    header : str
        The second line; a good one where it is empty.
    """
    a = cell_length() / 2
    lattice = lattice or f"0 {a} {a} {a} 0 {a} {a} {a} 0"
    number = number if number != "" else len(lines.splitlines())
    header = header or f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    return f"{number}\n{header}\n{lines}"


def _with(text: str) -> str:
    a = cell_length() / 2
    return f'Lattice="0 {a} {a} {a} 0 {a} {a} {a} 0" {text}'


def _noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


AL = ("Al",)
POSCAR: list[FileKind] = kinds(
    {
        "POSCAR: nonsense counts": [
            Bad(f"{name}.vasp", poscar(counts=word))
            for name, word in (("negative", "-1"), ("zero", "0"), ("half", "1.5"), ("huge", "1000000000"),
                               ("word", "one"), ("none", ""), ("long", "9" * 5000), ("nan", "nan"))
        ],
        "POSCAR: more or fewer counts than names": [
            Bad("more.vasp", poscar(counts="1 1", places="0 0 0\n.5 .5 .5\n")),
            Bad("fewer.vasp", poscar(names="Al Ni\n")),
        ],
        "POSCAR: positions missing": [
            Bad("three.vasp", poscar(counts="3", places="0 0 0\n.5 .5 .5\n")),
            Bad("none.vasp", poscar(places="")),
            Bad("two-columns.vasp", poscar(places="0 0\n")),
        ],
        "POSCAR: positions that are no numbers": [
            Bad(f"{word.strip('*') or 'stars'}.vasp", poscar(places=f"{word} 0 0\n"))
            for word in ("nan", "inf", "********", "zero")
        ],
        "POSCAR: negative scale is a volume": [
            Bad("volume.vasp", poscar(scale=-16.4), must=AL, reason=False),
        ],
        "POSCAR: scales that are none": [
            Bad("zero.vasp", poscar(scale=0)),
            Bad("nan.vasp", poscar(scale="nan")),
            Bad("word.vasp", poscar(scale="one")),
            Bad("huge.vasp", poscar(scale="1e300"), may=AL),
            Bad("tiny.vasp", poscar(scale="1e-300"), may=AL),
        ],
        "POSCAR: three scales": [Bad("three.vasp", poscar(scale="1.0 1.0 1.01"), may=AL, reason=False)],
        "POSCAR: selective dynamics": [
            Bad("selective.vasp", poscar(mode="Selective dynamics\nDirect", places="0 0 0 T T F\n"),
                must=AL, reason=False),
            Bad("without-flags.vasp", poscar(mode="Selective dynamics\nDirect"), may=AL, reason=False),
            Bad("without-mode.vasp", poscar(mode="Selective dynamics", places="0 0 0 T T F\n"),
                may=AL, reason=False),
        ],
        "POSCAR: no names of elements": [
            Bad("b1.vasp", poscar(comment="C1 AuNi", names="", counts="1 1", places="0 0 0\n.5 .5 .5\n")),
            Bad("words.vasp", poscar(comment="relaxed at 300 K", names="")),
            Bad("sample.vasp", poscar(comment="N 12 Al sample", names="")),
        ],
        "POSCAR: names of elements in the comment": [
            Bad("exact.vasp", poscar(comment="Al Ni", names="", counts="1 1",
                                     places="0 0 0\n.5 .5 .5\n"), may=("AlNi",), reason=False),
        ],
        "POSCAR: names of no element": [
            Bad("qq.vasp", poscar(names="Qq\n")),
            Bad("x.vasp", poscar(names="X\n"), may=("X",)),
            Bad("number.vasp", poscar(names="13\n")),
        ],
        "POSCAR: names of potentials": [
            Bad("pv.vasp", poscar(names="Al_pv\n"), may=AL, reason=False),
            Bad("hash.vasp", poscar(names="Al_sv_GW/a1b2c3\n"), may=AL, reason=False),
        ],
        "POSCAR: lattice without volume": [
            Bad("flat.vasp", poscar(lattice="4 0 0\n0 4 0\n4 4 0"), may=AL),
            Bad("zero.vasp", poscar(lattice="0 0 0\n0 0 0\n0 0 0")),
            Bad("nan.vasp", poscar(lattice="nan 0 0\n0 4 0\n0 0 4")),
            Bad("short.vasp", poscar(lattice="4 0\n0 4 0\n0 0 4")),
        ],
        "POSCAR: left-handed": [
            Bad("left.vasp", poscar(lattice="2 0 2\n0 2.01 2\n2 2 0"), must=AL, reason=False),
        ],
        "POSCAR: atoms at one place": [
            Bad("same.vasp", poscar(counts="2", places="0 0 0\n0 0 0\n"), may=("Al2",)),
            Bad("image.vasp", poscar(counts="2", places="0 0 0\n1 0 0\n"), may=("Al2",)),
            Bad("close.vasp", poscar(counts="2", places="0 0 0\n.02 0 0\n"), may=("Al2",)),
        ],
        "POSCAR: numbers as Fortran writes them": [
            Bad("double.vasp", poscar(scale="1.0D0", places="0.0D0 0.0D0 0.0D+00\n"), may=AL, reason=False),
        ],
        "POSCAR: what follows the positions": [
            Bad("velocities.vasp", poscar(places="0 0 0\n\n0.0 0.0 0.0\n"), must=AL, reason=False),
            Bad("labels.vasp", poscar(places="0 0 0 Al ! one\n"), must=AL, reason=False),
            Bad("CHGCAR.vasp", poscar(places="0 0 0\n\n 4 4 4\n" + "1.0 " * 64 + "\n"), may=AL,
                reason=False),
        ],
        "POSCAR: Cartesian": [
            Bad("k.vasp", poscar(mode="kartesisch"), must=AL, reason=False),
            Bad("unknown.vasp", poscar(mode="Zigzag"), may=AL, reason=False),
        ],
    }
)  # fmt: skip

XYZ: list[FileKind] = kinds(
    {
        "XYZ: cells without volume": [
            Bad("nan.extxyz", xyz(lattice="nan 0 0 0 4 0 0 0 4")),
            Bad("zero.extxyz", xyz(lattice="0 0 0 0 0 0 0 0 0")),
            Bad("flat.extxyz", xyz(lattice="4 0 0 0 4 0 4 4 0"), may=AL),
            Bad("inf.extxyz", xyz(lattice="inf 0 0 0 4 0 0 0 4")),
        ],
        "XYZ: lattices that are none": [
            Bad("three.extxyz", xyz(lattice="4 0 0")),
            Bad("words.extxyz", xyz(lattice="a b c d e f g h i")),
            Bad("brackets.extxyz", xyz(header='Lattice="' + "[[" * 5000 + '"')),
            Bad("quote.extxyz", xyz(header='Lattice="4 0 0 0 4 0 0 0 4'), may=AL, reason=False),
        ],
        "XYZ: no lattice": [
            Bad("molecule.xyz", "2\nn2\nN 0 0 0\nN 0 0 1.1\n", may=("N2",)),
            Bad("empty.xyz", xyz(header=" "), may=AL),
        ],
        "XYZ: not periodic": [
            Bad("fff.extxyz", xyz(header=_with('pbc="F F F" Properties=species:S:1:pos:R:3')), may=AL),
            Bad("ttf.extxyz", xyz(header=_with('pbc="T T F" Properties=species:S:1:pos:R:3')), may=AL),
        ],
        "XYZ: atoms twice": [
            Bad("twice.extxyz", xyz("Al 0 0 0\nAl 0 0 0\n"), may=("Al2",)),
            Bad("close.extxyz", xyz("Al 0 0 0\nAl 0 0 0.1\n"), may=("Al2",)),
        ],
        "XYZ: wrong columns": [
            Bad("two.extxyz", xyz("Al 0 0\n")),
            Bad("unknown.extxyz", xyz(header=_with("Properties=species:S:1:pos:Q:3")), may=AL,
                reason=False),
            Bad("endless.extxyz", xyz(header=_with("Properties=species:S:1:x:R:" + "9" * 30 + ":pos:R:3"))),
            Bad("short.extxyz", xyz(header=_with("Properties=species:S:1"))),
            Bad("letters.extxyz", xyz("Al a b c\n")),
            Bad("minus.extxyz", xyz(header=_with("Properties=species:S:1:pos:R:-3"))),
        ],
        "XYZ: wrong counts": [
            Bad("more.extxyz", xyz(number=3)),
            Bad("fewer.extxyz", xyz("Al 0 0 0\nAl 1 1 1\n", number=1), may=AL),
            Bad("negative.extxyz", xyz(number=-1)),
            Bad("word.extxyz", xyz(number="one")),
            Bad("digits.extxyz", xyz(number="9" * 5000)),
            Bad("billion.extxyz", xyz(number=999_999_999)),
            Bad("zero.extxyz", xyz("", number=0)),
        ],
        "XYZ: positions that are no numbers": [
            Bad("nan.extxyz", xyz("Al nan 0 0\n")),
            Bad("inf.extxyz", xyz("Al inf 0 0\n")),
        ],
        "XYZ: no elements": [
            Bad("x.extxyz", xyz("X 0 0 0\n"), may=("X",)),
            Bad("qq.extxyz", xyz("Qq 0 0 0\n")),
            Bad("masses.extxyz", xyz("D 0 0 0\n"), may=("H", "D")),
            Bad("zero.extxyz", xyz("0 0 0 0\n"), may=("X",)),
        ],
        "XYZ: one bad frame of three": [
            Bad("middle.extxyz", xyz() + xyz("Qq 0 0 0\n") + xyz("Ni 0 0 0\n", lattice="0 1.76 1.76 1.76 0 1.76 1.76 1.76 0"),
                must=("Al", "Ni")),
            Bad("last.extxyz", xyz() + xyz(number=4), must=AL),
        ],
        "XYZ: cut off": [
            Bad("line.extxyz", xyz() + xyz("Ni 0 0 0\n")[:-3], must=AL, may=("Ni",)),
            Bad("header.extxyz", xyz() + "1\nLattice=", must=AL),
            Bad("count.extxyz", xyz() + "4\n", must=AL),
        ],
        "XYZ: blank lines between frames": [
            Bad("blank.extxyz", xyz() + "\n\n" + xyz("Ni 0 0 0\n", lattice="0 1.77 1.77 1.77 0 1.77 1.77 1.77 0"),
                must=AL, may=("Ni",), reason=False),
        ],
        "XYZ: stress of six numbers": [
            Bad("six.extxyz", xyz(header=_with('Properties=species:S:1:pos:R:3 stress="0 0 0 0 0 0"')),
                must=AL, reason=False),
        ],
        "XYZ: other numbers that are odd": [
            Bad("energy.extxyz", xyz(header=_with("Properties=species:S:1:pos:R:3 energy=nan")),
                must=AL, reason=False),
            Bad("stress.extxyz", xyz(header=_with('Properties=species:S:1:pos:R:3 stress="1 2"')),
                may=AL, reason=False),
            Bad("forces.extxyz", xyz("Al 0 0 0 nan nan nan\n",
                                     header=_with("Properties=species:S:1:pos:R:3:forces:R:3")),
                must=AL, reason=False),
        ],
        "XYZ: masses of their own": [
            Bad("heavy.extxyz", xyz("Al 0 0 0 54\n", header=_with("Properties=species:S:1:pos:R:3:masses:R:1")),
                may=AL, reason=False),
            Bad("none.extxyz", xyz("Al 0 0 0 0\n", header=_with("Properties=species:S:1:pos:R:3:masses:R:1")),
                may=AL),
            Bad("negative.extxyz", xyz("Al 0 0 0 -27\n", header=_with("Properties=species:S:1:pos:R:3:masses:R:1")),
                may=AL),
            Bad("nan.extxyz", xyz("Al 0 0 0 nan\n", header=_with("Properties=species:S:1:pos:R:3:masses:R:1")),
                may=AL),
        ],
    }
)  # fmt: skip

_CIF, _GOOD = cif(["Al1 Al 0 0 0"]), {"must": AL, "reason": False}
BYTES: list[FileKind] = kinds(
    {
        "empty files": [
            Bad(f"empty.{end}", b"")
            for end in ("cif", "vasp", "extxyz", "json", "csv", "pt", "yaml", "db", "zip", "tar", "cif.gz")
        ],
        "only white space": [Bad(f"white.{end}", b" \r\n\t\n" * 50) for end in ("cif", "vasp", "extxyz", "json")],
        "noise": [
            Bad(f"noise.{end}", _noise(4096, seed), words=(LEFT_OUT[end],) if end in LEFT_OUT else ())
            for seed, end in enumerate(
                ("cif", "vasp", "extxyz", "json", "csv", "pt", "yaml", "db", "zip", "tar.gz", "cif.gz")
            )
        ],
        "cut off CIF": [
            Bad("cell.cif", _CIF[:40]),
            Bad("columns.cif", _CIF[:-40]),
            Bad("row.cif", cif(before="_chemical_formula_sum Al4\n_cell_formula_units_Z 1\n")[:-9]),
        ],
        "cut off POSCAR": [Bad("a.vasp", poscar()[:25]), Bad("b.vasp", poscar()[:-6])],
        "UTF-16": [
            Bad("mark.cif", cif(["Al1 Al 0 0 0"]).encode("utf-16"), may=AL, reason=False),
            Bad("le.cif", cif(["Al1 Al 0 0 0"]).encode("utf-16-le"), may=AL),
            Bad("poscar.vasp", poscar().encode("utf-16"), may=AL, reason=False),
        ],
        "byte order mark": [
            Bad("bom.cif", b"\xef\xbb\xbf" + cif(["Al1 Al 0 0 0"]).encode(), **_GOOD),
            Bad("bom.vasp", b"\xef\xbb\xbf" + poscar().encode(), **_GOOD),
            Bad("bom.extxyz", b"\xef\xbb\xbf" + xyz().encode(), **_GOOD),
        ],
        "Latin-1": [
            Bad("author.cif", cif(["Al1 Al 0 0 0"], before="_publ_author_name 'M\u00fcller'\n").encode("latin-1"), **_GOOD),
            Bad("comment.vasp", poscar(comment="gr\u00f6\u00dfer").encode("latin-1"), **_GOOD),
        ],
        "NUL bytes": [
            Bad("middle.cif", cif(["Al1 Al 0 0\0 0"])),
            Bad("end.cif", cif(["Al1 Al 0 0 0"]) + "\0" * 4096, may=AL),
            Bad("all.cif", b"\0" * 100_000),
            Bad("middle.vasp", poscar(places="0 0\0 0\n")),
            Bad("middle.extxyz", xyz("Al 0 0\0 0\n")),
        ],
        "line ends of other systems": [
            Bad("crlf.cif", cif(["Al1 Al 0 0 0"]).replace("\n", "\r\n"), **_GOOD),
            Bad("cr.cif", cif(["Al1 Al 0 0 0"]).replace("\n", "\r"), **_GOOD),
            Bad("crlf.vasp", poscar().replace("\n", "\r\n"), **_GOOD),
            Bad("crlf.extxyz", xyz().replace("\n", "\r\n"), **_GOOD),
        ],
        "other things by that name": [
            Bad("page.cif", "<!DOCTYPE html><html><body>404 Not Found</body></html>\n"),
            Bad("image.cif", b"\x89PNG\r\n\x1a\n" + _noise(500, 3)),
            Bad("paper.cif", b"%PDF-1.7\n" + _noise(500, 4)),
            Bad("pointer.cif", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
            Bad("POSCAR", "#!/bin/sh\nexit 0\n"),
            Bad("python.extxyz", "import os\nprint(os.getcwd())\n"),
        ],
        "wrong endings": [
            Bad("cif.vasp", cif(["Al1 Al 0 0 0"]), may=AL),
            Bad("vasp.cif", poscar(), may=AL),
            Bad("cif.extxyz", cif(["Al1 Al 0 0 0"]), may=AL),
            Bad("cif.json", cif(["Al1 Al 0 0 0"]), may=AL, words=(LEFT_OUT["json"],)),
            Bad("cif.zip", cif(["Al1 Al 0 0 0"]), may=AL),
            Bad("cif.cif.gz", cif(["Al1 Al 0 0 0"]), may=AL),
            Bad("zip.cif", b"PK\x03\x04" + _noise(300, 5)),
        ],
        "POSCAR-like names with endings of others": [
            Bad("CONTCAR_relaxed.cif", cif(["Al1 Al 0 0 0"]), **_GOOD),
            Bad("poscars.extxyz", xyz(), **_GOOD),
        ],
        "unknown endings": [
            Bad("crystal.dat", poscar(), may=AL, words=(".dat files",)),
            Bad("crystal.res", "TITL x\nCELL 1 4 4 4 90 90 90\nEND\n", words=(".res files",)),
            Bad("crystal.pkl", b"cos\nsystem\n(S'touch $MARKER'\ntR.", words=(".pkl files",)),
            Bad("noending", cif(["Al1 Al 0 0 0"]), may=AL, words=NO_FORMAT),
        ],
        "endings in capitals": [
            Bad("A.CIF", cif(["Al1 Al 0 0 0"]), **_GOOD),
            Bad("A.VASP", poscar(), **_GOOD),
        ],
        "one line of 5 MB": [
            Bad("comment.cif", "#" + "a" * 5_000_000 + "\n" + cif(["Al1 Al 0 0 0"]), may=AL, reason=False),
            Bad("line.vasp", poscar(places="0 " * 2_500_000 + "\n"), may=AL, reason=False),
            Bad("line.extxyz", xyz("Al 0 0 0 " + "0 " * 2_500_000 + "\n"), may=AL, reason=False),
        ],
        "elements that are odd": [
            Bad("pu.vasp", alloy("Pu", 4.6), may=("Pu",)),
            Bad("lr.vasp", alloy("Lr", 4.6), may=("Lr",)),
            Bad("og.vasp", alloy("Og", 4.6), may=("Og",)),
            Bad("d.vasp", alloy("Al D", 3.3), may=("HAl",), reason=False),
            Bad("t.cif", cif(["T1 T 0 0 0", "Al1 Al .5 .5 .5"], a=3.31), may=("HAl",), reason=False),
        ],
        "cells that are nearly empty": [
            Bad("atom.vasp", alloy("Au", 30.0), may=("Au",), unstable=True),
            Bad("two.vasp", alloy("Ag Ni", 20.0), may=("AgNi",), unstable=True),
            Bad("needle.cif", cif(["Al1 Al 0 0 0"], cell=(4, 4, 5000, 90, 90, 90)), may=AL, unstable=True),
            Bad("huge.cif", cif(["Al1 Al 0 0 0"], a=1e6), may=AL, unstable=True),
        ],
        "cells that are far too dense": [
            Bad("dense.vasp", alloy("Au", 0.6), may=("Au",)),
            Bad("denser.vasp", alloy("Au", 0.01), may=("Au",)),
        ],
        "a hundred thousand lines of positions": [
            Bad("POSCAR", poscar(lattice="800 0 0\n0 9 0\n0 0 9", counts="100000", places="".join(
                f"{i / 1e5} 0 0\n" for i in range(100_000))), may=("Al100000",)),
        ],
    }
)  # fmt: skip
