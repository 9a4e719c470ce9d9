"""Detection of files in folders and archives that contain no crystals.

Tables, settings, metrics and checkpoints have the same endings as crystals, so the contents of a
file are examined unless its user has named it. A file is read if it may contain crystals, or if it
cannot be opened: the reader will report why.
"""

from __future__ import annotations

import codecs
import io
import posixpath
import re
from collections.abc import Callable
from typing import IO

from hpcbench.crystal_formats import CRYSTAL_FORMATS
from hpcbench.limits import DEFAULT, Limits
from hpcbench.named_functions import function_of
from hpcbench.outputs import CIF_MARK, TRAINING_FILE
from hpcbench.sources import formats
from hpcbench.sources.streams import Capped

# Bytes at the beginning of a file in which its kind is searched.
_START = 2**16
# The same for a database or a pickle.
_LONG_START = 2**24
_PIECE = 2**20
# An exported crystal's name ends with its id; for an earlier computation, a suffix follows.
_ID = r"-[0-9a-f]{16}(_[\w+.-]*)?"
_CALLED = re.compile(rf"{_ID}\.cif(\.\w+)?$", re.IGNORECASE)
_EXPORTED_CIF = re.compile(rf"(?:{CIF_MARK})?\s*data_\S*{_ID}\s*$".encode(), re.MULTILINE)
_EXPORTED_FRAME = re.compile(rb"\s(displaced_atom|perturbation)=|\sverdict=.*\smin_frequency_path=")
_UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
_TABLE = re.compile(rb"CREATE TABLE\s+[\"'`\[]?systems\b", re.IGNORECASE)
_NAMES = b"CREATE "
# A line ends as on any system; the first may begin with the mark of UTF-8.
_LINE = rb"(?:^|\r)(?:\xef\xbb\xbf)?"
_UNIT_CELL = re.compile(_LINE + rb"unit_cell[ \t]*:", re.MULTILINE)
_OLD_CELL = (
    re.compile(_LINE + rb"lattice[ \t]*:", re.MULTILINE),
    re.compile(_LINE + rb"points[ \t]*:", re.MULTILINE),
)
# phonopy's results name their q-points, displacements or modes before anything else.
_RESULT = re.compile(
    rb"^(mesh|nqpoint|npath|phonon|displacements|thermal_\w+|normal_modes|modulations?|q-position|"
    rb"gruneisen\w*|total_dos\w*)[ \t]*:",
    re.MULTILINE,
)
_BANDS = re.compile(rb'"@class"\s*:\s*"PhononBandStructure')

EXPORT = "exports of hpcbench"
TRAJECTORIES = "trajectories of MatterGen"
AGAIN = "copies of the same crystals by MatterGen"
_TRAJECTORIES = re.compile(r"generated_trajectories(\.zip)?", re.IGNORECASE)
_COPIES = re.compile(r"generated_crystals_cif(\.zip)?", re.IGNORECASE)
_FRAMES = re.compile(r"generated_crystals\.extxyz(\.(gz|bz2|xz))?", re.IGNORECASE)


def kind_left_out(
    path: str,
    opener: Callable[[], IO[bytes]],
    limits: Limits = DEFAULT,
    *,
    beside_store: bool = False,
) -> str:
    """Return the kind of a file that is not to be read; empty if it is to be read.

    Parameters
    ----------
    path : str
        Path, or path in an archive.
    opener : callable
        Opens it.
    limits : Limits
        Largest number of bytes to examine.
    beside_store : bool
        Whether there is a store in its folder: any CIF file may then be an export of it. Elsewhere
        CIF files are examined only if their name is that of an export, since there may be many.

    Returns
    -------
    str
        A kind, in the plural, for counting: "JSON files without structures".
    """
    kind = formats.format_of(path)
    if kind == "":
        ending = posixpath.splitext(path)[1].lower()
        return f"{ending} files" if re.fullmatch(r"\.\w{1,12}", ending) else "files of no format"
    if kind in _BY_NAME:
        return _BY_NAME[kind]
    look = CRYSTAL_FORMATS[kind].look if kind in CRYSTAL_FORMATS else ""
    if not look or (kind == "cif" and not beside_store and not _CALLED.search(path)):
        return ""
    try:
        with opener() as stream:
            plain = formats.decompressed(stream, path)
            found: str = function_of(look)(io.BufferedReader(Capped(plain, kind, limits), _PIECE))
            return found
    except Exception:  # damaged archives and compressed files raise many kinds
        return ""


def is_of_layout(name: str) -> bool:
    """Tell whether :func:`layout_of` may recognise a name."""
    return bool(_TRAJECTORIES.fullmatch(name) or _COPIES.fullmatch(name))


def layout_of(name: str, neighbours: set[str]) -> str:
    """Return the kind of a file or folder by the names that a generator gives its results.

    Parameters
    ----------
    name : str
        Of a file or folder.
    neighbours : set of str
        Names in the same folder.

    Returns
    -------
    str
        A kind, if it is not to be read; else "". MatterGen writes each crystal as a frame and as a
        CIF file, and optionally all steps of its generation.
    """
    if _TRAJECTORIES.fullmatch(name):
        return TRAJECTORIES
    if _COPIES.fullmatch(name) and any(_FRAMES.fullmatch(other) for other in neighbours):
        return AGAIN
    return ""


def is_exported_folder(name: str, neighbours: set[str]) -> bool:
    """Tell whether a folder next to an export's settings has a name that exports use.

    Parameters
    ----------
    name : str
        Of the folder.
    neighbours : set of str
        Names in the same folder.
    """
    # Others call their folders so as well.
    parts = "|train|validation|test" if TRAINING_FILE in neighbours else ""
    return bool(re.fullmatch(rf".*{_ID}|phonon-calculation-output|relaxed{parts}", name))


def look_at_cif(stream: io.BufferedReader) -> str:
    """Return what a CIF file is that is not to be read; empty if it is to be read."""
    return EXPORT if _EXPORTED_CIF.match(stream.read(_START)) else ""


def look_at_xyz(stream: io.BufferedReader) -> str:
    """Return what a file of frames is that is not to be read; empty if it is to be read."""
    lines = stream.read(_START).split(b"\n", 2)
    return EXPORT if len(lines) > 1 and _EXPORTED_FRAME.search(lines[1]) else ""


def look_at_csv(stream: io.BufferedReader) -> str:
    """Return what a CSV table is that is not to be read; empty if it is to be read."""
    from hpcbench.sources import csv_rows

    start = stream.read(csv_rows.HEADER_BYTES)
    if not start.strip() or csv_rows.has_structures(
        start.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ):
        return ""
    return "CSV tables without structures"


def look_at_json(stream: io.BufferedReader) -> str:
    """Return what a JSON file is that is not to be read; empty if it is to be read."""
    start = stream.peek(_START)[:_START]
    if not start.strip() or start.startswith(_UTF_16):
        return ""
    if _BANDS.search(start):
        return "band structures"
    return "" if _holds(stream, b'"sites"') else "JSON files without structures"


def look_at_phonopy(stream: io.BufferedReader) -> str:
    """Return what a YAML file is that is not to be read; empty if it is to be read."""
    start = stream.peek(_START)[:_START]
    if not start.strip() or start.startswith(_UTF_16):
        return ""
    found = [False, False]
    last = b""
    while piece := stream.read(_PIECE):
        text = last + piece
        if _UNIT_CELL.search(text):
            return ""
        if _RESULT.search(text):
            return "results of phonopy"
        found = [old or bool(key.search(text)) for old, key in zip(found, _OLD_CELL, strict=True)]
        last = text[text.rfind(b"\n") + 1 :][-_START:]
    return "" if all(found) else "YAML files without a crystal"


def look_at_database(stream: io.BufferedReader) -> str:
    """Return what a database is that is not to be read; empty if it is to be read."""
    from hpcbench.sources.readers import SQLITE

    start = stream.read(_LONG_START)
    # One without any table is damaged.
    if not start or (start.startswith(SQLITE) and (_TABLE.search(start) or _NAMES not in start)):
        return ""
    return "databases without crystals"


def look_at_torch(stream: io.BufferedReader) -> str:
    """Return what a torch file is that is not to be read; empty if it is to be read."""
    start = stream.read(_LONG_START)
    if not start or (b"frac_coords" in start and b"atom_types" in start):
        return ""
    return "torch files without crystals"


def _holds(stream: io.BufferedReader, words: bytes) -> bool:
    last = b""
    while piece := stream.read(_PIECE):
        if words in last + piece:
            return True
        last = piece[-len(words) :]
    return False


_BY_NAME = {"list": "lists of sources", "manifest": "manifests and settings"}
