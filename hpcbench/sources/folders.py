"""Search of a folder and the folders below it: files to read, and files that are left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hpcbench.limits import Limits
from hpcbench.sources import contents, formats
from hpcbench.sources.records import LeftOut, SourceFile

RUN_FOLDER = "run folders of hpcbench"
READ, AROUND = "links to folders that are read already", "links to a folder around them"
SPECIAL, NOWHERE = "pipes and devices", "dead links"
# The file with an export's settings (``hpcbench.outputs.SETTINGS_FILE``).
_SETTINGS = "hpcbench.json"
# On a cluster's file system, opening a file is mostly waiting.
_THREADS = 8


@dataclass
class _Seen:
    """The state of a search."""

    files: list[tuple[str, bool]] = field(default_factory=list)
    """Files, and whether there is a store in the same folder."""
    others: list[SourceFile | LeftOut] = field(default_factory=list)
    entered: set[tuple[int, int]] = field(default_factory=set)
    """Folders by device and inode."""
    around: set[tuple[int, int]] = field(default_factory=set)
    """Folders around the one that is searched."""
    links: list[str] = field(default_factory=list)
    """Links to folders, which are followed at the end."""


def search(folder: str, limits: Limits) -> list[SourceFile | LeftOut]:
    """Find everything in a folder, without hidden files.

    Links to folders are followed, but each folder is read once, under its own path if that is in
    this folder. An unreadable folder, or a dead link that may have led to crystals, is a source
    with a problem.

    Parameters
    ----------
    folder : str
        The folder.
    limits : Limits
        How much of a file is examined.

    Returns
    -------
    list of SourceFile or LeftOut
        Sorted by path, numbers by their value.
    """
    seen = _Seen()
    seen.around = {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    _enter(folder, seen)
    while seen.links:
        link = min(seen.links, key=sort_key)
        seen.links.remove(link)
        _enter(link, seen)
    with ThreadPoolExecutor(_THREADS) as threads:
        kinds = threads.map(partial(_kind_of, limits=limits), seen.files)
        found = [
            LeftOut(path, kind) if kind else SourceFile(path, explicit=False)
            for (path, _), kind in zip(seen.files, kinds, strict=True)
        ]
    return sorted([*found, *seen.others], key=lambda item: sort_key(item.path))


def _kind_of(file: tuple[str, bool], limits: Limits) -> str:
    path, beside_store = file
    return contents.kind_left_out(path, lambda: open(path, "rb"), limits, beside_store=beside_store)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _enter(folder: str, seen: _Seen) -> None:
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            identity = _identity(place)
            if identity in seen.entered or identity in seen.around:
                kind = AROUND if identity in seen.around else READ
                seen.others.append(LeftOut(place, kind))
                continue
            seen.entered.add(identity)
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            seen.others.append(closed(place, error))
            continue
        waiting += _look_at(found, seen)


def _look_at(entries: list[os.DirEntry[str]], seen: _Seen) -> Iterator[str]:
    """Sort the entries of a folder; yield the folders among them."""
    names = {entry.name for entry in entries}
    beside_store = any(name.endswith((".h5", ".run")) for name in names)
    for entry in entries:
        path = os.path.normpath(entry.path)
        if formats.is_hidden(entry.name):
            continue
        if layout := contents.layout_of(entry.name, names):
            seen.others.append(LeftOut(path, layout))
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            is_nowhere = entry.is_symlink() and not os.path.exists(path)
        except OSError as error:
            seen.others.append(_problem(path, f"it cannot be looked at ({error.strerror})"))
            continue
        if is_folder and is_run_folder(path):
            seen.others.append(LeftOut(path, RUN_FOLDER))
        elif is_folder and _SETTINGS in names and contents.is_exported_folder(entry.name, names):
            seen.others.append(LeftOut(path, contents.EXPORT))
        elif is_folder and entry.is_symlink():
            seen.links.append(path)
        elif is_folder:
            yield path
        elif is_file:
            seen.files.append((path, beside_store))
        elif is_nowhere:
            seen.others.append(dead_link(path))
        else:
            seen.others.append(LeftOut(path, SPECIAL))


def dead_link(path: str) -> SourceFile | LeftOut:
    """Return the record of a dead link: a source with a problem, if it may have led to crystals."""
    name = os.path.basename(path)
    if not formats.holds_crystals(name) and os.path.splitext(name)[1]:
        return LeftOut(path, NOWHERE)
    return _problem(path, f"a link to nothing: there is no {os.readlink(path)!r}")


def closed(folder: str, error: OSError) -> SourceFile:
    """Return an unreadable folder as a source with a problem.

    Parameters
    ----------
    folder : str
        The folder.
    error : OSError
        The error of the system.
    """
    return _problem(folder, f"the folder cannot be read ({error.strerror})")


def _problem(path: str, problem: str) -> SourceFile:
    return SourceFile(path, explicit=False, problem=problem)


def is_run_folder(path: str) -> bool:
    """Tell whether a folder is the run folder of a present or former run."""
    return os.path.isdir(os.path.join(path, "segments")) and any(
        os.path.exists(os.path.join(path, name)) for name in ("settings.json", "lock", "launches")
    )


def sort_key(path: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers by their value: gen_2 before gen_10."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
