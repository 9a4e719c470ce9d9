"""Verify that a store is complete, and as it was written."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import NoStoreError, StoreError
from hpcbench.store.inspection import Inspection, inspect
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import AGAIN, SET_ASIDE
from hpcbench.store.small_files import stamp
from hpcbench.store.table_reader import TableReader


@dataclass(frozen=True)
class Verification:
    """Hold the findings of a verification.

    Attributes
    ----------
    files : dict
        What became of each file: the store, and segments that are not in it yet.
    counts : dict
        Crystals by status; empty if the store is damaged.
    others : int
        Rows that belong to crystals beside their own: earlier computations, another protocol.
    twice : tuple of str
        Ids that are in the store more than once.
    missing : int
        Crystals of the run's list without a result; -1 if there is no list any more.
    """

    files: dict[Path, Inspection]
    counts: dict[str, int]
    others: int
    twice: tuple[str, ...]
    missing: int

    @property
    def is_damaged(self) -> bool:
        """Tell whether something is not what was written."""
        return bool(self.twice) or any(found.damages for found in self.files.values())

    def is_broken(self, store: Path) -> bool:
        """Tell whether the store's own file is damaged beyond repair."""
        return store in self.files and bool(self.files[store].broken)

    @property
    def is_sound(self) -> bool:
        """Tell whether nothing is wrong; what is not computed yet is not wrong."""
        return not (self.is_damaged or any(found.deviations for found in self.files.values()))


def verify(
    store: Path,
    sample: int = 20,
    patience: float = 120.0,
    tell: Callable[[Path, int, int], None] = lambda path, done, rows: None,
) -> Verification:
    """Read and check every value of a store.

    Parameters
    ----------
    store : Path
        The store.
    sample : int
        How many crystals' bands are computed again from their force constants.
    patience : float
        Seconds that reading one block of one field may take.
    tell : callable
        Told how far it has come: a file, rows looked at, rows in all.

    Raises
    ------
    StoreError
        If there is no such store.
    """
    folder = RunFolder(store)
    seen: dict[Path, tuple[tuple[int, int, int] | None, Inspection]] = {}
    while True:
        # Segments may be consolidated meanwhile: then the store has been replaced.
        segments = folder.segment_paths()
        paths = [path for path in (store, *segments) if path.exists()]
        if not paths:
            raise NoStoreError(f"{store}: no such store")
        todo = [path for path in paths if path not in seen or seen[path][0] != stamp(path)]
        if not todo:
            break
        for path in todo:
            before = stamp(path)
            told = functools.partial(tell, path)
            try:
                found = inspect(path, sample if path == paths[0] else 0, patience, told)
            except StoreError:
                if stamp(path) == before:
                    raise
                continue
            if stamp(path) == before:
                seen[path] = before, found
    files = {path: seen[path][1] for path in paths}
    if any(found.damages for found in files.values()):
        return Verification(files, {}, 0, (), -1)
    statuses: dict[str, str] = {}
    twice: list[str] = []
    for path in paths:
        with TableReader(path) as reader:
            own: set[str] = set()
            for key, status in zip(reader.column("id"), reader.column("status"), strict=True):
                if key in own:
                    twice.append(str(key))
                own.add(key)
                # Of a segment and the store, or two segments, the first counts; but a result
                # before what was not asked for.
                if statuses.get(key) == SET_ASIDE:
                    del statuses[key]
                statuses.setdefault(key, status)
    counts = Counter(status for key, status in statuses.items() if AGAIN not in key)
    return Verification(
        files,
        dict(counts),
        len(statuses) - counts.total(),
        tuple(twice),
        _missing(folder, {key for key, status in statuses.items() if status != SET_ASIDE}),
    )


def _missing(folder: RunFolder, there: set[str]) -> int:
    if not folder.crystals.exists():
        return -1
    with TableReader(folder.crystals) as reader:
        listed = zip(reader.column("id"), reader.column("reason"), strict=True)
        return sum(not reason and key not in there for key, reason in listed)
