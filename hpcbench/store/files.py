"""The files of a store: the consolidated one, and segments; which crystal is where.

They may be replaced at any time by a process that consolidates. Whoever reads sees them as they
were when they were listed, or is told to list them again.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from hpcbench.errors import DamageError, NoStoreError, StoreError
from hpcbench.store.faults import require_each_once
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import AGAIN, EARLIER_LIST, SET_ASIDE, SHARED
from hpcbench.store.small_files import Stamp, stamp
from hpcbench.store.table_reader import TableReader

T = TypeVar("T")

# Files that are kept open: a run under way may have thousands of segments.
_MOST_OPEN = 16


class _ReplacedError(Exception):
    """A file is not the one any more that was listed."""


class Files:
    """The files of a store, as they were when they were last listed.

    Parameters
    ----------
    path : path or URL
        As of :class:`hpcbench.store.reader.Store`.

    Raises
    ------
    StoreError
        If there is neither a store nor a run of this name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = RunFolder(path)
        self.parts: list[Path] = []
        self.where: dict[str, tuple[Path, int]] = {}
        """By id, the file and the row in it, in the order of storage."""
        self.others: dict[str, list[str]] = {}
        """By id of a crystal, ids of the other rows that belong to it, in the order of storage."""
        self.set_aside: set[str] = set()
        """Ids of crystals that were not asked for, and have no result."""
        self.earlier: set[str] = set()
        """Ids of crystals that earlier lists of the run have, and the latest one has not."""
        self.generation = 0
        """Number of times that the files were listed."""
        self._url = os.fspath(path) if "://" in os.fspath(path) else ""
        self._remote: BinaryIO | None = None
        self._stamps: dict[Path, Stamp] = {}
        self._readers: dict[Path, TableReader] = {}
        self.refresh()

    def __getstate__(self) -> dict[str, object]:
        # Open files do not travel to another process.
        return self.__dict__ | {"_readers": {}, "_remote": None}

    def refresh(self) -> None:
        """List the files again.

        Raises
        ------
        StoreError
            If one cannot be read.
        """
        while True:
            self.close()
            self.where, self.set_aside, self._stamps = {}, set(), {}
            self.parts = [self.folder.store] if self._url else self._list()
            self._stamps[self.folder.store] = stamp(self.folder.store)
            try:
                self._look()
                self.earlier = self._of_earlier_lists()
            except _ReplacedError:
                # Consolidated since they were listed: it is in the store now.
                continue
            self.others = {}
            for key in self.where:
                if AGAIN in key:
                    self.others.setdefault(key.partition(AGAIN)[0], []).append(key)
            self.generation += 1
            return

    def _look(self) -> None:
        voided = self.folder.voided()
        for part in list(self.parts):
            try:
                reader = self.reader(part)
                if part == self.folder.store:
                    _require_whole(reader)
                keys = list(reader.keys(voided))
            except DamageError as error:
                if part == self.folder.store:
                    raise
                # The next run sets it aside, and computes its crystals again.
                warnings.warn(f"left out: {error}", stacklevel=2)
                self.parts.remove(part)
                continue
            aside: set[str] = set()
            if part == self.folder.store or self.set_aside:
                statuses = self.reader(part).column("status")
                aside = {key for index, key in keys if statuses[index] == SET_ASIDE}
            # What was not asked for when the store was written may have its result since. The
            # order of storage is that of the files.
            for _, key in keys:
                if key in self.set_aside and key not in aside:
                    self.set_aside.remove(key)
                    del self.where[key]
            for index, key in keys:
                self.where.setdefault(key, (part, index))
            if part == self.folder.store:
                self.set_aside = aside

    def _of_earlier_lists(self) -> set[str]:
        marked: set[str] = set()
        if self.folder.store in self.parts:
            reader = self.reader(self.folder.store)
            if f"crystals/{EARLIER_LIST}" not in reader.paths():
                # Of an older version: all of its rows count.
                return set()
            ids, marks = reader.column("id"), reader.column(EARLIER_LIST)
            marked = {key for key in ids[marks] if key in self.where and AGAIN not in key}
        try:
            listed = self.folder.listed_ids()
        except StoreError:
            listed = None  # damaged: whoever needs the list says it
        if listed is None:
            return marked
        return {key for key in self.where if AGAIN not in key and key not in listed}

    def _list(self) -> list[Path]:
        # Segments are listed before the store is: one that is consolidated in between is then
        # found in the store, not missed.
        segments = self.folder.segment_paths()
        while not all(path.exists() for path in segments):
            # Joined in between: what was in them is in one that is not in the list.
            segments = self.folder.segment_paths()
        parts = [*([self.folder.store] if self.folder.store.exists() else []), *segments]
        if not parts and not self.folder.path.exists():
            raise NoStoreError(f"{self.folder.store}: no such store")
        return parts

    def close(self) -> None:
        """Close the files; they are opened again if they are needed."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def steadily(self, read: Callable[[], T]) -> T:
        """Return what ``read`` returns, from files that belong together; list them anew if not.

        Raises
        ------
        StoreError
            If one cannot be read.
        """
        # Whoever consolidates replaces the store, whatever else.
        if self._has_changed():
            self.refresh()
        while True:
            try:
                return read()
            except _ReplacedError:
                self.refresh()
            except (OSError, StoreError):
                # Network file systems take a file away from those who have it open.
                if not self._has_changed() and all(part.exists() for part in self.parts):
                    raise
                self.refresh()

    def _has_changed(self) -> bool:
        store = self.folder.store
        return not self._url and stamp(store) != self._stamps[store]

    def reader(self, part: Path) -> TableReader:
        """Return a file, open; to be used within :meth:`steadily`."""
        reader = self._readers.pop(part, None)
        if reader is None:
            while len(self._readers) >= _MOST_OPEN:
                self._readers.pop(next(iter(self._readers))).close()
            reader = self._open(part)
        self._readers[part] = reader  # the last one used is the last one
        return reader

    def first_part(self, keys: Sequence[str]) -> tuple[TableReader, list[int]]:
        """Return the file that has the first of these crystals, with the rows of those in it.

        The file is the caller's to close. To be used within :meth:`steadily`.
        """
        part = self.where[keys[0]][0]
        here = itertools.takewhile(lambda key: self.where[key][0] == part, keys)
        return self._open(part), [self.where[key][1] for key in here]

    def _open(self, part: Path) -> TableReader:
        """Open the file of which it is known what lies where, and no later one."""
        if self._url:
            self._remote = self._remote or _open_remote(self._url)
            return TableReader(self._remote, every_object=True)
        before = stamp(part)
        try:
            # Segments are many, and what is read of one is looked at when it is read.
            reader = TableReader(part, every_object=part == self.folder.store)
        except StoreError as error:
            if part.exists():
                raise
            raise _ReplacedError from error
        if stamp(part) != before or self._stamps.setdefault(part, before) != before:
            reader.close()
            raise _ReplacedError
        return reader


def _require_whole(reader: TableReader) -> None:
    """Refuse a store that nobody can list.

    Raises
    ------
    DamageError
        If a crystal is in it twice, or a column is missing that each table has.
    StoreError
        If its settings are none.
    """
    if missing := [
        path for path in map("crystals/{}".format, SHARED) if path not in reader.paths()
    ]:
        raise DamageError(f"{reader.path} is damaged: it has no {missing[0]}")
    require_each_once(reader.path, reader.column("id"))
    # Whoever asks for them later is told the same.
    _ = reader.settings


def _open_remote(url: str) -> BinaryIO:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError as error:
        raise StoreError(f"{url}: to read from a server, pip install fsspec aiohttp") from error
    try:
        return cast("BinaryIO", fsspec.open(url).open())
    except Exception as error:  # of the many kinds of file systems
        raise StoreError(f"{url}: cannot be opened: {type(error).__name__}: {error}") from error
