"""Concurrent computation of many crystals, so that the potential never waits.

The main thread owns the potential. Worker processes do the work on processor cores, threads
read and write. All of them post to one inbox.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import time
import traceback
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from hpcbench.crystal import Crystal
from hpcbench.engine.io_threads import BlockRead, Inbox, ListEnded, Reader, WritingFailed
from hpcbench.engine.stopping import Stop, StopRequested
from hpcbench.engine.tasks import messages_of, unexpected
from hpcbench.engine.timing import FORCES, PREPARING, RELAXATION, WAITING, Timing
from hpcbench.engine.watchdog import Watchdog
from hpcbench.engine.worker_processes import Crew, Task, TaskEnded
from hpcbench.errors import EvaluationError, HpcbenchError, PotentialError
from hpcbench.phonons.column_packing import ColumnPool
from hpcbench.phonons.packing import ForcePool
from hpcbench.potentials.protocol import Potential, Responsive
from hpcbench.relaxation.in_flight import InFlight
from hpcbench.relaxation.start import Start
from hpcbench.work_requests import ANALYSIS, ForcesOn, Minimise, OnCpu, Request, ResponseTo

Workflow = Generator[Request, Any, list[dict[str, Any]]]

# Most tasks for each worker process that feed the potential, and most analyses: enough to keep the
# process busy, few enough for the memory.
MOST_FEEDING, MOST_ANALYSES = 3, 16
# Fewest crystals to keep ready to relax, for the places of those that are done.
READY = 2
# Seconds after which a waiting thread checks whether the run was asked to stop.
POLL = 0.2
# Seconds for the analyses that are left when a run is asked to stop: clusters kill after 30.
END_OF_WORK = 20.0


@dataclass(eq=False)
class ActiveCrystal:
    """A crystal that is being computed.

    Attributes
    ----------
    number : int
        Place in the order in which this rank took its crystals.
    crystal : Crystal
        The crystal as given.
    workflow : generator
        Yields its requests and receives their answers.
    cost : float
        Approximate share of a forward pass that its cell takes.
    started : float
        Time of its start, by the monotonic clock.
    waits_for : str
        Stage of the request that it waits for.
    seconds : defaultdict
        By stage: its share of the passes' wall time by cost, and processor time of its tasks.
    warnings : set of str
        Warnings of libraries during its computation.
    traceback : str
        Traceback of an unexpected error; else empty.
    """

    number: int
    crystal: Crystal
    workflow: Workflow
    cost: float
    started: float = field(default_factory=time.monotonic)
    waits_for: str = ""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    warnings: set[str] = field(default_factory=set)
    traceback: str = ""


class _Pools:
    """Pools of displaced supercells and of columns of linear response that wait for a potential."""

    def __init__(self, potential: Potential) -> None:
        self.forces = ForcePool(potential)
        # Used only if the potential can compute these.
        self.linear = ForcePool(potential, linear=True)
        self.columns = ColumnPool(cast(Responsive, potential))


class Pipeline:
    """Drive the workflows of a rank's crystals.

    Parameters
    ----------
    potential : Potential
        Raises ``StopRequested`` if the run is to stop.
    workflow : callable
        Starts the workflow of a crystal.
    reader : Reader
        Gives the crystals.
    crew : Crew
        Runs the tasks.
    inbox : Inbox
        The queue that reader, crew and writer post to.
    account : Timing
        Counts the time by stage.
    most_under_way : int
        Most crystals that are computed at once.
    stop : Stop
        Tells whether the run was asked to stop.
    on_end : callable
        Called with each crystal at its end, and its rows or the error that ended it. It may
        raise to end the rank's work.
    load_double : callable, optional
        Loads the potential in double precision, when it is first needed.
    watch : Watchdog, optional
        Is told for which crystals the potential is called.
    """

    def __init__(
        self,
        potential: Potential,
        workflow: Callable[[Crystal], Workflow],
        reader: Reader,
        crew: Crew,
        inbox: Inbox,
        account: Timing,
        most_under_way: int,
        stop: Stop,
        on_end: Callable[[ActiveCrystal, list[dict[str, Any]] | HpcbenchError], None],
        load_double: Callable[[], Potential] | None = None,
        watch: Watchdog | None = None,
    ) -> None:
        self._watch = watch or Watchdog()
        self._potential = potential
        self._workflow = workflow
        self._reader = reader
        self._crew = crew
        self._inbox = inbox
        self._account = account
        self._most_under_way = most_under_way
        self._stop = stop
        self._on_end = on_end
        self._load_double = load_double
        self._count = 0
        self._read: deque[Crystal] = deque()
        self._list_ended = False
        self._asked_for_block = False
        self._under_way: dict[int, ActiveCrystal] = {}
        self._to_minimise: list[tuple[int, Start]] = []
        self._flying: dict[int, float] = {}
        self._in_flight = InFlight(potential)
        self._single = _Pools(potential)
        self._double: _Pools | None = None
        self._no_double: PotentialError | None = None
        self.last_good: Crystal | None = None
        """The last crystal for which the potential has computed a minimum or forces."""

    def run(self) -> None:
        """Compute all crystals.

        Raises
        ------
        StopRequested
            If the run was asked to stop.
        PotentialError
            If the potential fails for a reason that is no crystal's.
        Exception
            If reading or writing fails: its error.
        """
        while True:
            self._receive()
            self._admit()
            full = next((pool for pool in self._pools if pool.fills_a_pass()), None)
            self._crew.hungry = full is None and len(self._to_minimise) < READY
            if full is not None:
                self._force_pass(full)
            elif self._to_minimise or len(self._in_flight):
                self._relaxation_step()
            elif waiting := next((pool for pool in self._pools if len(pool)), None):
                self._force_pass(waiting)
            elif self._under_way or self._read or not self._list_ended:
                self._wait()
            else:
                return

    def say_end_of_work(self) -> None:
        """Finish the crystals whose forces are complete, and drop the others."""
        end = time.monotonic() + END_OF_WORK
        self._crew.forget_feeding()
        for active in list(self._under_way.values()):
            if active.waits_for != ANALYSIS:
                del self._under_way[active.number]
        while time.monotonic() < end:
            left = self._crew.unfinished(feeding=False)
            try:
                message = self._inbox.get(timeout=POLL if left else 0.0)
            except queue.Empty:
                if not left:
                    return
                continue
            if isinstance(message, TaskEnded):
                self._collect(message)

    def _receive(self) -> None:
        while not self._inbox.empty():
            self._open(self._inbox.get())

    def _wait(self) -> None:
        self._stop.check()
        try:
            with self._account.stage(WAITING):
                message = self._inbox.get(timeout=POLL)
        except queue.Empty:
            return
        self._open(message)

    def _open(self, message: Any) -> None:
        match message:
            case TaskEnded():
                self._collect(message)
            case BlockRead():
                self._read.extend(message.crystals)
                self._asked_for_block = False
            case ListEnded() | WritingFailed():
                if message.error is not None:
                    raise message.error
                self._list_ended = True

    def _collect(self, ended: TaskEnded) -> None:
        report = self._crew.collect(ended)
        active = self._under_way.get(ended.task.owner)
        if report is None or active is None:
            return
        stage = ended.task.request.stage
        self._account.add(stage, report.seconds)
        active.seconds[stage] += report.seconds
        active.warnings |= report.warnings
        active.traceback = report.traceback
        self._resume(active, report.value if report.error is None else report.error)

    def _admit(self) -> None:
        while True:
            if not (self._read or self._asked_for_block or self._list_ended):
                self._asked_for_block = True
                self._reader.next_block()
            if not self._read or not self._has_room():
                return
            crystal = self._read.popleft()
            volume = abs(float(np.linalg.det(crystal.cell)))
            cost = self._potential.cost(crystal.natoms, volume)
            active = ActiveCrystal(self._count, crystal, self._workflow(crystal), cost)
            self._under_way[active.number] = active
            self._count += 1
            self._resume(active, None)
            self._receive()

    def _has_room(self) -> bool:
        ready = sum(self._under_way[number].cost for number, _ in self._to_minimise)
        return (
            len(self._under_way) < self._most_under_way
            and (
                len(self._to_minimise) < READY
                or self._in_flight.load + ready < self._potential.capacity
            )
            and self._crew.unfinished(feeding=True) <= MOST_FEEDING * self._crew.size
            and self._crew.unfinished(feeding=False) <= MOST_ANALYSES * self._crew.size
        )

    def _resume(self, active: ActiveCrystal, answer: Any) -> None:
        """Send a crystal its answer, or throw the error into it; then take its next request."""
        request: Request | None = None
        outcome: list[dict[str, Any]] | HpcbenchError
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if isinstance(answer, HpcbenchError):
                    request = active.workflow.throw(answer)
                else:
                    request = active.workflow.send(answer)
            except StopIteration as end:
                outcome = end.value
            except HpcbenchError as error:
                outcome = error
            except Exception as error:  # an error of one crystal must not end the run
                active.traceback = traceback.format_exc()
                outcome = unexpected(error)
        active.warnings |= messages_of(caught)
        if request is None:
            del self._under_way[active.number]
            self._on_end(active, outcome)
        else:
            self._take(active, request)

    def _take(self, active: ActiveCrystal, request: Request) -> None:
        """Pass a request to the part that answers it."""
        match request:
            case OnCpu():
                active.waits_for = request.stage
                feeds = request.stage != ANALYSIS
                self._crew.submit(Task(active.number, request, feeds))
            case Minimise():
                active.waits_for = RELAXATION
                heapq.heappush(self._to_minimise, (active.number, request.start))
            case ForcesOn():
                active.waits_for = FORCES
                try:
                    with self._pass(PREPARING) as costs:
                        costs[active.number] = 1.0
                        pools = self._in_double() if request.in_double else self._single
                        pool = pools.linear if request.linear else pools.forces
                        pool.add(active.number, request.copies)
                except HpcbenchError as error:
                    self._resume(active, error)
            case ResponseTo():
                active.waits_for = FORCES
                try:
                    pools = self._in_double() if request.in_double else self._single
                    pools.columns.add(active.number, request.atoms, request.columns)
                except HpcbenchError as error:
                    self._resume(active, error)

    def _relaxation_step(self) -> None:
        while self._to_minimise:
            number, start = self._to_minimise[0]
            cost = self._under_way[number].cost
            if len(self._in_flight) and self._in_flight.load + cost > self._potential.capacity:
                break
            heapq.heappop(self._to_minimise)
            self._in_flight.add(number, start)
            self._flying[number] = cost
        with self._pass(RELAXATION) as costs:
            costs.update(self._flying)
            try:
                ended = self._in_flight.step()
            except EvaluationError as error:
                # An error of one crystal is its outcome: this one is the potential's.
                raise PotentialError(
                    f"{self._potential.info.name} fails in the relaxation, with no crystal to "
                    f"blame: {error}; what was computed is safe: give the same command again"
                ) from error
        for number, _ in ended:
            del self._flying[number]
        self._answer(ended)

    @property
    def _pools(self) -> list[ForcePool | ColumnPool]:
        found = [self._single] if self._double is None else [self._single, self._double]
        # Columns first: linearised crystals occupy memory until they are done.
        return [pool for pools in found for pool in (pools.columns, pools.forces, pools.linear)]

    def _in_double(self) -> _Pools:
        if self._no_double is not None:
            raise self._no_double
        if self._double is None:
            assert self._load_double is not None, "nobody asks for what there is not"
            try:
                self._double = _Pools(self._load_double())
            except StopRequested:
                raise
            except Exception as error:  # a full device among them; the run goes on without
                self._no_double = PotentialError(f"no potential in float64: {error}")
                raise self._no_double from error
        return self._double

    def _force_pass(self, pool: ForcePool | ColumnPool) -> None:
        with self._pass(FORCES) as costs:
            passed = pool.run_pass()
            costs.update(passed.costs)
        self._answer(passed.finished)

    def _answer(self, outcomes: Iterable[tuple[Any, Any]]) -> None:
        """Send crystals their outcomes, failures last: one may end the rank."""
        for number, outcome in sorted(outcomes, key=lambda x: isinstance(x[1], HpcbenchError)):
            active = self._under_way[number]
            if not isinstance(outcome, HpcbenchError):
                self.last_good = active.crystal
            self._resume(active, outcome)

    @contextlib.contextmanager
    def _pass(self, stage: str) -> Iterator[dict[Any, float]]:
        """Divide time and warnings of a pass among its crystals; yield a dict for their costs."""
        costs: dict[Any, float] = {}
        start = time.monotonic()
        place = RELAXATION if stage == RELAXATION else FORCES
        waiting = [one.crystal for one in self._under_way.values() if one.waits_for == place]
        self._watch.begin(waiting, self._potential)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield costs
        finally:
            self._watch.end()
        seconds = time.monotonic() - start
        self._account.add(stage, seconds)
        messages = messages_of(caught)
        for number, cost in costs.items():
            active = self._under_way[number]
            active.seconds[stage] += seconds * cost / sum(costs.values())
            active.warnings |= messages
