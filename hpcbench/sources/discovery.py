"""Search for the files behind a user's folders, patterns, files and lists."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpcbench.errors import SourceError, UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import UNKNOWN, Generator
from hpcbench.sources import folders, formats, members
from hpcbench.sources.manifest import read_manifest
from hpcbench.sources.records import LeftOut, SourceFile
from hpcbench.sources.streams import read_whole


class _MissingError(SourceError):
    """A source that does not exist, or contains nothing."""


@dataclass(frozen=True)
class Sources:
    """All files behind the sources of a run.

    Attributes
    ----------
    files : list of SourceFile
        To be read, each once.
    left_out : list of LeftOut
        Other files among them, which are not read.
    """

    files: list[SourceFile]
    left_out: list[LeftOut]

    def note(self) -> str:
        """Return the counts of :attr:`left_out` by kind in a sentence; empty if there are none."""
        return f"left out: {in_words(self.left_out)}" if self.left_out else ""


def in_words(left_out: Sequence[LeftOut]) -> str:
    """Count files that are left out by kind, with the first name of each kind."""
    kinds: dict[str, list[str]] = {}
    for item in left_out:
        kinds.setdefault(item.kind, []).append(os.path.basename(item.path))
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return ", ".join(
        f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for kind, names in ordered
    )


def find_sources(sources: Sequence[str | Path], limits: Limits = DEFAULT) -> Sources:
    """Find files and archives behind ``sources``, and all that is left out, also in the archives.

    It does what :func:`find_files` does, and also goes through the archives.

    Parameters
    ----------
    sources : sequence of str or Path
        As in :func:`find_files`.
    limits : Limits
        How much of a file is examined.
    """
    found = _find(sources, limits)
    archives = [file.path for file in found.files if formats.format_of(file.path) == "archive"]
    inside = [item for path in archives for item in _of_archive(path, limits)]
    return Sources(found.files, [*found.left_out, *inside])


def find_files(sources: Sequence[str | Path], limits: Limits = DEFAULT) -> list[SourceFile]:
    """Return the files and archives behind ``sources``, each once.

    Parameters
    ----------
    sources : sequence of str or Path
        Folders (searched to the bottom, links to folders followed), files, archives, glob
        patterns (``**`` included), lists: text files (.txt, .list, .lst) with one source a line,
        relative to the list's folder, and comments after ``#``; and manifests (.toml,
        ``sources/manifest.py``).
    limits : Limits
        How much of a file is examined.

    Returns
    -------
    list of SourceFile
        In the order of the sources; within a folder or a pattern sorted by path, numbers by
        their value. Files found in folders are left out if their name, their content or a
        generator's layout shows that they have no crystals. Hidden files are ignored, and stores
        and run folders are left out in any case.

    Raises
    ------
    SourceError
        A source does not exist, a pattern matches nothing, a folder or a list holds no source,
        or a list names itself.
    """
    return _find(sources, limits).files


def _find(sources: Sequence[str | Path], limits: Limits) -> Sources:
    files: dict[tuple[str, Generator], SourceFile] = {}
    left_out: dict[str, LeftOut] = {}
    for source in sources:
        for item in _expand(os.fspath(source), (), limits):
            if isinstance(item, LeftOut):
                left_out[item.path] = item
                continue
            # The real path is the same for "a.cif", "./a.cif" and links to it. A file that was
            # named explicitly stays explicit, even if a folder contained it before.
            # A file of two generators is read for both.
            key = os.path.realpath(item.path), item.made_by
            file = replace(item, size=_size(item.path))
            earlier = files.setdefault(key, file)
            if file.explicit and not earlier.explicit:
                files[key] = replace(earlier, explicit=True)
    return Sources(list(files.values()), list(left_out.values()))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0  # reading it will say why


def _of_archive(path: str, limits: Limits) -> Iterator[LeftOut]:
    try:
        for member in members.known_members(path, limits):
            if member.kind:
                yield LeftOut(f"{path}::{member.name}", member.kind)
    except UnreadableError:
        return  # reading the archive will record this


_Item = SourceFile | LeftOut


def _expand(
    source: str, lists: tuple[str, ...], limits: Limits, lenient: bool = False
) -> Iterator[_Item]:
    """Yield the files of a source; if ``lenient``, a missing one as a file with a problem."""
    try:
        yield from _named(source, lists, limits, lenient)
    except _MissingError as error:
        if not lenient:
            raise
        yield SourceFile(source, explicit=True, problem=str(error))


def _named(source: str, lists: tuple[str, ...], limits: Limits, lenient: bool) -> Iterator[_Item]:
    if os.path.isdir(source):
        yield from _of_folder(source, limits)
    elif os.path.isfile(source):
        path = os.path.normpath(source)
        if formats.format_of(path) == "list":
            yield from _read_list(path, lists, limits, lenient)
        elif formats.format_of(path) == "manifest":
            yield from _of_manifest(path, lists, limits)
        elif formats.format_of(path) == "" and _is_hdf5(path):
            yield LeftOut(path, "HDF5 files, such as stores")
        else:
            yield SourceFile(path, explicit=True)
    elif os.path.exists(source):
        raise SourceError(f"{source} is neither a file nor a folder.")
    elif glob.has_magic(source):
        yield from _of_pattern(source, lists, limits, lenient)
    else:
        raise _MissingError(f"There is no file or folder {source!r}.")


def _of_pattern(
    pattern: str, lists: tuple[str, ...], limits: Limits, lenient: bool
) -> Iterator[_Item]:
    matches = sorted(glob.glob(pattern, recursive=True), key=folders.sort_key)
    closed = [*_closed_folders(pattern)]
    if not matches and not closed:
        raise _MissingError(f"No file matches the pattern {pattern!r}.")
    found: list[_Item] = [*closed]
    for match in matches:
        if os.path.islink(match) and not os.path.exists(match):
            found.append(folders.dead_link(match))
        elif os.path.isdir(match):
            # "**" matches folders beside the files in them.
            if "**" not in pattern:
                # In a folder of exports all files are left out; an empty folder is an error.
                found += _in_folder(match, limits) or _expand(match, lists, limits, lenient)
        elif os.path.isfile(match):
            found += _expand(match, lists, limits, lenient)
        else:
            found.append(LeftOut(match, folders.SPECIAL))
    _require_files(found, f"What matches the pattern {pattern!r}")
    yield from found


def _closed_folders(pattern: str) -> Iterator[SourceFile]:
    """Yield the unreadable folders of a pattern's path, which ``glob`` ignores silently."""
    places: set[str] = set()
    parent = os.path.dirname(pattern)
    while parent and glob.has_magic(parent):
        places |= {place for place in glob.glob(parent, recursive=True) if os.path.isdir(place)}
        parent = os.path.dirname(parent)
    for place in sorted({*places, parent or "."}, key=folders.sort_key):
        try:
            os.scandir(place).close()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                yield folders.closed(os.path.normpath(place), error)


def _is_hdf5(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False


def _of_folder(folder: str, limits: Limits) -> list[_Item]:
    found = _in_folder(folder, limits)
    if not folders.is_run_folder(folder):
        _require_files(found, f"The folder {folder!r}")
    return found


def _in_folder(folder: str, limits: Limits) -> list[_Item]:
    if folders.is_run_folder(folder):
        return [LeftOut(os.path.normpath(folder), folders.RUN_FOLDER)]
    return folders.search(folder, limits)


def _require_files(found: Sequence[_Item], what: str) -> None:
    """Refuse a source in which there is nothing to read."""
    if any(isinstance(item, SourceFile) for item in found):
        return
    others = [item for item in found if isinstance(item, LeftOut)]
    there = f": {in_words(others)}" if others else ": it is empty"
    hint = "; name files themselves to read them" if others else ""
    raise _MissingError(f"{what} holds no crystal files{there}{hint}.")


def _of_manifest(path: str, lists: tuple[str, ...], limits: Limits) -> Iterator[_Item]:
    real = os.path.realpath(path)
    if real in lists:
        raise SourceError(f"The manifest {path!r} names itself, directly or through a list.")
    for entry in read_manifest(path, limits):
        for source in entry.files:
            # Users of the same manifest may have their data in different places: $SCRATCH/samples.
            named = os.path.expanduser(os.path.expandvars(source))
            place = os.path.join(os.path.dirname(path), named)
            # A missing file becomes an entry of the generator in the report.
            for item in _expand(place, (*lists, real), limits, lenient=True):
                if isinstance(item, LeftOut):
                    yield item
                    continue
                if item.made_by != UNKNOWN:
                    raise SourceError(f"{path}: a manifest names another one, {source!r}.")
                yield replace(item, made_by=entry.generator, columns=entry.columns)


def _read_list(path: str, lists: tuple[str, ...], limits: Limits, lenient: bool) -> Iterator[_Item]:
    real = os.path.realpath(path)
    if real in lists:
        raise SourceError(f"The list {path!r} names itself, directly or through another list.")
    try:
        with open(path, "rb") as stream:
            text = read_whole(stream, "list", limits).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, UnreadableError) as error:
        raise SourceError(f"The list {path!r} cannot be read: {error}.") from error
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    if not any(lines):
        raise SourceError(f"The list {path!r} names no source.")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        place = os.path.join(os.path.dirname(path), line)
        try:
            yield from _named(place, (*lists, real), limits, lenient)
        except SourceError as error:
            # The message of a list within a list already names the line.
            is_said = "line " in str(error)
            text = str(error) if is_said else f"{path}, line {number}: {error}"
            if not (lenient and isinstance(error, _MissingError)):
                raise type(error)(text) from error
            yield SourceFile(place, explicit=True, problem=text)
