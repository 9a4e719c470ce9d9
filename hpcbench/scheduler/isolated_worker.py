"""A process that computes suspects in place of its rank: if it dies, only it does.

The rank's side is :class:`IsolatedWorker`; the other side is this module run as a program. The rank
sends rows of the list of crystals, one after the other; the isolated worker commits the result of
each as a segment of its rank and says so.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpcbench.child_processes import command, environment
from hpcbench.config import RunConfig
from hpcbench.engine.stopping import STOPPED, Stop
from hpcbench.engine.watchdog import Watchdog
from hpcbench.errors import PotentialError
from hpcbench.events import EventLog
from hpcbench.scheduler.journal import Journal, journal_path

POLL = 0.2
# Seconds from when it is asked to stop until it is killed: more than its own patience.
LONGEST_END = 10.0
# Exit code of an isolated worker that ended by an error that is no crystal's.
UNABLE = 99
BEGUN, DONE, ASKED = b"begun\n", b"done\n", b"asked to stop\n"
# Of MPI and its launchers: the isolated worker is no rank.
LAUNCHER_VARIABLES = ("PMI", "PMIX", "OMPI_", "SLURM_STEP_NUM_TASKS", "HYDI_", "MPI_", "PALS_")


class Fate(enum.Enum):
    """What became of a crystal: computed, given up for a stop, or the isolated worker died of it.

    ``UNABLE`` is one that could not begin, or ended by an error of its own: no crystal is to
    blame. ``ASKED`` is one that was asked to stop, and its rank was not.
    """

    DONE = enum.auto()
    STOPPED = enum.auto()
    DIED = enum.auto()
    UNABLE = enum.auto()
    ASKED = enum.auto()


@dataclass(frozen=True)
class Order:
    """What an isolated worker is told at its start.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    result_settings : mapping
        The settings that decide results, written into each segment.
    launch : str
        Name of the launch.
    rank : int
        In whose place it works.
    rank_process : int
        That rank's process: when it is gone, the isolated worker ends.
    device : str
        Where it computes.
    ranks_on_host : int
        Processes that share the machine's memory.
    workers : int
        Processes beside the potential.
    """

    config: RunConfig
    result_settings: Mapping[str, Any]
    launch: str
    rank: int
    rank_process: int
    device: str
    ranks_on_host: int
    workers: int


class IsolatedWorker:
    """The isolated worker of this rank; it starts with the first crystal, and after a death."""

    def __init__(self, order: Order, stop: Stop) -> None:
        self._order = order
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self.how = ""
        """How the last one ended, in words."""

    def compute(self, row: int, attempts: int, longest: float = math.inf) -> Fate:
        """Let it compute a row of the list of crystals, which was begun so often before.

        Parameters
        ----------
        row : int
            Of the list.
        attempts : int
            How often it was begun before.
        longest : float
            Seconds after which it is killed, once it has begun.
        """
        for _ in range(2):
            process = self._process or self._start()
            try:
                assert process.stdin is not None, "it was started with one"
                pickle.dump((row, attempts), process.stdin)
                process.stdin.flush()
            except BrokenPipeError:
                # It has died while it had nothing to do.
                self.close()
                continue
            fate = self._await(process, longest)
            if fate is not Fate.ASKED:
                return fate
        return Fate.UNABLE

    def close(self) -> None:
        """Let it end."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None, "it was started with one"
                self._process.stdin.close()
            self._process.wait()
            assert self._process.stdout is not None, "it was started with one"
            self._process.stdout.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._order.device.startswith("cuda"):
            import torch

            # What this rank has had for its passes.
            torch.cuda.empty_cache()
        variables = {
            key: value
            for key, value in environment().items()
            if not key.startswith(LAUNCHER_VARIABLES)
        }
        self._process = subprocess.Popen(
            command("hpcbench.scheduler.isolated_worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
        )
        assert self._process.stdin is not None, "it was started with one"
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(self._order, self._process.stdin)
            self._process.stdin.flush()
        return self._process

    def _await(self, process: subprocess.Popen[bytes], longest: float) -> Fate:
        assert process.stdout is not None, "it was started with one"
        asked_itself = begun = False
        latest, killed = math.inf, ""
        while True:
            if not select.select([process.stdout], [], [], POLL)[0]:
                if self._stop.requested and not killed:
                    # It may have had the signal as well: twice does no harm.
                    killed, latest = "asked to stop", time.monotonic() + LONGEST_END
                    process.send_signal(signal.SIGUSR2)
                if time.monotonic() > latest:
                    killed = killed or f"no end after {longest:.0f} s"
                    process.kill()
                    latest = math.inf
                continue
            answer = os.read(process.stdout.fileno(), 64)
            if BEGUN in answer:
                begun, latest = True, time.monotonic() + longest
            asked_itself |= ASKED in answer
            if DONE in answer:
                return Fate.DONE
            if not answer:
                break
        self.close()
        code = process.returncode
        how = f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"{-code}"
        self.how = killed or how
        if self._stop.requested:
            return Fate.STOPPED
        if asked_itself or code == STOPPED:
            return Fate.ASKED
        return Fate.DIED if begun and code != UNABLE else Fate.UNABLE


def main() -> None:
    """Of the isolated worker's process."""
    stop = Stop()
    stop.install()
    # What libraries print must not be taken for an answer, nor may they read what is asked.
    answers = os.dup(1)
    os.dup2(2, 1)
    asked = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    order: Order = pickle.load(asked)

    from hpcbench.engine.rank_process import RankProcess
    from hpcbench.engine.worker import Worker
    from hpcbench.engine.worker_processes import make_crew
    from hpcbench.planning.blocks import MOST_UNDER_WAY
    from hpcbench.scheduler.rank_loop import double_of, load_crystals, load_for
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(order.config.out)
    name = f"rank-{order.rank:05d}.isolated-{socket.gethostname()}-{os.getpid()}"
    journal = Journal(journal_path(folder.launch_folder(order.launch), name))
    log = EventLog(folder.events, order.rank, order.launch, "-isolated")
    watch = Watchdog()
    threading.Thread(
        target=_watch, args=(order.rank_process, journal, log, stop, watch), daemon=True
    ).start()

    def on_hang(crystals: list[str]) -> None:
        journal.hung(crystals)
        journal.stop()

    inbox: Any = queue.SimpleQueue()
    with contextlib.closing(make_crew(order.workers, inbox)) as crew, load_crystals(folder) as load:
        potential = load_for(order.config, order.device, order.ranks_on_host)
        process = RankProcess(
            order.config, order.result_settings, folder, order.rank, 1, log, stop, watch
        )
        worker = Worker(
            process,
            potential,
            crew,
            inbox,
            MOST_UNDER_WAY,
            load_double=double_of(order.config, order.device, order.ranks_on_host),
            on_hang=on_hang,
        )
        while not stop.requested:
            try:
                row, attempts = pickle.load(asked)
            except EOFError:
                break
            ((crystal, seconds),) = load([row])
            watch.predicted = {crystal.id: seconds}.__getitem__
            journal.begin([crystal.id], alone=True)
            os.write(answers, BEGUN)
            worker.attempts[crystal.id] = attempts
            if worker.work([[crystal]]):
                os.write(answers, DONE)
    if stop.requested:
        # By its rank, or by somebody else: no crystal is to blame.
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, ASKED)
    log.close()
    journal.end()


def _watch(rank: int, journal: Journal, log: EventLog, stop: Stop, watch: Watchdog) -> None:
    """Note at once that the process was asked to stop; end it when its rank is gone."""
    while os.getppid() == rank:
        if stop.wait(POLL):
            journal.stop()
            time.sleep(POLL)
        watch.look()
        log.flush_old()
    journal.stop()
    os._exit(UNABLE)


if __name__ == "__main__":
    try:
        main()
    except PotentialError:
        # It breaks on what it was given, or, before that, cannot be had.
        traceback.print_exc()
        sys.exit(PotentialError.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(UNABLE)
