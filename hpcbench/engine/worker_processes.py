"""Tasks on processor cores, in worker processes or in the rank itself."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import multiprocessing.resource_tracker
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from typing import Any, Protocol

from loky.backend import resource_tracker
from loky.process_executor import ProcessPoolExecutor

from hpcbench.engine.io_threads import Inbox
from hpcbench.engine.tasks import TaskReport, run_task, unexpected
from hpcbench.errors import CrystalError, SetupError
from hpcbench.threads import THREAD_VARIABLES
from hpcbench.work_requests import OnCpu

MOST_FOR_A_GPU, MOST_FOR_A_CPU = 8, 2
# Fewer crystals are not worth a process, which takes half a second or more to start.
CRYSTALS_A_PROCESS = 4
NICE = 5
# Seconds after which a worker notices that its rank is gone.
WATCH = 0.5
# Signals that a cluster sends to all processes of a step. The rank ends its workers itself.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


@dataclass(frozen=True, eq=False)
class Task:
    """Work for a crystal.

    Attributes
    ----------
    owner : int
        Number of the crystal; lower numbers are older.
    request : OnCpu
        The function to call.
    feeds : bool
        Whether the crystal needs the potential after this task.
    """

    owner: int
    request: OnCpu
    feeds: bool = True


@dataclass(frozen=True, eq=False)
class TaskEnded:
    """Message that a task ended, or was lost with its process."""

    task: Task
    future: Future[TaskReport]


class Crew(Protocol):
    """Interface of the parts that run tasks.

    Tasks of older crystals come first; while ``hungry`` is true, tasks that feed the potential do.
    """

    hungry: bool

    @property
    def size(self) -> int:
        """Return the number of worker processes."""
        ...

    def submit(self, task: Task) -> None:
        """Run a task; ``TaskEnded`` is posted at its end."""
        ...

    def collect(self, ended: TaskEnded) -> TaskReport | None:
        """Return the outcome of a task; ``None`` if it was lost and is run again."""
        ...

    def unfinished(self, *, feeding: bool) -> int:
        """Return the number of unfinished tasks that feed the potential, or of the others."""
        ...

    def forget_feeding(self) -> None:
        """Drop waiting tasks that would feed the potential."""
        ...

    def close(self) -> None:
        """End, and drop all unfinished tasks."""
        ...


class Inline:
    """Run tasks at once, in the calling thread."""

    size = 0
    hungry = False

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def submit(self, task: Task) -> None:
        """Run a task."""
        future: Future[TaskReport] = Future()
        future.set_result(run_task(task.request.function, task.request.arguments))
        self._inbox.put(TaskEnded(task, future))

    def collect(self, ended: TaskEnded) -> TaskReport | None:
        """Return the outcome of a task."""
        return ended.future.result()

    def unfinished(self, *, feeding: bool) -> int:
        """Return 0: no task ever waits."""
        return 0

    def forget_feeding(self) -> None:
        """Do nothing: no task ever waits."""

    def close(self) -> None:
        """Do nothing: there are no processes."""


class Processes:
    """Run tasks in worker processes, which start with the first task or before.

    If one process dies, the whole pool ends. Its tasks are then run again one at a time, so that
    a task which kills its process again is found.

    Parameters
    ----------
    size : int
        Number of processes.
    inbox : Inbox
        The queue to post to.
    """

    def __init__(self, size: int, inbox: Inbox) -> None:
        self.size = size
        self._inbox = inbox
        self._executor: ProcessPoolExecutor | None = None
        self.hungry = True
        self._count = itertools.count()
        # Tasks that feed the potential, and others: heaps of (owner, order of arrival, task).
        self._waiting: dict[bool, list[tuple[int, int, Task]]] = {True: [], False: []}
        self._with_pool: dict[Future[TaskReport], Task] = {}
        self._lost: deque[Task] = deque()
        self._alone = False

    def start(self) -> None:
        """Start the processes, which load their modules."""
        self._submit(run_task, os.getpid, ())

    def submit(self, task: Task) -> None:
        """Add a task to those that wait."""
        heapq.heappush(self._waiting[task.feeds], (task.owner, next(self._count), task))
        self._feed()

    def collect(self, ended: TaskEnded) -> TaskReport | None:
        """Return the outcome of a task; ``None`` if its process died and it is run again."""
        del self._with_pool[ended.future]
        error = ended.future.exception()
        alone, self._alone = self._alone, False
        report: TaskReport | None
        if error is None:
            report = ended.future.result()
        elif not isinstance(error, BrokenExecutor):  # such as a result that does not pickle
            report = _failed(unexpected(error) if isinstance(error, Exception) else error)
        elif alone:
            self._restart()
            message = f"its {ended.task.request.stage} ended the process that did it, twice"
            report = _failed(CrystalError("error", message))
        else:
            self._lost.append(ended.task)
            if not self._with_pool:
                self._restart()
            report = None
        self._feed()
        return report

    def unfinished(self, *, feeding: bool) -> int:
        """Return the number of unfinished tasks that feed the potential, or of the others."""
        tasks = itertools.chain(self._with_pool.values(), self._lost)
        return len(self._waiting[feeding]) + sum(task.feeds == feeding for task in tasks)

    def forget_feeding(self) -> None:
        """Drop waiting tasks that would feed the potential."""
        self._waiting[True] = []
        self._lost = deque(task for task in self._lost if not task.feeds)

    def close(self) -> None:
        """End the processes at once."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def _feed(self) -> None:
        """Give the pool enough tasks to keep it busy; the order of the others may still change."""
        if self._lost:
            if not self._with_pool:
                self._alone = True
                self._hand_over(self._lost.popleft())
            return
        while not self._lost and len(self._with_pool) < self.size + 2 and not self._alone:
            feeding, others = self._waiting[True], self._waiting[False]
            if feeding and (self.hungry or not others or feeding[0] < others[0]):
                next_ones = feeding
            elif others:
                next_ones = others
            else:
                return
            if not self._hand_over(heapq.heappop(next_ones)[-1]):
                return

    def _hand_over(self, task: Task) -> bool:
        """Give a task to the pool; return false if the pool is broken and has not reported it."""
        arguments = (run_task, task.request.function, task.request.arguments)
        try:
            future = self._submit(*arguments)
        except BrokenExecutor:
            if self._with_pool:
                # A process died with one of those. This task is not among them, and waits until
                # they are reported.
                heapq.heappush(self._waiting[task.feeds], (task.owner, next(self._count), task))
                return False
            # A process died while it had nothing to do.
            self._restart()
            future = self._submit(*arguments)
        self._with_pool[future] = task
        future.add_done_callback(lambda future: self._inbox.put(TaskEnded(task, future)))
        return True

    def _restart(self) -> None:
        """Replace a pool that lost a process.

        Raises
        ------
        SetupError
            If processes die without being given anything to do.
        """
        self.close()
        try:
            self._submit(os.getpid).result()
        except BrokenExecutor as error:
            raise SetupError(
                f"worker processes on {socket.gethostname()} die as soon as they are started "
                f"({str(error).splitlines()[0]}); give --workers 0 to do without"
            ) from error

    def _submit(self, *arguments: Any) -> Future[Any]:
        try:
            if self._executor is None:
                self._executor = _start(self.size)
            with _signals_held_back():
                return self._executor.submit(*arguments)
        except (ImportError, NotImplementedError, OSError) as error:  # no semaphores, no process
            raise SetupError(
                f"worker processes cannot be started on {socket.gethostname()}: {error}; give "
                f"--workers 0 to do without"
            ) from error


def make_crew(number: int, inbox: Inbox) -> Crew:
    """Return the crew of a rank.

    Parameters
    ----------
    number : int
        Number of worker processes; with 0, the rank runs tasks itself.
    inbox : Inbox
        The queue that the crew posts to.

    Raises
    ------
    SetupError
        If no process can be started.
    """
    if number == 0:
        return Inline(inbox)
    crew = Processes(number, inbox)
    crew.start()
    return crew


def number_of_processes(wanted: int | str, device: str, cores: float, crystals: float) -> int:
    """Return the number of worker processes that a rank starts.

    Parameters
    ----------
    wanted : int or "auto"
        The setting.
    device : str
        The potential's device, on which the number of useful processes depends; empty if there
        is no potential.
    cores : float
        Cores that this rank may use, see :func:`hpcbench.scheduler.devices.own_cores`.
    crystals : float
        Expected number of crystals of this rank.
    """
    if not isinstance(wanted, str):
        return wanted
    if not device:
        return max(0, math.floor(cores))
    most = MOST_FOR_A_CPU if device == "cpu" else MOST_FOR_A_GPU
    worth_it = math.floor(crystals / CRYSTALS_A_PROCESS)
    return max(0, min(math.floor(cores) - 1, most, worth_it))


def _failed(error: Any) -> TaskReport:
    return TaskReport(None, error, "", 0.0, frozenset())


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block signals in a ``with`` block, so that none ends a process that starts in it.

    Threads and processes inherit the mask. The rank gets its signals a moment later.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(number: int) -> ProcessPoolExecutor:
    """Return a pool whose processes start with its first task."""
    # Trackers of semaphores, which unblock some signals in the rank when they have started.
    for tracker in (multiprocessing.resource_tracker, resource_tracker):
        with _signals_held_back():
            tracker.ensure_running()
    return ProcessPoolExecutor(
        number,
        initializer=_begin,
        initargs=(os.getpid(),),
        # Not from the working folder: a user's queue.py there would be taken for Python's own.
        env={**dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONSAFEPATH": "1"},
    )


def _begin(rank: int) -> None:
    """Let a worker process ignore signals, and end when its rank has ended."""
    # Where cores are short, the thread that feeds the potential comes first.
    os.nice(NICE)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_watch, args=(rank,), daemon=True).start()


def _watch(rank: int) -> None:
    while os.getppid() == rank:
        time.sleep(WATCH)
    os._exit(1)
