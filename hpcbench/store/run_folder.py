"""The folder beside a store in which a run does its work.

``store.h5.run/`` holds::

    settings.json             what decides the results, and its hash
    crystals.h5               the list of crystals, with the unreadable ones
    segments/segment-*.h5     results of blocks that are not in the store yet
    launches/<launch>/        leases of blocks, heartbeats and ends of ranks, of one launch
    events/rank-00000.jsonl   what each rank did, a line an event
    lock                      held while a run is under way
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench.errors import StoreError, StoreMismatchError
from hpcbench.store.tables import Row, Schema, TableWriter

# Seconds after which what another launch left behind is certainly nobody's.
LEFT_BEHIND = 600.0


class RunFolder:
    """Paths of a run's folder, and what is done with them."""

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self.store = Path(store)
        self.path = self.store.with_name(self.store.name + ".run")
        self.segments = self.path / "segments"
        self.events = self.path / "events"
        self.launches = self.path / "launches"
        self.crystals = self.path / "crystals.h5"
        self._settings = self.path / "settings.json"
        self._lock: int | None = None
        self._written = itertools.count()

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        StoreError
            If it cannot be made or written.
        """
        try:
            for folder in (self.segments, self.events, self.launches):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"writable")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"cannot write beside {self.store}: {error.strerror}; "
                f"give --out a path in a folder that exists and can be written"
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
            pass

    def unlock(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def agree(self, deciding: Mapping[str, Any]) -> None:
        """Write what decides the results, or compare it with that of the results there are.

        Raises
        ------
        StoreMismatchError
            If the store was made with other settings; the message lists the differences.
        """
        if self._settings.exists() and (self.store.exists() or self.segment_paths()):
            refuse_difference(self.settings(), deciding, self.store)
            return
        temporary = self._settings.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(dict(deciding), indent=1, sort_keys=True) + "\n")
        os.replace(temporary, self._settings)

    def settings(self) -> dict[str, Any]:
        """What decides the results of this store.

        Raises
        ------
        StoreError
            If there is no such run.
        """
        try:
            values: dict[str, Any] = json.loads(self._settings.read_text())
        except FileNotFoundError:
            raise StoreError(f"{self.store}: no run of this name") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._settings}: cannot be read: {error}") from error
        return values

    def segment_paths(self) -> list[Path]:
        """Committed segments, oldest first."""
        return sorted(self.segments.glob("segment-*.h5"))

    def commit(
        self, rows: Sequence[Row], schema: Schema, settings: Mapping[str, Any], rank: int
    ) -> Path:
        """Write rows as one immutable segment.

        Raises
        ------
        StoreError
            If the disk is full or not writable.
        """
        name = f"segment-{time.time_ns():020d}-{rank:05d}-{next(self._written):06d}.h5"
        path = self.segments / name
        try:
            with TableWriter(path, schema, settings) as writer:
                writer.append(rows)
        except (OSError, RuntimeError) as error:
            # h5py raises RuntimeError where closing a file fails.
            raise StoreError(
                f"cannot write {path}: {error}. What was written before is safe: make room and "
                f"give the same command again."
            ) from error
        return path

    def launch_folder(self, launch: str) -> Path:
        """The folder of one launch, made if it is not there."""
        folder = self.launches / launch
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget_other_launches(self, launch: str) -> None:
        """Remove what earlier launches left behind; their leases mean nothing any more."""
        # Not what is recent: without locks, its owner may be alive.
        old = time.time() - LEFT_BEHIND
        for folder in self.launches.iterdir():
            beats = [path.stat().st_mtime for path in (folder, *folder.glob("alive/*"))]
            if folder.name != launch and max(beats) < old:
                shutil.rmtree(folder, ignore_errors=True)
        for part in (*self.segments.glob(".*.part"), *self.path.glob(".*.part")):
            if part.stat().st_mtime < old:
                part.unlink(missing_ok=True)


def refuse_difference(there: Mapping[str, Any], given: Mapping[str, Any], store: Path) -> None:
    """Raise ``StoreMismatchError`` with a line for every setting that differs."""
    lines = [
        f"  {key}: {there.get(key, 'not set')} in the store, {given.get(key, 'not set')} now"
        for key in sorted({*there, *given})
        if key != "hash" and there.get(key) != given.get(key)
    ]
    if lines:
        raise StoreMismatchError(
            f"{store} was computed with other settings:\n"
            + "\n".join(lines)
            + "\ngive the same settings, or another --out"
        )
