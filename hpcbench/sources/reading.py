"""Conversion of a file or an archive to records."""

from __future__ import annotations

import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

from hpcbench.crystal import Crystal
from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import MENDED, UNKNOWN, Generator, Origin
from hpcbench.sources import archives, formats, members
from hpcbench.sources.records import Entry, SourceFile, Unreadable, columns_of, named_supercell

KILLS = "kills its process"
"""The kind of reason for a file that ended the process that read it."""
Record = Crystal | Unreadable
Place = tuple[int, int]
"""The place of a record in a file: number of an archive's member, and index in that."""


def read_file(
    file: SourceFile, *, with_supercell: bool = False, limits: Limits = DEFAULT
) -> Iterator[Record]:
    """Yield the crystals of a file or an archive, and records of entries that could not be read.

    Parameters
    ----------
    file : SourceFile
        From :func:`hpcbench.sources.find_files`.
    with_supercell : bool, optional
        Keep the supercell matrix of a phonopy YAML file, or that a label names. It is part of the
        content id.
    limits : Limits, optional
        How much of a file is read.

    Yields
    ------
    Crystal or Unreadable
        In the order of the file. Content never raises: a damaged file yields the records before
        the damage, and one with the reason why it ended. Every file yields at least one record.
    """
    found = read_part(file, with_supercell=with_supercell, limits=limits)
    return (record for _, record in found)


def read_part(
    file: SourceFile,
    part: int = 0,
    parts: int = 1,
    *,
    with_supercell: bool = False,
    limits: Limits = DEFAULT,
    reads: Callable[[str], str] = lambda name: "",
) -> Iterator[tuple[Place, Record]]:
    """Yield the records of one of several parts of a file, each with its place in the file.

    All parts together have all records; a record of damage to the file may come from each. Members
    of an archive that contain one crystal and belong to another part are not opened.

    Parameters
    ----------
    file : SourceFile
        From :func:`hpcbench.sources.find_files`.
    part, parts : int
        Index of the part, and number of parts.
    with_supercell : bool, optional
        Keep the supercell matrix of a phonopy YAML file, or that a label names.
    limits : Limits, optional
        How much of a file is read.
    reads : callable, optional
        Called with the name of each file and member before it is read; may return a reason not to
        read it.
    """
    read = _Reading(file.columns, with_supercell, limits, reads)
    records: Iterator[tuple[Place, Record]]
    if file.problem:
        problem = failure(UnreadableError("file", file.problem), file.path, 0)
        records = iter([((0, 0), problem)])
    elif formats.format_of(file.path) == "archive":
        records = _read_archive(file, part, parts, read)
    else:
        found = _read_stream(partial(_open, file.path), file.path, read)
        records = (((0, n), record) for n, record in enumerate(found) if n % parts == part)
    return ((place, _made_by(record, file.made_by)) for place, record in records)


@dataclass(frozen=True)
class _Reading:
    """Parameters of :func:`read_part` that do not change within a file."""

    columns: Sequence[str]
    with_supercell: bool
    limits: Limits
    reads: Callable[[str], str]


def _open(path: str) -> IO[bytes]:
    return open(path, "rb")


def _made_by(record: Record, generator: Generator) -> Record:
    if generator == UNKNOWN:
        return record
    if isinstance(record, Unreadable):
        return replace(record, origin=replace(record.origin, made_by=generator))
    return record.with_origins(
        tuple(replace(origin, made_by=generator) for origin in record.origins)
    )


def _read_archive(
    file: SourceFile, part: int, parts: int, read: _Reading
) -> Iterator[tuple[Place, Record]]:
    found = others = 0
    if reason := read.reads(file.path):
        yield (0, 0), failure(UnreadableError(KILLS, reason), file.path, 0)
        return
    known = members.known_members(file.path, read.limits)
    while True:
        try:
            if (member := next(known, None)) is None:
                break
        except UnreadableError as error:
            # The index keeps this record apart from one about the whole archive.
            yield (found, 0), failure(error, file.path, found)
            return
        name = f"{file.path}::{member.name}"
        if member.kind:
            others += 1
            continue
        found += 1
        has_several = formats.holds_several(member.name)
        if not has_several and found % parts != part:
            continue
        form = formats.format_of(member.name)
        if form == "archive":
            nested = UnreadableError("nested archive", "archives in archives are not read")
            yield (found, 0), failure(nested, name, 0)
            continue
        if member.size > read.limits.of(form, "bytes"):
            if part == 0:
                yield (found, 0), failure(read.limits.error(form, "bytes"), name, 0)
            continue
        for index, record in enumerate(_read_stream(member.open, name, read)):
            if not has_several or index % parts == part:
                yield (found, index), record
    if not found:
        empty = UnreadableError("empty", f"no crystal file among the archive's {others} files")
        yield (0, 0), failure(empty, file.path, 0)


def _read_stream(opener: Callable[[], IO[bytes]], path: str, read: _Reading) -> Iterator[Record]:
    """Yield the records of one file; if it has only one crystal, that gets the file's name."""
    waiting: Record | None = None
    count = 0
    for record in _records(opener, path, read):
        if count == 1 and waiting is not None:
            yield waiting
        count += 1
        if count == 1:
            waiting = record
        else:
            yield record
    if count == 1 and waiting is not None:
        yield replace(waiting, name=formats.stem_of(path))


def _records(opener: Callable[[], IO[bytes]], path: str, read: _Reading) -> Iterator[Record]:
    stem = formats.stem_of(path)
    index = 0
    if reason := read.reads(path):
        yield failure(UnreadableError(KILLS, reason), path, 0)
        return
    entries = _entries(opener, path, read)
    while True:
        # The libraries' warnings concern formats, not the run. They are switched off for each
        # step, because a filter set around a yield would also hold in the caller.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                entry = next(entries, None)
                if entry is None:
                    break
                if isinstance(entry, UnreadableError):
                    raise entry
                if read.with_supercell and entry.supercell_matrix is None:
                    entry = replace(entry, supercell_matrix=named_supercell(entry.labels))
                said = columns_of(entry.labels, (*read.columns, MENDED))
                origin = Origin(path, index, Generator(entry.generator), columns=said)
                record: Record = entry.to_crystal(entry.name or f"{stem}-{index}", origin)
            except UnreadableError as error:
                record = failure(error, path, index)
        yield record
        index += 1
    if index == 0:
        yield failure(UnreadableError("empty", "the file is empty"), path, 0)


def _entries(
    opener: Callable[[], IO[bytes]], path: str, read: _Reading
) -> Iterator[Entry | UnreadableError]:
    """Yield entries; any error of opening, decompressing or parsing is the last of them."""
    try:
        stream = opener()
    except archives.BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            yield UnreadableError("file", f"the file cannot be opened ({error.strerror})")
        else:
            yield UnreadableError("archive", f"the member cannot be opened ({error})")
        return
    try:
        with stream:
            yield from formats.open_entries(
                stream, path, with_supercell=read.with_supercell, limits=read.limits
            )
    except UnreadableError as error:
        yield error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        yield UnreadableError("archive", f"the member is damaged ({error})")
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        yield UnreadableError("compression", f"the compressed data are damaged ({error})")
    except OSError as error:
        # The compression modules raise an OSError without errno, the system one with it.
        if error.errno is None:
            yield UnreadableError("compression", f"the compressed data are damaged ({error})")
        else:
            yield UnreadableError("file", f"the file cannot be read ({error.strerror})")
    except MemoryError:
        yield UnreadableError("too large", "there is not enough memory to read it")
    except Exception as error:  # a library's own bug on a strange file must not end a run
        yield UnreadableError("syntax", f"{type(error).__name__}: {error}")


def failure(
    error: UnreadableError, path: str, index: int, made_by: Generator = UNKNOWN
) -> Unreadable:
    """Return the record of a file, or of one of its entries, that could not be read.

    Parameters
    ----------
    error : UnreadableError
        The reason.
    path : str
        The file.
    index : int
        Index of the entry.
    made_by : Generator
        The generator that wrote it.
    """
    stem = formats.stem_of(path)
    # Messages become cells of tables: they must be one short line.
    message = " ".join(str(error).split())[:300]
    name = f"{stem}-{index}" if index else stem
    return Unreadable(name, Origin(path, index, made_by), error.kind, message)
