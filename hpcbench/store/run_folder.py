"""The folder beside a store in which a run does its work.

``store.h5.run/`` holds::

    settings.json             what decides the results, and its hash
    crystals.h5               the list of crystals, with the unreadable ones
    segments/segment-*.h5     results of blocks that are not in the store yet
    launches/<launch>/        leases, journals, heartbeats and ends of ranks, of one launch
    retry.json                failures that are to be tried again, and count no more
    attempts.json             what earlier launches tell of crystals and files that end a process
    events/rank-00000.jsonl   what each rank did, a line an event
    lock                      held while a run is under way
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench.errors import NoStoreError, StoreError, StoreMismatchError, UsageError
from hpcbench.json_text import json_of
from hpcbench.outputs import remove_left_over, target_of
from hpcbench.store.fields import Row, Schema
from hpcbench.store.known import settings_of
from hpcbench.store.small_files import begins_as_hdf5, replace_text, text_of
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

# Seconds after which what another launch left behind is certainly nobody's.
LEFT_BEHIND = 600.0


class RunFolder:
    """Name the paths of a run's folder, and do what is done with them.

    Links are followed: a store has one folder and one lock, whatever it is called.

    Raises
    ------
    UsageError
        If the path is no name of a file.
    """

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self.store = target_of(store)
        self.path = self.store.with_name(self.store.name + ".run")
        self.segments = self.path / "segments"
        self.events = self.path / "events"
        self.launches = self.path / "launches"
        self.crystals = self.path / "crystals.h5"
        self.attempts = self.path / "attempts.json"
        self._retry = self.path / "retry.json"
        self._settings = self.path / "settings.json"
        self._lock: int | None = None
        self._locks_work = True
        self._written = itertools.count()

    def require_name(self) -> None:
        """Refuse a name that belongs to something else, before anything is written.

        Raises
        ------
        UsageError
            If there is something else than a store, or than the folder of a run.
        """
        if self.path.exists() and not self._is_of_a_run():
            raise UsageError(f"{self.path} is there, and is not of a run: give --out another name")
        if not self.store.exists():
            return
        if self.store.is_dir():
            raise UsageError(f"{self.store} is a folder: give --out the name of a file")
        # One whose beginning is damaged may have its folder still. Pipes are not opened.
        if not (self.store.is_file() and (self.path.exists() or begins_as_hdf5(self.store))):
            raise UsageError(f"{self.store} exists and is no store: give --out another name")

    def require_free(self) -> None:
        """Refuse a name that is taken, for what writes a new store.

        Raises
        ------
        StoreError
            If there is anything of that name, or the folder of a run.
        """
        for there in (self.store, self.path):
            if there.exists():
                raise StoreError(
                    f"{there} exists already, and a new store is written: give another name, or "
                    f"remove it"
                )

    def _is_of_a_run(self) -> bool:
        return self.path.is_dir() and (self.segments.is_dir() or not any(self.path.iterdir()))

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        StoreError
            If it cannot be made or written.
        """
        folders = (self.segments, self.events, self.launches)
        every = (*folders, self.path, *self.path.parents)
        missing = [path for path in every if not os.path.lexists(path)]
        probe = self.path / f".probe-{os.getpid()}"
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"writable")
            probe.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise StoreError(
                f"cannot write beside {self.store}: {error.strerror}; make room there (`df -h`, "
                f"`quota -s`), or give --out a path in a folder that can be written"
            ) from error

    def lock(self) -> None:
        """Hold the folder for the start of a launch, alone.

        Raises
        ------
        StoreError
            If a process of another launch is alive.
        """
        try:
            self._hold(fcntl.LOCK_EX)
        except BlockingIOError:
            self.unlock()
            raise StoreError(
                f"another run is writing {self.store}; wait for it, or give another --out"
            ) from None

    def share(self) -> None:
        """Hold the folder together with the other ranks of the launch, until ``unlock``."""
        try:
            self._hold(fcntl.LOCK_SH)
        except BlockingIOError as error:
            raise StoreError(
                f"another run is writing {self.store}; wait for it, or give another --out"
            ) from error

    def _hold(self, kind: int) -> None:
        if self._lock is None:
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            # A file system without locks: nobody keeps two launches apart then. They compute
            # some crystals twice, and the first result of each stays.
            self._locks_work = False

    def unlock(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def agree(self, result_settings: Mapping[str, Any]) -> None:
        """Write what decides the results, or compare it with that of the results there are.

        Raises
        ------
        StoreMismatchError
            If the store was made with other settings; the message lists the differences.
        """
        if not self.compare(result_settings):
            text = json.dumps(dict(result_settings), indent=1, sort_keys=True) + "\n"
            replace_text(self._settings, text)

    def compare(self, result_settings: Mapping[str, Any]) -> bool:
        """Compare what decides the results with that of the results there are; changes nothing.

        Returns whether the folder says what decides them.

        Raises
        ------
        StoreMismatchError
            As :meth:`agree`.
        """
        if self._settings.exists() and (self.store.exists() or self.segment_paths()):
            refuse_difference(self.settings(), result_settings, self.store)
            return True
        if self.store.exists():
            # Without its folder: removed after the run, or merged from several stores.
            with TableReader(self.store) as reader:
                refuse_difference(reader.settings, result_settings, self.store)
        return False

    def settings(self) -> dict[str, Any]:
        """Return what decides the results of this store.

        Raises
        ------
        StoreError
            If there is no such run.
        """
        try:
            return settings_of(text_of(self._settings), str(self._settings))
        except FileNotFoundError:
            raise NoStoreError(f"{self.store}: no run of this name") from None

    def listed_ids(self) -> set[str] | None:
        """Return ids of the latest list of crystals; ``None`` if there is no list.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        if not self.crystals.exists():
            return None
        with TableReader(self.crystals) as reader:
            return set(reader.column("id"))

    def void(self, failures: Mapping[str, float]) -> None:
        """Let failures count no more: by the id of the crystal, when it failed (Unix time)."""
        values = json.dumps({**self.voided(), **failures}, sort_keys=True)
        replace_text(self._retry, values + "\n")

    def voided(self) -> dict[str, float]:
        """Return failures that count no more; a later result of the crystal does.

        Raises
        ------
        StoreError
            If the file that says so cannot be read.
        """
        try:
            values = json_of(text_of(self._retry), f"{self._retry}: cannot be read")
        except FileNotFoundError:
            return {}
        if not isinstance(values, dict):
            raise StoreError(f"{self._retry}: cannot be read: no table of failures")
        return values

    def segment_paths(self) -> list[Path]:
        """Return committed segments, oldest first."""
        return sorted(self.segments.glob("segment-*.h5"))

    def segments_of(self, ranks: Iterable[int]) -> list[Path]:
        """Return segments that ranks have committed, oldest first."""
        endings = tuple(f"-{rank:05d}" for rank in ranks)
        return [p for p in self.segment_paths() if p.stem.rpartition("-")[0].endswith(endings)]

    def next_segment(self, rank: int) -> Path:
        """Return the path of a new segment of a rank."""
        name = f"segment-{time.time_ns():020d}-{rank:05d}-{next(self._written):06d}.h5"
        return self.segments / name

    def commit(
        self, rows: Sequence[Row], schema: Schema, settings: Mapping[str, Any], rank: int
    ) -> Path:
        """Write rows as one immutable segment.

        Parameters
        ----------
        rows : sequence of mapping
            By field name.
        schema : Schema
            Of the segment.
        settings : mapping
            What decides the results.
        rank : int
            Who writes it.

        Returns
        -------
        Path
            The segment.

        Raises
        ------
        StoreError
            If the disk is full or not writable.
        """
        path = self.next_segment(rank)
        try:
            with TableWriter(path, schema, settings, small=True) as writer:
                writer.append(rows)
        except (OSError, RuntimeError) as error:
            # h5py raises RuntimeError where closing a file fails.
            raise StoreError(
                f"cannot write {path}: {error}. What was written before is safe: make room (on the "
                f"disk, or in memory) and give the same command again."
            ) from error
        return path

    def launch_folder(self, launch: str) -> Path:
        """Return the folder of one launch, made if it is not there."""
        folder = self.launches / launch
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def past_launches(self) -> list[Path]:
        """Return folders of launches that are over, oldest first; to be called with the lock."""
        return [path for path in sorted(self.launches.iterdir()) if self._is_over(path)]

    def _is_over(self, launch: Path) -> bool:
        # Without locks, the owner of what is recent may be alive.
        beats = [path.stat().st_mtime for path in (launch, *launch.glob("alive/*"))]
        return self._locks_work or max(beats) < time.time() - LEFT_BEHIND

    def torn_files(self) -> list[Path]:
        """Return temporary files: of processes that write, or were killed while they wrote."""
        return [*self.segments.glob(".*.part"), *self.path.glob(".*.part")]

    def remove_torn_files(self) -> None:
        """Remove temporary files of processes that were killed; to be called with the lock.

        Beside the store those of imports and merges as well.
        """
        remove_left_over(self.store.parent)
        # Without locks, the owner of what is recent may be alive.
        old = math.inf if self._locks_work else time.time() - LEFT_BEHIND
        for part in self.torn_files():
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < old:
                    part.unlink()

    def committed_ids(self, ranks: Iterable[int]) -> set[str]:
        """Return ids of the crystals that ranks have committed and nobody has consolidated."""
        ranks = list(ranks)
        ids: set[str] = set()
        for path in (paths := self.segments_of(ranks)):
            with contextlib.suppress(StoreError), TableReader(path) as reader:
                ids |= set(reader.column("id"))
        if not all(path.exists() for path in paths):
            # Joined meanwhile by their rank, or consolidated.
            ids |= self.committed_ids(ranks)
        return ids


def refuse_difference(
    there: Mapping[str, Any], given: Mapping[str, Any], store: Path, where: str = "now"
) -> None:
    """Refuse settings that differ from those of a store, with a line for each that does.

    Parameters
    ----------
    there, given : mapping
        Of the store, and those that are compared with them.
    store : Path
        The store.
    where : str
        Says in the message where the latter are from.

    Raises
    ------
    StoreMismatchError
        If one differs.
    """
    lines = [
        f"  {key}: {there.get(key, 'not set')} in the store, {given.get(key, 'not set')} {where}"
        for key in sorted({*there, *given})
        if key != "hash" and there.get(key) != given.get(key)
    ]
    if lines:
        raise StoreMismatchError(
            f"{store} was computed with other settings:\n"
            + "\n".join(lines)
            + ("\ngive the same settings, or another --out" if where == "now" else "")
        )
