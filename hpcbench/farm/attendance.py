"""Which ranks of a launch are at work, have ended, or have died. Told by files, not by MPI.

A rank has a file that it touches every few seconds; one that has not been touched for a while
is that of a dead rank. Ranks leave together: MPICH's mpiexec kills the others when one process
exits before them, and MPI_Finalize never returns once one has died.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

HEARTBEAT = 10.0
# Shared file systems show a new time stamp up to a minute late.
SILENCE_OF_THE_DEAD = 120.0
POLL = 0.2


class Attendance:
    """The ranks of one launch, seen by one of them.

    Parameters
    ----------
    folder : Path
        The launch's folder.
    rank, size : int
        This rank, and the number of ranks.
    silence : float
        Seconds without a heartbeat after which a rank on another host counts as dead; on this
        host its process is looked for.
    """

    def __init__(
        self, folder: Path, rank: int, size: int, silence: float = SILENCE_OF_THE_DEAD
    ) -> None:
        self._alive = folder / "alive"
        self._ended = folder / "ended"
        for path in (self._alive, self._ended):
            path.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._size = size
        self._silence = silence
        # By rank: its last time stamp, and when this process first saw it (own clock).
        self._seen: dict[int, tuple[float, float]] = {}
        self._leaving = threading.Event()

    def enter(self) -> None:
        """Say that this rank is at work, from now on every few seconds."""
        self._file(self._rank).write_text(f"{socket.gethostname()} {os.getpid()}\n")
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._leaving.wait(HEARTBEAT):
            try:
                os.utime(self._file(self._rank))
            except OSError:
                continue

    def end(self) -> bool:
        """Say that this rank has no more work, and wait until no rank has.

        Returns true on one rank, which has the last word in the launch and then calls
        :meth:`close`; the others wait for that.
        """
        create(self._ended / f"rank-{self._rank:05d}")
        while self.working():
            time.sleep(POLL)
        try:
            # A link is whole from the start, also on a full disk.
            (self._ended / "last").symlink_to(f"rank-{self._rank:05d}")
        except FileExistsError:
            pass
        else:
            return True
        while not (self._ended / "closed").exists() and not self._is_silent(self._last()):
            time.sleep(POLL)
        self._leaving.set()
        return False

    def close(self) -> None:
        """Let the other ranks go."""
        create(self._ended / "closed")
        self._leaving.set()

    def working(self) -> list[int]:
        """Ranks that have neither ended nor died."""
        ended = {path.name for path in self._ended.iterdir()}
        return [
            rank
            for rank in range(self._size)
            if f"rank-{rank:05d}" not in ended and not self._is_silent(rank)
        ]

    def complete(self) -> bool:
        """Whether all ranks came to their end."""
        return all((self._ended / f"rank-{rank:05d}").exists() for rank in range(self._size))

    def _last(self) -> int:
        return int((self._ended / "last").readlink().name.removeprefix("rank-"))

    def _is_gone(self, rank: int) -> bool:
        """Whether the process of a rank on this host does not exist any more."""
        try:
            host, _, pid = self._file(rank).read_text().partition(" ")
            if host == socket.gethostname() and pid.strip():
                os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            # Not entered yet, or the process is another user's.
            return False
        return False

    def _is_silent(self, rank: int) -> bool:
        if self._is_gone(rank):
            return True
        # Time stamps are compared with themselves only: clocks differ, and jump.
        try:
            stamp = self._file(rank).stat().st_mtime
        except FileNotFoundError:
            stamp = 0.0
        now = time.monotonic()
        if self._seen.get(rank, (None, 0.0))[0] != stamp:
            self._seen[rank] = (stamp, now)
        return now - self._seen[rank][1] > self._silence

    def _file(self, rank: int) -> Path:
        return self._alive / f"rank-{rank:05d}"


def create(path: Path, text: str = "") -> bool:
    """Create a file that must not exist yet; false if another process was first."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    return True
