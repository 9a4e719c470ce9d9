"""Doing harm to real runs: processes of a launch are found, struck at a moment, and woken again.

A launch is marked by a variable in its environment, which all that it starts inherits: ranks,
shims, worker processes and isolated workers are found by it, also those without their parent.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launching import QUICK, in_file

from hpcbench.events import read_events

MARK = "CHAOS_MARK"
# Set by MPICH's and Open MPI's launchers.
RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
POLL = 0.002
# Seconds in which an isolated worker loads and computes; it is struck within them.
ISOLATED = 4.0


@dataclass(frozen=True)
class LaunchSetup:
    """Hold the words that start a run.

    Attributes
    ----------
    sources : Path
        The crystals.
    launcher : tuple of str
        Starts ``ranks`` processes.
    ranks : int
        How many.
    silence : float
        Seconds after which a silent rank counts as dead.
    arguments : tuple of str
        More of them for ``hpcbench run``.
    environment : mapping
        Variables beside those of this process.
    """

    sources: Path
    launcher: tuple[str, ...]
    ranks: int
    silence: float = 2.0
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, out: Path) -> list[str]:
        """Return the command that starts a run, and continues it."""
        return [
            *self.launcher, sys.executable, "-m", "hpcbench", "run", str(self.sources),
            "--out", str(out), *QUICK, *in_file(commit_interval=0.3, silence=self.silence),
            "--no-report", *self.arguments,
        ]  # fmt: skip


@dataclass(frozen=True)
class Process:
    """One process of a launch."""

    pid: int
    parent: int
    words: tuple[str, ...]
    variables: Mapping[str, str]

    @property
    def rank(self) -> int | None:
        """The rank that it is, or whose guard."""
        if self.words[1:4] != ("-m", "hpcbench", "run"):
            return None
        found = [self.variables[name] for name in RANK_VARIABLES if name in self.variables]
        return int(found[0]) if found else 0


class Launch:
    """The command, given once."""

    def __init__(self, setup: LaunchSetup, out: Path, log: Path) -> None:
        self.setup = setup
        self.out = out
        self.folder = out.with_name(out.name + ".run")
        self.began = time.monotonic()
        self._mark = uuid.uuid4().hex
        self._log = log.open("ab")
        self._before = set(self._launches())
        environment = os.environ | dict(setup.environment) | {MARK: self._mark}
        self.process = subprocess.Popen(
            setup.command(out), stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip

    @property
    def is_over(self) -> bool:
        """Tell whether the launcher has ended."""
        return self.process.poll() is not None

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.began

    def processes(self) -> list[Process]:
        """All that live, the launcher included."""
        found = (_process(int(name), self._mark) for name in os.listdir("/proc") if name.isdigit())
        return [process for process in found if process is not None]

    def ranks(self) -> dict[int, int]:
        """Process ids by rank; of a guard and the rank behind it the latter."""
        processes = [p for p in self.processes() if p.rank is not None]
        parents = {p.parent for p in processes}
        return {p.rank: p.pid for p in processes if p.rank is not None and p.pid not in parents}

    def workers(self) -> list[int]:
        """Process ids of the processes beside the ranks' potentials."""
        return [p.pid for p in self.processes() if any("LokyProcess" in w for w in p.words)]

    def isolated_workers(self) -> list[int]:
        """Process ids of isolated workers."""
        return [p.pid for p in self.processes() if "hpcbench.scheduler.isolated_worker" in p.words]

    def journals(self) -> Path | None:
        """This launch's folder in the run folder, once it has one."""
        new = set(self._launches()) - self._before
        return max(new) if new else None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Its events so far, of all ranks."""
        folder = self.journals()
        if folder is None:
            return []
        return [
            event
            for path in sorted((self.folder / "events").glob("rank-*.jsonl"))
            for event in read_events(path)[0]
            if event["launch"] == folder.name and event["event"] in names
        ]

    def wait(self, seconds: float) -> bool:
        """Wait for its end; false if it does not come."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.is_over

    def leftovers(self, patience: float = 5.0) -> list[Process]:
        """Return the processes that outlive the launcher and do not end by themselves."""
        end = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def destroy(self) -> None:
        """Kill all that is left of it."""
        while left := self.processes():
            for process in left:
                send(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()
        self._log.close()

    def _launches(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return list((self.folder / "launches").iterdir())
        return []


def _process(pid: int, mark: str) -> Process | None:
    try:
        variables = dict(
            word.split("=", 1)
            for word in Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            if "=" in word
        )
        if variables.get(MARK) != mark:
            return None
        words = tuple(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1])
        # After the name in brackets, which may hold anything.
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if status[0] == "Z" else Process(pid, int(status[1]), words, variables)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class Span:
    """Hold the seconds in which an undisturbed launch starts, and works."""

    start: float
    work: float


Aim = Callable[[Launch, random.Random, Span], list[int]]
"""Waits for the moment and says whom to strike; nobody if the moment does not come."""


def until(launch: Launch, found: Callable[[], Any]) -> Any:
    """Poll until something is found, or the launch is over; then it is empty."""
    while not launch.is_over:
        if result := found():
            return result
        time.sleep(POLL)
    return found()


def pause(launch: Launch, seconds: float) -> None:
    """Wait, but not for longer than the launch lasts."""
    launch.wait(seconds)


def _random_moment(launch: Launch, rng: random.Random, span: Span) -> None:
    """Any moment from the plan to about the end."""
    until(launch, lambda: launch.events("start"))
    pause(launch, rng.uniform(0.0, span.work))


def one_rank(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    ranks = sorted(launch.ranks().values())
    return rng.sample(ranks, min(1, len(ranks)))


def rank_0(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    return [pid for rank, pid in launch.ranks().items() if rank == 0]


def two_ranks(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    ranks = sorted(launch.ranks().values())
    return rng.sample(ranks, min(2, len(ranks)))


def all_ranks(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    return list(launch.ranks().values())


def everything(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """As when the machine goes down: the launcher as well, and all that was started."""
    _random_moment(launch, rng, span)
    return [process.pid for process in launch.processes()]


def the_launcher(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    return [] if launch.is_over else [launch.process.pid]


def starting_rank(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """After the ranks have found each other, and before there is a plan.

    One that dies before is missed by the others inside of MPI_Init.
    """
    until(launch, lambda: any(_has_loaded(pid, "numpy") for pid in launch.ranks().values()))
    pause(launch, rng.uniform(0.0, 0.7 * span.start))
    ranks = sorted(launch.ranks().values())
    return [] if launch.events("start") or not ranks else [rng.choice(ranks)]


def _has_loaded(pid: int, library: str) -> bool:
    with contextlib.suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text()
    return False


def writer_of_segment(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """While it writes."""
    _random_moment(launch, rng, span)
    return until(launch, lambda: writers(launch.folder / "segments", ".segment-*.part"))


def writer_of_store(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """The rank that has the last word, while it consolidates."""
    pids = until(launch, lambda: writers(launch.folder, f".{launch.out.name}.*.part"))
    time.sleep(rng.uniform(0.0, 0.2))
    return pids


def waiting_rank(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """One that has nothing to do any more."""

    def resting() -> list[int]:
        folder = launch.journals()
        names = [] if folder is None else [p.name for p in folder.glob("ended/rank-*")]
        ranks = launch.ranks() if names else {}
        there = [int(name.removeprefix("rank-")) for name in names]
        return [ranks[rank] for rank in sorted(there) if rank in ranks]

    pids = until(launch, resting)
    return rng.sample(pids, min(1, len(pids)))


def folding_rank(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """Rank 0 of a second launch, while it takes stock of the first one."""
    old = set(launch._before)
    until(
        launch,
        lambda: (
            writers(launch.folder, ".attempts.json.*.part")
            or any(not path.exists() for path in old)
        ),
    )
    time.sleep(rng.uniform(0.0, 0.02))
    return [pid for rank, pid in launch.ranks().items() if rank == 0]


def worker_process(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    _random_moment(launch, rng, span)
    workers = until(launch, lambda: sorted(launch.workers()))
    return rng.sample(workers, min(1, len(workers)))


def isolated_worker(launch: Launch, rng: random.Random, span: Span) -> list[int]:
    """The process that takes over what was under way with a rank, which is killed first."""
    for pid in one_rank(launch, rng, span):
        send(pid, signal.SIGKILL)
    until(launch, launch.isolated_workers)
    pause(launch, rng.uniform(0.0, ISOLATED))
    return launch.isolated_workers()


def writers(folder: Path, pattern: str) -> list[int]:
    """Return the processes that write files: their ids are in the names of temporary files."""
    return [int(path.name.split(".")[-2].split("-")[0]) for path in folder.glob(pattern)]


@dataclass(frozen=True)
class Kind:
    """One way to do harm.

    Attributes
    ----------
    name : str
        For people.
    aim : callable
        Whom and when.
    number : Signals
        What is sent.
    again : bool
        Strike the second launch; the first one is killed as a whole, while it works.
    workers : int
        Processes beside each rank's potential.
    """

    name: str
    aim: Aim
    number: signal.Signals = signal.SIGKILL
    again: bool = False
    workers: int = 0


KINDS = (
    Kind("one rank killed", one_rank),
    Kind("rank 0 killed", rank_0),
    Kind("two ranks killed", two_ranks, workers=1),
    Kind("all ranks killed", all_ranks),
    Kind("everything killed, the launcher too", everything, workers=1),
    Kind("the launcher killed", the_launcher),
    Kind("killed while writing a segment", writer_of_segment),
    Kind("killed while consolidating", writer_of_store),
    Kind("killed while starting", starting_rank),
    Kind("killed while waiting for the others", waiting_rank),
    Kind("rank 0 killed while taking stock", folding_rank, again=True),
    Kind("a worker process killed", worker_process, workers=1),
    Kind("an isolated worker killed", isolated_worker),
    Kind("one rank asked to stop", one_rank, signal.SIGTERM),
    Kind("all ranks asked to stop", all_ranks, signal.SIGTERM, workers=1),
    Kind("one rank stopped and woken", one_rank, signal.SIGSTOP),
    Kind("all ranks stopped and woken", all_ranks, signal.SIGSTOP),
    Kind("stopped and woken while writing a segment", writer_of_segment, signal.SIGSTOP),
    Kind("stopped and woken while consolidating", writer_of_store, signal.SIGSTOP),
)


def strike(pids: list[int], number: signal.Signals, silence: float) -> None:
    """Do it. Who is stopped is woken when the others have long taken it for dead."""
    for pid in pids:
        send(pid, number)
    if number == signal.SIGSTOP:
        time.sleep(3.0 * silence)
        for pid in pids:
            send(pid, signal.SIGCONT)
