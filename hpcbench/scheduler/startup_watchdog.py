"""Detection of ranks that die during the start, for which collective calls would wait forever."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from hpcbench.errors import LaunchError
from hpcbench.scheduler.heartbeat import Heartbeat, is_gone
from hpcbench.scheduler.world import LONGEST_START, World

POLL = 0.5
# Largest number of ranks that a message names.
MOST = 8


class StartupWatchdog:
    """Watches the other ranks, and ends this one when another has died.

    It works between the first and the last collective call, in which ranks wait for each other
    inside MPI. All ranks make it together.

    Parameters
    ----------
    world : World
        The ranks.
    """

    def __init__(self, world: World) -> None:
        self._rank = world.rank
        self._everyone: list[tuple[str, int]] = world.share((socket.gethostname(), os.getpid()))
        self.heartbeat: Heartbeat | None = None
        """Detects deaths on other hosts. Before it is set, only a time limit does."""
        self._since = time.monotonic()
        self._over = threading.Event()
        if len(self._everyone) > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Stop watching: the last collective call is done."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(POLL):
            why = self._why_to_end()
            if why and not self._over.is_set():
                print(
                    f"hpcbench: rank {self._rank} ends before the work has begun, because {why}; "
                    f"give the same command again",
                    file=sys.stderr,
                    flush=True,
                )
                # The main thread is inside MPI.
                os._exit(LaunchError.exit_code)

    def _why_to_end(self) -> str:
        if dead := self._dead():
            who = ", ".join(f"rank {rank} on {self._everyone[rank][0]}" for rank in dead[:MOST])
            return f"others have died ({who}{', ...' if len(dead) > MOST else ''})"
        if self.heartbeat is None and time.monotonic() - self._since > LONGEST_START:
            return f"not all were there after {LONGEST_START / 60:.0f} minutes"
        return ""

    def _dead(self) -> list[int]:
        here = socket.gethostname()
        dead = {
            rank for rank, (host, pid) in enumerate(self._everyone) if host == here and is_gone(pid)
        }
        if self.heartbeat is not None:
            dead.update(self.heartbeat.dead())
        return sorted(dead - {self._rank})
