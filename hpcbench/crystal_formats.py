"""The table of crystal formats: what the program knows of each, in one place.

A format is an entry here and one function that reads it (see CONTRIBUTING.md). The modules of the
functions are imported when they are needed, so that a search for files needs none of the parsers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CrystalFormat:
    """Describe a format of crystals.

    Attributes
    ----------
    name : str
        As ``--read-limits`` takes it.
    endings : tuple of str
        Of its files, in small letters; a compression's may follow.
    reader : str
        ``module:function``. The function gets an
        :class:`~hpcbench.sources.opened.OpenFile` and returns an iterator of ``Entry``, in the
        order of the file, with an ``UnreadableError`` in place of each bad one. It raises one where
        the rest of the file cannot be read.
    limits : mapping
        Largest numbers of ``bytes``, and where they have a meaning of characters in a ``line``,
        levels of ``nesting``, and ``members``.
    several : bool
        Whether a file may hold many crystals.
    whole : bool
        Whether a file has to be in memory before its first crystal is known.
    look : str
        ``module:function``, for formats whose endings other files have as well. The function gets
        a buffered stream, decompressed, and returns what it is, in the plural ("band structures"),
        or an empty text if it is to be read. Without one all files are read.
    beginnings : tuple of str
        Beginnings of names, in capitals, that need no ending.
    """

    name: str
    endings: tuple[str, ...]
    reader: str
    limits: Mapping[str, int]
    several: bool = False
    whole: bool = False
    look: str = ""
    beginnings: tuple[str, ...] = ()


_SOURCES = "hpcbench.sources"
_CONTENTS = f"{_SOURCES}.contents"

_TABLE = (
    CrystalFormat(
        "cif",
        (".cif",),
        f"{_SOURCES}.cif:read_cif",
        {"bytes": 2**28, "line": 2**20},
        whole=True,
        look=f"{_CONTENTS}:look_at_cif",
    ),
    CrystalFormat(
        "poscar",
        (".vasp", ".poscar", ".contcar"),
        f"{_SOURCES}.readers:read_poscar",
        {"bytes": 2**24, "line": 2**20},
        beginnings=("POSCAR", "CONTCAR"),
    ),
    CrystalFormat(
        "xyz",
        (".xyz", ".extxyz"),
        f"{_SOURCES}.extxyz:read_frames",
        # Read frame by frame. members: atoms of a frame.
        {"bytes": 2**36, "line": 2**20, "members": 10**5},
        several=True,
        look=f"{_CONTENTS}:look_at_xyz",
    ),
    CrystalFormat(
        "json",
        (".json",),
        f"{_SOURCES}.readers:read_json",
        # The text is often a single line. members: values.
        {"bytes": 2**28, "nesting": 100, "members": 2**25},
        several=True,
        whole=True,
        look=f"{_CONTENTS}:look_at_json",
    ),
    CrystalFormat(
        "database",
        (".db",),
        f"{_SOURCES}.readers:read_database",
        # bytes: of a file that has to be copied, as SQLite reads no streams; line: bytes of a row.
        {"bytes": 2**30, "line": 2**24, "members": 10**7},
        several=True,
        look=f"{_CONTENTS}:look_at_database",
    ),
    CrystalFormat(
        "phonopy",
        (".yaml", ".yml"),
        f"{_SOURCES}.phonopy_yaml:read_phonopy",
        # members: nodes of the sections that are read, an alias counted each time.
        {"bytes": 2**28, "line": 2**20, "nesting": 50, "members": 2**20},
        look=f"{_CONTENTS}:look_at_phonopy",
    ),
    CrystalFormat(
        "csv",
        (".csv",),
        f"{_SOURCES}.csv_rows:read_rows",
        # Read row by row. line: characters of a row; nesting, members: of a structure in it.
        {"bytes": 2**36, "line": 2**24, "nesting": 100, "members": 2**18},
        several=True,
        look=f"{_CONTENTS}:look_at_csv",
    ),
    CrystalFormat(
        "torch",
        (".pt",),
        f"{_SOURCES}.torch_arrays:read_arrays",
        # nesting, members: of lists and dictionaries, counted as often as they occur in others.
        {"bytes": 2**28, "nesting": 50, "members": 2**20},
        several=True,
        whole=True,
        look=f"{_CONTENTS}:look_at_torch",
    ),
)

CRYSTAL_FORMATS: Mapping[str, CrystalFormat] = {form.name: form for form in _TABLE}
"""The formats of crystals, by name."""
