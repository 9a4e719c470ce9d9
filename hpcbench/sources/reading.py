"""From a file or an archive to records."""

from __future__ import annotations

import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import IO

from hpcbench.crystal import Crystal
from hpcbench.errors import UnreadableError
from hpcbench.origin import MENDED, UNKNOWN, Generator, Origin
from hpcbench.sources import archives, formats
from hpcbench.sources.records import Entry, SourceFile, Unreadable, columns_of

Record = Crystal | Unreadable
Place = tuple[int, int]
"""Of a record in a file: the number of an archive's member, and the index in it."""


def read_file(file: SourceFile, *, with_supercell: bool = False) -> Iterator[Record]:
    """Crystals of a file or an archive, one after the other, and what of it could not be read.

    Parameters
    ----------
    file : SourceFile
        From :func:`hpcbench.sources.find_files`.
    with_supercell : bool, optional
        Keep the supercell matrix that a phonopy YAML file asks for. It is part of the content id.

    Yields
    ------
    Crystal or Unreadable
        In the order of the file. Content never raises: a damaged file gives the records before
        the damage, and one that says why it ended. At least one record comes from every file.
    """
    return (record for _, record in read_part(file, with_supercell=with_supercell))


def read_part(
    file: SourceFile, part: int = 0, parts: int = 1, *, with_supercell: bool = False
) -> Iterator[tuple[Place, Record]]:
    """The same of one of several parts of a file, each record with its place in the file.

    All parts together have all records; what says that the file is damaged may come from each.
    Members of an archive that hold one crystal and belong to another part are not looked into.
    """
    records: Iterator[tuple[Place, Record]]
    if file.problem:
        failure = _failure(UnreadableError("file", file.problem), file.path, 0)
        records = iter([((0, 0), failure)])
    elif formats.format_of(file.path) == "archive":
        records = _read_archive(file, part, parts, with_supercell)
    else:
        opener = partial(_open, file.path)
        found = _read_stream(opener, file.path, file.columns, with_supercell)
        records = (((0, n), record) for n, record in enumerate(found) if n % parts == part)
    return ((place, _made_by(record, file.made_by)) for place, record in records)


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
    file: SourceFile, part: int, parts: int, with_supercell: bool
) -> Iterator[tuple[Place, Record]]:
    found = others = 0
    members = archives.members(file.path)
    while True:
        try:
            member = next(members, None)
        except UnreadableError as error:
            # The index keeps this record apart from one about the whole archive.
            yield (found, 0), _failure(error, file.path, found)
            return
        if member is None:
            break
        name = f"{file.path}::{member.name}"
        if formats.is_hidden(member.name) or not formats.is_wanted(member.name, member.open):
            others += 1
            continue
        found += 1
        has_several = formats.holds_several(member.name)
        if not has_several and found % parts != part:
            continue
        if formats.format_of(member.name) == "archive":
            nested = UnreadableError("nested archive", "archives in archives are not read")
            yield (found, 0), _failure(nested, name, 0)
            continue
        records = _read_stream(member.open, name, file.columns, with_supercell)
        for index, record in enumerate(records):
            if not has_several or index % parts == part:
                yield (found, index), record
    if not found:
        empty = UnreadableError("empty", f"no crystal file among the archive's {others} files")
        yield (0, 0), _failure(empty, file.path, 0)


def _read_stream(
    opener: Callable[[], IO[bytes]], path: str, columns: Sequence[str], with_supercell: bool
) -> Iterator[Record]:
    """Records of one file, named: a file with one crystal gives it its own name."""
    waiting: Record | None = None
    count = 0
    for record in _records(opener, path, columns, with_supercell):
        if count == 1 and waiting is not None:
            yield waiting
        count += 1
        if count == 1:
            waiting = record
        else:
            yield record
    if count == 1 and waiting is not None:
        yield replace(waiting, name=formats.stem_of(path))


def _records(
    opener: Callable[[], IO[bytes]], path: str, columns: Sequence[str], with_supercell: bool
) -> Iterator[Record]:
    stem = formats.stem_of(path)
    index = 0
    entries = _entries(opener, path, with_supercell)
    while True:
        # The libraries' warnings concern formats, not the run. Switched off for one step at a
        # time, as a filter set around a yield would stay on in the caller.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                entry = next(entries, None)
                if entry is None:
                    break
                if isinstance(entry, UnreadableError):
                    raise entry
                said = columns_of(entry.labels, (*columns, MENDED))
                origin = Origin(path, index, Generator(entry.generator), columns=said)
                record: Record = entry.to_crystal(entry.name or f"{stem}-{index}", origin)
            except UnreadableError as error:
                record = _failure(error, path, index)
        yield record
        index += 1
    if index == 0:
        yield _failure(UnreadableError("empty", "the file is empty"), path, 0)


def _entries(
    opener: Callable[[], IO[bytes]], path: str, with_supercell: bool
) -> Iterator[Entry | UnreadableError]:
    """Entries, with every error of opening, decompressing and parsing as the last of them."""
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
            yield from formats.open_entries(stream, path, with_supercell=with_supercell)
    except UnreadableError as error:
        yield error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        yield UnreadableError("archive", f"the member is damaged ({error})")
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        yield UnreadableError("compression", f"the compressed data are damaged ({error})")
    except OSError as error:
        # The compression modules raise a bare OSError, the system one with its number.
        if error.errno is None:
            yield UnreadableError("compression", f"the compressed data are damaged ({error})")
        else:
            yield UnreadableError("file", f"the file cannot be read ({error.strerror})")
    except Exception as error:  # a library's own bug on a strange file must not end a run
        yield UnreadableError("syntax", f"{type(error).__name__}: {error}")


def _failure(error: UnreadableError, path: str, index: int) -> Unreadable:
    stem = formats.stem_of(path)
    # Messages become cells of tables: one line, and not a page of a file's content.
    message = " ".join(str(error).split())[:300]
    name = f"{stem}-{index}" if index else stem
    return Unreadable(name, Origin(path, index), error.kind, message)
