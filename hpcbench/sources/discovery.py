"""Finding the files that a person means by folders, patterns, files and lists."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from hpcbench.errors import SourceError, UnreadableError
from hpcbench.origin import UNKNOWN, Generator
from hpcbench.sources import archives, formats
from hpcbench.sources.manifest import read_manifest
from hpcbench.sources.records import SourceFile


class _MissingError(SourceError):
    """A source that does not exist, or holds nothing."""


_Found = tuple[SourceFile, bool]
"""A file, and whether it is to be read."""


def find_files(sources: Sequence[str | Path]) -> list[SourceFile]:
    """Files and archives behind ``sources``, each once.

    Parameters
    ----------
    sources : sequence of str or Path
        Folders (searched to the bottom), files, archives, glob patterns (``**`` included),
        lists: text files (.txt, .list, .lst) with one source a line, relative to the list's
        folder, and comments after ``#``; and manifests (.toml, ``sources/manifest.py``).

    Returns
    -------
    list of SourceFile
        In the order of the sources; within a folder or a pattern sorted by path, numbers by
        their value. Files in folders that clearly are no crystals are left out, see
        :func:`ignored_files`.

    Raises
    ------
    SourceError
        A source does not exist, a pattern matches nothing, a folder or a list holds no source,
        or a list names itself.
    """
    files: dict[tuple[str, Generator], SourceFile] = {}
    for file, wanted in _expand_all(sources):
        if wanted:
            # The real path tells "a.cif" from "./a.cif" and from a link to it. What is named
            # stays named, even when a folder gave it first.
            # A file that two generators wrote is read for both.
            key = os.path.realpath(file.path), file.made_by
            file = replace(file, size=_size(file.path))
            earlier = files.setdefault(key, file)
            if file.explicit and not earlier.explicit:
                files[key] = replace(earlier, explicit=True)
    return list(files.values())


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0  # reading it will say why


def ignored_files(sources: Sequence[str | Path]) -> list[str]:
    """Files behind ``sources`` that are not read, as they clearly are no crystals.

    Notes, tables, figures, logs, in folders and archives; hidden files are not counted.

    Returns
    -------
    list of str
        Paths, members of archives as ``archive.zip::member``.

    Raises
    ------
    SourceError
        As :func:`find_files`.
    """
    ignored: dict[str, None] = {}
    for file, wanted in _expand_all(sources):
        if not wanted:
            ignored[file.path] = None
        elif formats.format_of(file.path) == "archive":
            ignored.update(dict.fromkeys(_ignored_members(file.path)))
    return list(ignored)


def _ignored_members(path: str) -> Iterator[str]:
    try:
        for member in archives.members(path):
            if not formats.is_hidden(member.name) and not formats.is_wanted(
                member.name, member.open
            ):
                yield f"{path}::{member.name}"
    except UnreadableError:
        return  # reading the archive will record this


def _expand_all(sources: Iterable[str | Path]) -> Iterator[_Found]:
    for source in sources:
        yield from _expand(os.fspath(source), ())


def _expand(source: str, lists: tuple[str, ...], lenient: bool = False) -> Iterator[_Found]:
    """What a source names; ``lenient``: with a problem in the place of what does not exist."""
    try:
        yield from _named(source, lists, lenient)
    except _MissingError as error:
        if not lenient:
            raise
        yield SourceFile(source, explicit=True, problem=str(error)), True


def _named(source: str, lists: tuple[str, ...], lenient: bool) -> Iterator[_Found]:
    if os.path.isdir(source):
        yield from _search(source)
    elif os.path.isfile(source):
        path = os.path.normpath(source)
        if formats.format_of(path) == "list":
            yield from _read_list(path, lists, lenient)
        elif formats.format_of(path) == "manifest":
            yield from _of_manifest(path, lists)
        else:
            yield SourceFile(path, explicit=True), True
    elif os.path.exists(source):
        raise SourceError(f"{source} is neither a file nor a folder.")
    elif glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True), key=_sort_key)
        if not matches:
            raise _MissingError(f"No file matches the pattern {source!r}.")
        for match in matches:
            # "**" matches folders beside the files in them.
            if os.path.isfile(match) or "**" not in source:
                yield from _expand(match, lists, lenient)
    else:
        raise _MissingError(f"There is no file or folder {source!r}.")


def _search(folder: str) -> Iterator[_Found]:
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not formats.is_hidden(name)]
        found += [
            os.path.normpath(os.path.join(parent, name))
            for name in files
            if not formats.is_hidden(name) and os.path.isfile(os.path.join(parent, name))
        ]
    wanted = {path for path in found if formats.is_wanted(path, _opener(path))}
    if not wanted:
        raise _MissingError(
            f"The folder {folder!r} holds no crystal files ({len(found)} files of other kinds)."
        )
    for path in sorted(found, key=_sort_key):
        yield SourceFile(path, explicit=False), path in wanted


def _opener(path: str) -> Callable[[], IO[bytes]]:
    return lambda: open(path, "rb")


def _of_manifest(path: str, lists: tuple[str, ...]) -> Iterator[_Found]:
    real = os.path.realpath(path)
    if real in lists:
        raise SourceError(f"The manifest {path!r} names itself, directly or through a list.")
    for entry in read_manifest(path):
        for source in entry.files:
            # A manifest may be shared by people whose data lies elsewhere: $SCRATCH/samples.
            named = os.path.expanduser(os.path.expandvars(source))
            place = os.path.join(os.path.dirname(path), named)
            # What is missing is an entry of the generator in the report; the rest goes on.
            for file, wanted in _expand(place, (*lists, real), lenient=True):
                if file.made_by != UNKNOWN:
                    raise SourceError(f"{path}: a manifest names another one, {source!r}.")
                yield replace(file, made_by=entry.generator, columns=entry.columns), wanted


def _read_list(path: str, lists: tuple[str, ...], lenient: bool) -> Iterator[_Found]:
    real = os.path.realpath(path)
    if real in lists:
        raise SourceError(f"The list {path!r} names itself, directly or through another list.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The list {path!r} cannot be read: {error}.") from error
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    if not any(lines):
        raise SourceError(f"The list {path!r} names no source.")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        place = os.path.join(os.path.dirname(path), line)
        try:
            yield from _named(place, (*lists, real), lenient)
        except SourceError as error:
            # A list within a list has said where.
            is_said = "line " in str(error)
            text = str(error) if is_said else f"{path}, line {number}: {error}"
            if not (lenient and isinstance(error, _MissingError)):
                raise type(error)(text) from error
            yield SourceFile(place, explicit=True, problem=text), True


def _sort_key(path: str) -> list[tuple[int, int, str]]:
    """Numbers by their value: gen_2 before gen_10."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
