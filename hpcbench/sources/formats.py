"""Formats by file name, decompression, and the choice of each format's reader."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from hpcbench.crystal_formats import CRYSTAL_FORMATS
from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.named_functions import function_of
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import Entry

COMPRESSIONS = (".gz", ".bz2", ".xz", ".lzma")
"""Endings of single compressed files, of any format."""

ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
PHONOPY_FILE = re.compile(r"phonopy(?P<kind>_params|_disp|)(?P<rest>.*)", re.IGNORECASE)
"""phonopy's names for the files of one calculation, without endings."""
BORN = "BORN"
"""phonopy's name for Born charges; a suffix of ``phonopy_disp`` is also a suffix of this."""
LIST = re.compile(r"\.(txt|list|lst)$", re.IGNORECASE)
_ENDINGS = {ending: name for name, form in CRYSTAL_FORMATS.items() for ending in form.endings}
_ENDINGS[".toml"] = "manifest"
_BEGINNINGS = {text: name for name, form in CRYSTAL_FORMATS.items() for text in form.beginnings}
# Endings of other formats, which exclude files with any beginning of the name.
_FOREIGN = re.compile(
    r"\.(png|jpe?g|gif|svg|pdf|eps|html?|md|rst|log|out|err|dat|tsv|xlsx?|xml|h5|hdf5|npz|npy|pkl|"
    r"pth|ckpt|py|sh|ipynb|ini|cfg|jsonl|part|tmp|swp)$|~$",
    re.IGNORECASE,
)
# Stems that name the kind of a file, but not its crystal.
_MEANINGLESS = re.compile(
    r"(POSCAR|CONTCAR)([-_.]?unitcell)?|phonopy(_disp|_params)?", re.IGNORECASE
)


def format_of(path: str) -> str:
    """Return the format by a file's name, without its compression.

    Returns
    -------
    str
        A name of :data:`~hpcbench.crystal_formats.CRYSTAL_FORMATS`, "archive", "list", "manifest",
        or an empty string if the name is of no known format.
    """
    name = _base(path)
    if ARCHIVE.search(name):
        return "archive"
    name = _without_compression(name)
    if LIST.search(name):
        return "list"
    if found := _ENDINGS.get(posixpath.splitext(name)[1].lower()):
        return found
    if _FOREIGN.search(name):
        return ""
    kinds = (kind for text, kind in _BEGINNINGS.items() if name.upper().startswith(text))
    return next(kinds, "")


def holds_crystals(path: str) -> bool:
    """Tell whether files with such a name may contain crystals (archives included)."""
    return format_of(path) not in ("", "list", "manifest")


def is_read_as_a_whole(path: str) -> bool:
    """Tell whether a file has to be in memory before its first crystal is known."""
    form = CRYSTAL_FORMATS.get(format_of(path))
    return form is not None and form.whole


def holds_several(path: str) -> bool:
    """Tell whether files of this format may contain many crystals."""
    form = CRYSTAL_FORMATS.get(format_of(path))
    return form is not None and form.several


def is_hidden(path: str) -> bool:
    """Tell whether a relative path is hidden: a dot file, in a dot folder, or in ``__MACOSX``."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))
        for part in path.replace("\\", "/").split("/")
    )


def stem_of(path: str) -> str:
    """Return a name for the only crystal of a file.

    If the file's name has no information (POSCAR, phonopy_disp.yaml), the name of its folder
    precedes it. For a member at the top of an archive that is the archive's name.
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
    """Return the name of one of phonopy's files without its endings."""
    while (parts := posixpath.splitext(name))[1].lower() in (*COMPRESSIONS, ".yaml", ".yml"):
        name = parts[0]
    return name


def born_beside(path: str) -> Path | None:
    """Return the BORN file that belongs to one of phonopy's files; archives' members have none."""
    match = PHONOPY_FILE.fullmatch(phonopy_stem(_base(path)))
    beside = Path(path).with_name(f"{BORN}{match['rest']}") if match else None
    return beside if beside is not None and beside.is_file() else None


def open_entries(
    stream: IO[bytes], path: str, *, with_supercell: bool, limits: Limits = DEFAULT
) -> Iterator[Entry | UnreadableError]:
    """Return the entries of an open file, whose format follows from ``path``.

    A bad entry is an :class:`UnreadableError` among the others. If the rest of a file cannot be
    read, the exception of its library is raised.

    Parameters
    ----------
    stream : file
        The file, opened in binary mode.
    path : str
        Its path, or its name in an archive.
    with_supercell : bool
        Whether to keep the supercell matrix of a phonopy YAML file.
    limits : Limits
        How much is read.
    """
    kind = format_of(path)
    form = CRYSTAL_FORMATS.get(kind)
    if form is None:
        name = _base(path)
        raise UnreadableError("unknown format", f"no crystal format is known by the name {name!r}")
    file = OpenFile(decompressed(stream, path), path, kind, stem_of(path), with_supercell, limits)
    entries: Iterator[Entry | UnreadableError] = function_of(form.reader)(file)
    return entries


def _base(path: str) -> str:
    return posixpath.basename(path.replace("\\", "/"))


def _without_compression(name: str) -> str:
    stem, ending = posixpath.splitext(name)
    return stem if ending.lower() in COMPRESSIONS else name


def decompressed(stream: IO[bytes], path: str) -> IO[bytes]:
    """Return the content of a stream, decompressed if the ending of its name says so.

    Parameters
    ----------
    stream : file
        The stream.
    path : str
        Its name.
    """
    ending = posixpath.splitext(path)[1].lower()
    if ending == ".gz":
        return cast(IO[bytes], gzip.open(stream))
    if ending == ".bz2":
        return cast(IO[bytes], bz2.open(stream))
    if ending in (".xz", ".lzma"):
        return cast(IO[bytes], lzma.open(stream))
    return stream
