"""Formats by file name, decompression, and the choice of each format's reader."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.sources.records import Entry
from hpcbench.sources.streams import read_whole

COMPRESSIONS = (".gz", ".bz2", ".xz", ".lzma")
"""Endings of single compressed files, of any format."""

ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
PHONOPY_FILE = re.compile(r"phonopy(?P<kind>_params|_disp|)(?P<rest>.*)", re.IGNORECASE)
"""phonopy's names for the files of one calculation, without endings."""
BORN = "BORN"
"""phonopy's name for Born charges; a suffix of ``phonopy_disp`` is also a suffix of this."""
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
        "archive", "cif", "poscar", "xyz", "json", "database", "phonopy", "csv", "torch", "list",
        "manifest", or an empty string if the name is of no known format.
    """
    name = _base(path)
    if ARCHIVE.search(name):
        return "archive"
    name = _without_compression(name)
    if LIST.search(name):
        return "list"
    if found := _ENDINGS.get(posixpath.splitext(name)[1].lower()):
        return found
    is_poscar = name.upper().startswith(("POSCAR", "CONTCAR")) and not _FOREIGN.search(name)
    return "poscar" if is_poscar else ""


def holds_crystals(path: str) -> bool:
    """Tell whether files with such a name may contain crystals (archives included)."""
    return format_of(path) not in ("", "list", "manifest")


def is_read_as_a_whole(path: str) -> bool:
    """Tell whether a file has to be in memory before its first crystal is known."""
    return format_of(path) in ("json", "torch", "cif")


def holds_several(path: str) -> bool:
    """Tell whether files of this format may contain many crystals."""
    return format_of(path) in ("xyz", "json", "database", "csv", "torch")


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


def _born_beside(path: str) -> Path | None:
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
    # Imported here, so that the search for files needs none of the parsers.
    from hpcbench.sources import cif, csv_rows, extxyz, phonopy_yaml, readers

    kind = format_of(path)
    plain = decompressed(stream, path)
    if kind == "xyz":
        # Read line by line, because trajectories may be larger than a node's memory.
        return extxyz.read_frames(plain, stem_of(path), limits)
    if kind == "database":
        return readers.read_database(plain, stem_of(path), limits)
    if kind == "csv":
        return csv_rows.read_rows(plain, path, stem_of(path), limits)
    if kind == "torch":
        # This imports torch.
        from hpcbench.sources import torch_arrays

        return torch_arrays.read_arrays(io.BytesIO(read_whole(plain, kind, limits)), limits)
    if kind in ("", "list", "manifest"):
        name = _base(path)
        raise UnreadableError("unknown format", f"no crystal format is known by the name {name!r}")
    text = _read_text(plain, kind, limits)
    if kind == "json":
        # The text is often a single line.
        limits.check_tree(kind, text)
        return readers.read_json(text)
    limits.check_lines(kind, text)
    if kind == "cif":
        return cif.read_blocks(text)
    if kind == "poscar":
        return readers.read_poscar(text)
    return phonopy_yaml.read_phonopy(
        text, with_supercell=with_supercell, born=_born_beside(path), limits=limits
    )


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


def _read_text(stream: IO[bytes], kind: str, limits: Limits) -> str:
    """Return the whole text; bytes that are not UTF-8, as in authors' names, are replaced."""
    data = read_whole(stream, kind, limits)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="replace")
    del data
    if not text or text.isspace():
        raise UnreadableError("empty", "the file is empty")
    if "\0" in text:
        raise UnreadableError("binary", "the file is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
