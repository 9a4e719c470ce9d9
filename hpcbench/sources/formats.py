"""Formats by file name, decompression, and the way to each format's reader."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from hpcbench.errors import UnreadableError
from hpcbench.sources.records import Entry

COMPRESSIONS = (".gz", ".bz2", ".xz", ".lzma")
"""Endings of single compressed files, of any format."""

MAX_FILE_BYTES = 2**30
"""Limit for formats that are read as a whole: a compressed file can hide any amount of zeros."""

ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
PHONOPY_FILE = re.compile(r"phonopy(?P<kind>_params|_disp|)(?P<rest>.*)", re.IGNORECASE)
"""phonopy's own names for the files of one calculation, without endings."""
BORN = "BORN"
"""phonopy's name for Born charges; what follows ``phonopy_disp`` follows this as well."""
LIST = re.compile(r"\.(txt|list|lst)$", re.IGNORECASE)
_ENDINGS = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".xyz": "xyz",
    ".extxyz": "xyz",
    ".json": "json",
    ".db": "database",
    ".yaml": "phonopy",
    ".yml": "phonopy",
    ".csv": "csv",
    ".pt": "torch",
    ".toml": "manifest",
}
# phonopy's results and settings, which lie beside its crystals in every working folder.
_NOT_CRYSTALS = re.compile(
    r"(band|mesh|qpoints|thermal_|total_dos|projected_dos|gruneisen|irreps|modulation|disp\.|"
    r"group_velocity|dynmat|debug|config|environment|mkdocs|_config|\.)",
    re.IGNORECASE,
)
# Stems that say what a file is, but not which crystal it holds.
_MEANINGLESS = re.compile(
    r"(POSCAR|CONTCAR)([-_.]?unitcell)?|phonopy(_disp|_params)?", re.IGNORECASE
)


def format_of(path: str) -> str:
    """Format by a file's name, compression left out.

    Returns
    -------
    str
        "archive", "cif", "poscar", "xyz", "json", "database", "phonopy", "csv", "torch", "list",
        "manifest", or an empty string where the name says nothing.
    """
    name = _base(path)
    if ARCHIVE.search(name):
        return "archive"
    name = _without_compression(name)
    if name.upper().startswith(("POSCAR", "CONTCAR")):
        return "poscar"
    if LIST.search(name):
        return "list"
    return _ENDINGS.get(posixpath.splitext(name)[1].lower(), "")


def holds_crystals(path: str) -> bool:
    """Whether a file found in a folder or an archive is to be read (archives included).

    Lists and manifests are left out: what they name is found with the folder, or is not part of
    it.
    """
    kind = format_of(path)
    if kind == "phonopy" and _NOT_CRYSTALS.match(_base(path)):
        return False
    return kind not in ("", "list", "manifest")


def is_read_as_a_whole(path: str) -> bool:
    """Whether a file has to be in memory before its first crystal is known."""
    return format_of(path) in ("json", "torch", "cif")


def holds_several(path: str) -> bool:
    """Whether files of this format are made to hold many crystals."""
    return format_of(path) in ("xyz", "json", "database", "csv", "torch")


def is_wanted(path: str, opener: Callable[[], IO[bytes]]) -> bool:
    """As :func:`holds_crystals`, but looks into a CSV file for a column of structures.

    Tables of other things lie beside crystals in many folders. One that cannot be opened is
    wanted: reading it will say why.
    """
    if not holds_crystals(path):
        return False
    if format_of(path) != "csv":
        return True
    from hpcbench.sources import csv_rows

    try:
        with opener() as stream:
            return csv_rows.has_structures(_decompressed(stream, path).read(csv_rows.HEADER_BYTES))
    except Exception:  # damaged archives and compressed files raise many kinds
        return True


def is_hidden(path: str) -> bool:
    """Whether a relative path is a dot file, in a dot folder, or macOS's copy of attributes."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))
        for part in path.replace("\\", "/").split("/")
    )


def stem_of(path: str) -> str:
    """What to call the only crystal of a file.

    Where the file's name says nothing (POSCAR, phonopy_disp.yaml), the name of its folder is put
    in front. For an archive's member at the top of the archive that is the archive's name.
    """
    location = path.replace("\\", "/").replace("::", "/")
    name = _without_compression(_base(location))
    stem, ending = posixpath.splitext(name)
    if ending.lower() not in _ENDINGS:
        stem = name
    if not _MEANINGLESS.fullmatch(stem):
        return stem
    folder = _base(posixpath.dirname(location) or posixpath.dirname(posixpath.abspath(location)))
    folder = ARCHIVE.sub("", folder)
    return f"{folder}-{stem}" if folder not in ("", ".", "..") else stem


def phonopy_stem(name: str) -> str:
    """The name of one of phonopy's files without its endings."""
    while (parts := posixpath.splitext(name))[1].lower() in (*COMPRESSIONS, ".yaml", ".yml"):
        name = parts[0]
    return name


def _born_beside(path: str) -> Path | None:
    """The BORN file that belongs to a file of phonopy's; members of archives have none."""
    match = PHONOPY_FILE.fullmatch(phonopy_stem(_base(path)))
    beside = Path(path).with_name(f"{BORN}{match['rest']}") if match else None
    return beside if beside is not None and beside.is_file() else None


def open_entries(
    stream: IO[bytes], path: str, *, with_supercell: bool
) -> Iterator[Entry | UnreadableError]:
    """Entries of an open file, its format taken from ``path``.

    A bad entry comes as an :class:`UnreadableError` among the others; a file that cannot be read
    on raises, whatever its library raises.
    """
    # Imported here, so that looking for files needs none of the parsers.
    from hpcbench.sources import cif, csv_rows, extxyz, readers

    kind = format_of(path)
    plain = _decompressed(stream, path)
    if kind == "xyz":
        # The only format that is read line by line: trajectories outgrow a node's memory.
        return extxyz.read_frames(plain, stem_of(path))
    if kind == "database":
        return readers.read_database(plain, stem_of(path))
    if kind == "csv":
        return csv_rows.read_rows(plain, path, stem_of(path))
    if kind == "torch":
        # Loads torch.
        from hpcbench.sources import torch_arrays

        return torch_arrays.read_arrays(io.BytesIO(_read_bytes(plain)))
    if kind in ("", "list", "manifest"):
        name = _base(path)
        raise UnreadableError("unknown format", f"no crystal format is known by the name {name!r}")
    text = _read_text(plain)
    if kind == "cif":
        return cif.read_blocks(text)
    if kind == "poscar":
        return readers.read_poscar(text)
    if kind == "json":
        return readers.read_json(text)
    return readers.read_phonopy(text, with_supercell=with_supercell, born=_born_beside(path))


def _base(path: str) -> str:
    return posixpath.basename(path.replace("\\", "/"))


def _without_compression(name: str) -> str:
    stem, ending = posixpath.splitext(name)
    return stem if ending.lower() in COMPRESSIONS else name


def _decompressed(stream: IO[bytes], path: str) -> IO[bytes]:
    ending = posixpath.splitext(path)[1].lower()
    if ending == ".gz":
        return cast(IO[bytes], gzip.open(stream))
    if ending == ".bz2":
        return cast(IO[bytes], bz2.open(stream))
    if ending in (".xz", ".lzma"):
        return cast(IO[bytes], lzma.open(stream))
    return stream


def _read_bytes(stream: IO[bytes]) -> bytes:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableError("too large", f"the file has more than {MAX_FILE_BYTES} bytes")
    return data


def _read_text(stream: IO[bytes]) -> str:
    """The whole text. Letters that are not UTF-8 occur in authors' names, and are replaced."""
    data = _read_bytes(stream)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise UnreadableError("empty", "the file is empty")
    if "\0" in text:
        raise UnreadableError("binary", "the file is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
