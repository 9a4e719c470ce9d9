"""The state of the ranks of a launch: working, waiting, given up or dead. Uses files, not MPI.

A rank has a file that it touches every few seconds; if that has not been touched for a while, the
rank is dead. Ranks leave together: MPICH's mpiexec kills the others when one process exits before
them, and MPI_Finalize never returns once one has died.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# Shared file systems show a new time stamp up to a minute late.
SILENCE_OF_THE_DEAD = 120.0
HEARTBEAT = 20.0
# Seconds after which the thread notices at the latest that the rank has left.
LONGEST_WAIT = 1.0
POLL = 0.2
# Number of ranks up to which each polls every POLL seconds; more ranks poll less often.
RANKS_A_POLL = 20


class Heartbeat:
    """The ranks of one launch, as one of them sees them.

    Parameters
    ----------
    folder : Path
        The launch's folder.
    rank, size : int
        This rank, and the number of ranks.
    silence : float
        Seconds without a heartbeat after which a rank on another host counts as dead; for ranks on
        this host the process is checked as well.
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
        self.poll = POLL * max(1.0, size / RANKS_A_POLL)
        """Seconds to wait before looking again."""
        # By rank: its last time stamp, and the time when this process first saw it (own clock).
        self._seen: dict[int, tuple[float, float]] = {}
        self._leaving = threading.Event()

    def enter(self, wait: Callable[[float], object] | None = None) -> None:
        """Announce this rank, and touch its file every few seconds from now on.

        Parameters
        ----------
        wait : callable, optional
            Waits for a number of seconds, or less; called repeatedly in a separate thread.
        """
        self._file(self._rank).write_text(f"{socket.gethostname()} {os.getpid()}\n")
        threading.Thread(target=self._beat, args=(wait or self._leaving.wait,), daemon=True).start()

    def _beat(self, wait: Callable[[float], object]) -> None:
        interval = min(HEARTBEAT, self._silence / 6)
        due = time.monotonic() + interval
        while not self._leaving.is_set():
            wait(min(LONGEST_WAIT, interval))
            if time.monotonic() >= due:
                with contextlib.suppress(OSError):
                    os.utime(self._file(self._rank))
                due = time.monotonic() + interval

    def rest(self) -> None:
        """Announce that this rank has nothing to do."""
        create(self._ended / f"rank-{self._rank:05d}")

    def resume(self) -> None:
        """Announce that this rank has work again; to be called before it takes the work."""
        (self._ended / f"rank-{self._rank:05d}").unlink(missing_ok=True)

    def give_up(self) -> None:
        """Announce that this rank will do no more, whatever it has leased."""
        create(self._ended / f"gave-up-{self._rank:05d}")

    def end(self) -> bool:
        """Wait until no rank works, and until one of them has finished the launch.

        Returns
        -------
        bool
            True on the rank that is to finish the launch, which then calls :meth:`close`. If it
            dies before that, another rank gets true.
        """
        while self.working():
            time.sleep(self.poll)
        holder = 0
        while not self.is_closed():
            try:
                # A link is whole from the start, also on a full disk.
                (self._ended / f"last.{holder}").symlink_to(str(self._rank))
            except FileExistsError:
                last = int(os.readlink(self._ended / f"last.{holder}"))
                if last == self._rank:
                    # NFS reports this when the reply to its creation was lost.
                    return True
                if self._is_silent(last):
                    holder += 1
                else:
                    time.sleep(self.poll)
            else:
                return True
        self._leaving.set()
        return False

    def leave(self) -> None:
        """Stop the heartbeat."""
        self._leaving.set()

    def close(self) -> None:
        """Announce that the launch is finished, which lets the other ranks go."""
        self.leave()
        create(self._ended / "closed")

    def is_closed(self) -> bool:
        """Tell whether the launch is finished."""
        return (self._ended / "closed").exists()

    def working(self) -> list[int]:
        """Return the ranks that neither wait nor are dead."""
        ended = self._names()
        return [
            rank
            for rank in range(self._size)
            if f"rank-{rank:05d}" not in ended and not self._is_silent(rank)
        ]

    def dead(self) -> list[int]:
        """Return the ranks that are dead."""
        ended = self._names()
        return [
            rank
            for rank in range(self._size)
            if f"rank-{rank:05d}" not in ended and self._is_silent(rank)
        ]

    def lost(self) -> list[int]:
        """Return the ranks that will do no more: they are dead, or have given up."""
        ended = self._names()
        gave_up = [rank for rank in range(self._size) if f"gave-up-{rank:05d}" in ended]
        return sorted({*gave_up, *self.dead()})

    def complete(self) -> bool:
        """Tell whether all ranks have come to their end and are alive to leave together."""
        names = self._names()
        return all(f"rank-{rank:05d}" in names for rank in range(self._size)) and not any(
            self._is_gone(rank) for rank in range(self._size)
        )

    def _names(self) -> set[str]:
        return {entry.name for entry in os.scandir(self._ended)}

    def _is_gone(self, rank: int) -> bool:
        """Tell whether the process of a rank on this host has ended."""
        try:
            host, _, pid = self._file(rank).read_text().partition(" ")
            if host == socket.gethostname() and pid.strip():
                return is_gone(int(pid))
        except OSError:
            # The rank has not announced itself yet.
            return False
        return False

    def _is_silent(self, rank: int) -> bool:
        if rank == self._rank:
            return False
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


def is_gone(pid: int) -> bool:
    """Tell whether a process of this host has ended."""
    try:
        # A zombie has ended; its parent may not notice for a long time.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        # A process of another user.
        return False


def create(path: Path, text: str = "") -> bool:
    """Create a file that must not exist yet.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        Its content.

    Returns
    -------
    bool
        False if another process was first.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    return True
