"""Packing, worker processes, and many crystals under way at once."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import psutil
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import GPa

import hpcbench
from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.engine import one_supercell
from hpcbench.engine.displacement_tasks import analyse_forces, displace_supercell
from hpcbench.engine.io_threads import BlockRead, ListEnded, Reader, Writer, WritingFailed
from hpcbench.engine.pipeline import Pipeline
from hpcbench.engine.stopping import Stop, StoppablePotential, StopRequested
from hpcbench.engine.timing import Timing, read_stages
from hpcbench.engine.worker_processes import (
    Inline,
    Processes,
    Task,
    TaskEnded,
    number_of_processes,
)
from hpcbench.errors import (
    EvaluationError,
    HpcbenchError,
    OutOfMemoryError,
    PotentialError,
    SetupError,
    StoreError,
    UnsuitableError,
)
from hpcbench.events import EventLog
from hpcbench.phonons.calculate import analyse, prepare
from hpcbench.phonons.packing import ForcePool
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.phonons.supercells import CHECKS, displaced_copies, with_checks
from hpcbench.potentials.ase_calculator import CalculatorPotential
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.protocol import PotentialInfo, PreparedCopies
from hpcbench.relaxation import start as relaxation_start
from hpcbench.results.phonon_columns import Keep
from hpcbench.scheduler import launch_steps
from hpcbench.scheduler.devices import own_cores
from hpcbench.scheduler.launch import launch
from hpcbench.scheduler.world import SingleProcess
from hpcbench.store.run_folder import RunFolder
from hpcbench.work_requests import ForcesOn, OnCpu

INFO = PotentialInfo("toy", "toy", "", "", "float64", "cpu", None)
KEEP = Keep(forces=False, band_dtype="float64", dos=False)
PHONONS = PhononSettings("auto", 0.01, 1e-5, 21, (4, 4, 4), (0.0, 300.0), 0.1)


# ---------------------------------------------------------------- packing


def copies_of(natoms: int, ncopies: int) -> DisplacedCopies:
    """Copies that can be told apart: the displacement is the number of the copy."""
    displacements = np.arange(ncopies)[:, None] * np.ones(3)
    return DisplacedCopies(
        np.full(natoms, 29),
        np.zeros((natoms, 3)),
        10 * np.eye(3),
        np.zeros(ncopies, dtype=int),
        displacements,
    )


def forces_of(copies: DisplacedCopies) -> np.ndarray:
    return np.array(
        [np.full((copies.natoms, 3), 100 * copies.natoms + d[0]) for d in copies.displacements]
    )


class Recorder:
    """A potential that notes its passes, as {atoms: copies}; a copy costs its atoms."""

    info = INFO
    device = torch.device("cpu")

    def __init__(self, capacity: int, memory: float = math.inf, shrinks: bool = True) -> None:
        self.capacity = capacity
        self.memory = memory
        self.shrinks = shrinks
        self.poisoned: set[int] = set()
        self.passes: list[dict[int, int]] = []

    def cost(self, natoms: int, volume: float) -> float:
        return natoms

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        if copies.natoms > 10 * self.memory:
            raise OutOfMemoryError("no room for neighbours")
        return PreparedCopies(copies, copies.natoms, None)

    def forces(self, parts: Any) -> list[np.ndarray]:
        tried = sum((end - first) * prepared.cost for prepared, first, end in parts)
        if tried > self.memory:
            if self.shrinks:
                self.capacity = int(self.capacity * 0.9)
            raise OutOfMemoryError(f"{tried} is too much")
        if self.poisoned & {prepared.copies.natoms for prepared, _, _ in parts}:
            raise EvaluationError("poison")
        self.passes.append({p.copies.natoms: end - first for p, first, end in parts})
        return [forces_of(p.copies)[first:end] for p, first, end in parts]


def empty(pool: ForcePool) -> dict[Any, Any]:
    """Run passes until nothing is left; the outcomes in the order in which they came."""
    outcomes: dict[Any, Any] = {}
    while len(pool):
        outcomes.update(pool.run_pass().finished)
    return outcomes


def test_passes_are_filled_across_crystals_first_in_first_out() -> None:
    potential = Recorder(capacity=20)
    pool = ForcePool(potential)
    sets = {"a": copies_of(2, 7), "b": copies_of(4, 6), "c": copies_of(3, 2)}
    for key, copies in sets.items():
        pool.add(key, copies)
    assert pool.fills_a_pass()
    outcomes = empty(pool)
    # 14 of a and one b of 4 make 18: no other fits. Then b goes on, and c fills up.
    assert potential.passes == [{2: 7, 4: 1}, {4: 5}, {3: 2}]
    assert list(outcomes) == ["a", "b", "c"]
    for key, copies in sets.items():
        np.testing.assert_array_equal(outcomes[key], forces_of(copies))
    pool.add("d", copies_of(2, 9))
    assert not pool.fills_a_pass()


def test_room_that_a_large_copy_leaves_is_filled_with_small_ones() -> None:
    potential = Recorder(capacity=10)
    pool = ForcePool(potential)
    for key, (natoms, ncopies) in enumerate([(6, 2), (7, 1), (2, 3)]):
        pool.add(key, copies_of(natoms, ncopies))
    empty(pool)
    assert potential.passes == [{6: 1, 2: 2}, {6: 1, 2: 1}, {7: 1}]


def test_a_copy_above_the_capacity_goes_alone() -> None:
    potential = Recorder(capacity=5)
    pool = ForcePool(potential)
    pool.add("large", copies_of(8, 2))
    pool.add("small", copies_of(1, 3))
    assert list(empty(pool)) == ["large", "small"]
    assert potential.passes == [{8: 1}, {8: 1}, {1: 3}]


def test_costs_are_shared_out_by_crystal() -> None:
    pool = ForcePool(Recorder(capacity=20))
    pool.add("a", copies_of(2, 7))
    pool.add("b", copies_of(3, 6))
    assert pool.run_pass().costs == {"a": 14, "b": 6}


@pytest.mark.parametrize("memory", [3, 5, 9, 17, 40])
@pytest.mark.parametrize("shrinks", [True, False])
def test_nothing_is_lost_when_memory_runs_out(memory: int, shrinks: bool) -> None:
    potential = Recorder(capacity=64, memory=memory, shrinks=shrinks)
    pool = ForcePool(potential)
    sets = {number: copies_of(1 + number % 3, 5 + number) for number in range(8)}
    for key, copies in sets.items():
        pool.add(key, copies)
    outcomes = empty(pool)
    assert sorted(outcomes) == sorted(sets)
    for key, copies in sets.items():
        np.testing.assert_array_equal(outcomes[key], forces_of(copies))
    assert all(
        sum(natoms * count for natoms, count in taken.items()) <= memory
        for taken in potential.passes
    )


def test_a_copy_that_does_not_fit_alone_ends_its_crystal_only() -> None:
    pool = ForcePool(Recorder(capacity=30, memory=8))
    for natoms in (2, 9, 3, 200):
        if natoms == 200:
            with pytest.raises(UnsuitableError, match=r"200 atoms .* no room for neighbours"):
                pool.add(natoms, copies_of(natoms, 3))
        else:
            pool.add(natoms, copies_of(natoms, 3))
    outcomes = empty(pool)
    assert isinstance(outcomes[9], UnsuitableError)
    assert outcomes[9].reason.startswith("too large: a displaced supercell of 9 atoms (cost 9)")
    assert "memory of cpu" in outcomes[9].reason
    for natoms in (2, 3):
        np.testing.assert_array_equal(outcomes[natoms], forces_of(copies_of(natoms, 3)))


def test_who_makes_the_potential_fail_fails_alone() -> None:
    potential = Recorder(capacity=100)
    potential.poisoned = {3}
    pool = ForcePool(potential)
    for natoms in (2, 3, 4):
        pool.add(natoms, copies_of(natoms, 5))
    outcomes = empty(pool)
    assert isinstance(outcomes[3], EvaluationError)
    for natoms in (2, 4):
        np.testing.assert_array_equal(outcomes[natoms], forces_of(copies_of(natoms, 5)))


def test_atoms_without_neighbours_cost_something() -> None:
    potential = Recorder(capacity=4)
    potential.prepare = lambda copies: PreparedCopies(copies, 0, None)  # type: ignore[method-assign]
    pool = ForcePool(potential)
    pool.add("gas", copies_of(2, 9))
    assert len(empty(pool)["gas"]) == 9


def test_copies_are_the_displaced_supercells_of_phonopy() -> None:
    phonon = prepare(bulk("Si", cubic=True), 2 * np.eye(3, dtype=int), PHONONS)
    copies = displaced_copies(phonon)
    for number, atoms in enumerate(by_hand.supercells(phonon)):
        positions = copies.positions.copy()
        positions[copies.atoms[number]] += copies.displacements[number]
        np.testing.assert_allclose(positions, atoms.positions, atol=1e-12)
    np.testing.assert_array_equal(copies.numbers, atoms.numbers)


# ---------------------------------------------------------------- worker processes


@contextlib.contextmanager
def two_processes() -> Iterator[Processes]:
    crew = Processes(2, queue.SimpleQueue())
    yield crew
    crew.close()


@pytest.fixture(scope="class")
def crew() -> Iterator[Processes]:
    with two_processes() as crew:
        yield crew


@pytest.fixture
def own_crew() -> Iterator[Processes]:
    """For tests that harm it."""
    with two_processes() as crew:
        yield crew


def reports_of(crew: Processes, tasks: list[Task]) -> dict[int, Any]:
    """Let a crew do tasks; their reports by owner."""
    for task in tasks:
        crew.submit(task)
    reports: dict[int, Any] = {}
    deadline = time.monotonic() + 120
    while len(reports) < len(tasks) and time.monotonic() < deadline:
        ended: TaskEnded = crew._inbox.get(timeout=60)
        report = crew.collect(ended)
        if report is not None:
            reports[ended.task.owner] = report
    return reports


LOADED = "__import__('sys').modules.keys() & {'torch', 'mpi4py', 'mattersim'}"


def order_of(crew: Processes, hungry: bool, *, forget: bool = False) -> list[int]:
    """In which order a crew does tasks, of which the even ones feed the potential."""
    crew.hungry = hungry
    crew.submit(Task(0, OnCpu("first", time.sleep, (0.5,))))
    for owner in range(1, 30):
        crew.submit(Task(owner, OnCpu("x", os.getpid, ()), owner % 2 == 0))
    assert (crew.unfinished(feeding=True), crew.unfinished(feeding=False)) == (15, 15)
    if forget:
        crew.forget_feeding()
    order = []
    while crew.unfinished(feeding=True) + crew.unfinished(feeding=False):
        ended = crew._inbox.get(timeout=60)
        crew.collect(ended)
        order.append(ended.task.owner)
    # Some were with the pool already.
    return [owner for owner in order if owner > 4]


class TestProcessesThatGoOn:
    """All tasks of these tests are done by the same two."""

    def test_workers_load_neither_torch_nor_mpi_and_give_the_same_bits(
        self, crew: Processes
    ) -> None:
        atoms = bulk("Si", a=5.5)
        protocol = load_config({}, environment={}).protocol_definition
        stage = protocol.stages(0.001, 10)[-1]
        arguments = (atoms, stage, "full", 0.01, 0.0, atoms.get_volume())
        phonon = prepare(atoms, 2 * np.eye(3, dtype=int), PHONONS)
        copies = with_checks(displaced_copies(phonon))
        forces = np.random.default_rng(0).normal(size=(len(copies), 16, 3))
        matrix = 2 * np.eye(3, dtype=int)
        reports = reports_of(
            crew,
            [
                Task(0, OnCpu("symmetry", relaxation_start.prepare, arguments)),
                Task(1, OnCpu("displacements", displace_supercell, (atoms, matrix, PHONONS))),
            ],
        )
        assert not any(report.error for report in reports.values())
        there = reports[1].value
        reports = reports_of(
            crew,
            [
                Task(
                    0,
                    OnCpu(
                        "analysis", analyse_forces, (there.phonon, forces, PHONONS, "mesh", KEEP)
                    ),
                ),
                *(Task(n, OnCpu("modules", eval, (LOADED,))) for n in range(1, 20)),
            ],
        )
        assert {tuple(sorted(reports[n].value)) for n in range(1, 20)} == {()}
        here = analyse(phonon, forces[:-CHECKS], PHONONS, forces[-CHECKS:])
        got = reports[0].value.columns
        np.testing.assert_array_equal(got["force_constants"], here.phonon.force_constants)
        np.testing.assert_array_equal(
            got["band_frequencies"], here.spectra["path"].frequencies.ravel()
        )
        np.testing.assert_array_equal(got["free_energy"], here.mesh.free_energy)
        assert got["force_noise"] == here.noise.forces
        np.testing.assert_array_equal(there.copies.displacements, copies.displacements)

    def test_errors_and_warnings_come_back_with_their_tasks(self, crew: Processes) -> None:
        reports = reports_of(
            crew,
            [
                Task(0, OnCpu("log", math.log, (-1.0,))),
                Task(1, OnCpu("log", np.log, (np.float64(0.0),))),
                Task(2, OnCpu("lock", eval, ("__import__('threading').Lock()",))),
                Task(3, OnCpu("prepare", prepare, (bulk("Cu"), np.eye(3, dtype=int), PHONONS))),
            ],
        )
        assert reports[0].error.kind == "error"
        assert "ValueError" in reports[0].error.reason
        assert "math domain" in reports[0].traceback or "ValueError" in reports[0].traceback
        assert reports[1].warnings == {"RuntimeWarning: divide by zero encountered in log"}
        assert "pickle" in reports[2].error.reason
        assert type(reports[3].error).__name__ == "PhononError"
        assert reports[3].traceback == ""

    def test_what_feeds_a_hungry_potential_comes_first(self, crew: Processes) -> None:
        assert order_of(crew, True) == [*range(6, 30, 2), *range(5, 30, 2)]

    def test_where_the_potential_has_enough_older_crystals_come_first(
        self, crew: Processes
    ) -> None:
        assert order_of(crew, False) == list(range(5, 30))

    def test_what_would_feed_the_potential_is_forgotten_at_a_stop(self, crew: Processes) -> None:
        assert order_of(crew, True, forget=True) == list(range(5, 30, 2))


def test_a_task_that_kills_its_process_fails_and_the_others_are_done(own_crew: Processes) -> None:
    kill = OnCpu("analysis", signal.raise_signal, (signal.SIGKILL,))
    tasks = [Task(n, kill if n in (3, 4) else OnCpu("sum", sum, ([n, 1],))) for n in range(9)]
    reports = reports_of(own_crew, tasks)
    assert sorted(reports) == list(range(9))
    for number, report in reports.items():
        if number in (3, 4):
            assert report.error.reason == "error: its analysis ended the process that did it, twice"
        else:
            assert report.value == number + 1


def test_a_worker_that_dies_without_work_is_replaced(own_crew: Processes) -> None:
    first = reports_of(own_crew, [Task(0, OnCpu("pid", os.getpid, ()))])[0].value
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)
    time.sleep(0.2)
    reports = reports_of(own_crew, [Task(n, OnCpu("sum", sum, ([n, 1],))) for n in range(4)])
    assert [reports[n].value for n in range(4)] == [1, 2, 3, 4]


def test_workers_that_cannot_start_are_said_so(
    own_crew: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpcbench.engine import worker_processes

    monkeypatch.setattr(worker_processes, "_begin", os._exit)
    with pytest.raises(SetupError, match=r"die as soon as they are started .* --workers 0"):
        reports_of(own_crew, [Task(0, OnCpu("sum", sum, ([1],)))])


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "crystals", "number"),
    [
        ("auto", "cuda:0", 16, 1000, 8),
        ("auto", "cuda:0", 4, 1000, 3),
        ("auto", "cuda:0", 16, 9, 2),
        ("auto", "cuda:0", 16, 3, 0),
        ("auto", "cpu", 16, 1000, 2),
        ("auto", "cpu", 1, 1000, 0),
        ("auto", "cpu", 0.5, 1000, 0),
        (0, "cuda:0", 16, 1000, 0),
        (5, "cpu", 1, 1, 5),
    ],
)
def test_number_of_processes(
    wanted: Any, device: str, cores: float, crystals: float, number: int
) -> None:
    assert number_of_processes(wanted, device, cores, crystals) == number


def test_cores_are_shared_out_among_the_ranks_that_may_use_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Four(SingleProcess):
        size = 4

        def __init__(self, masks: list[set[int]]) -> None:
            self.masks = masks

        def share(self, value: Any) -> list[Any]:
            host, _ = value
            assert host == socket.gethostname()
            return [value, *((host, frozenset(mask)) for mask in self.masks), ("other", value[1])]

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    everything = set(range(16))
    assert own_cores(SingleProcess()) == 16
    assert own_cores(Four([everything, everything, everything])) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert own_cores(Four([{4, 5, 6, 7}, {8, 9, 10, 11}])) == 4


# ---------------------------------------------------------------- threads beside


def test_reader_is_at_most_one_block_ahead() -> None:
    taken: list[int] = []

    def blocks() -> Iterator[list[Any]]:
        for number in range(3):
            taken.append(number)
            yield [number]

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reader = Reader(blocks(), inbox, Timing())
    time.sleep(0.1)
    assert taken == []
    for number in range(3):
        reader.next_block()
        assert inbox.get(timeout=5).crystals == [number]
        time.sleep(0.05)
        assert taken == list(range(number + 1))
    reader.next_block()
    ended = inbox.get(timeout=5)
    assert isinstance(ended, ListEnded)
    assert ended.error is None
    reader.close()


def test_an_error_of_the_list_reaches_the_main_thread() -> None:
    def blocks() -> Iterator[list[Any]]:
        yield [1]
        raise OSError("stale file handle")

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reader = Reader(blocks(), inbox, Timing())
    reader.next_block()
    reader.next_block()
    assert isinstance(inbox.get(timeout=5), BlockRead)
    assert "stale" in str(inbox.get(timeout=5).error)
    reader.close()


def test_writer_commits_after_a_while_and_at_the_end() -> None:
    commits: list[list[Any]] = []
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    writer = Writer(lambda rows: commits.append(list(rows)), 0.3, inbox, Timing())
    writer.put([{"id": "a"}])
    writer.put([{"id": "b"}])
    time.sleep(0.1)
    assert commits == []
    time.sleep(0.5)
    assert commits == [[{"id": "a"}, {"id": "b"}]]
    writer.put([{"id": "c"}])
    writer.hurry()
    time.sleep(0.1)
    assert len(commits) == 2
    writer.put([{"id": "d"}])
    writer.close()
    assert [row["id"] for rows in commits for row in rows] == ["a", "b", "c", "d"]


def test_rows_that_could_not_be_written_are_tried_again_at_the_end() -> None:
    there: list[Any] = []
    room = False

    def commit(rows: Any) -> None:
        if not room:
            raise StoreError("disk full")
        there.extend(rows)

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    writer = Writer(commit, 0.0, inbox, Timing())
    writer.put([{"id": "a"}])
    failed = inbox.get(timeout=5)
    assert isinstance(failed, WritingFailed)
    writer.put([{"id": "b"}])
    room = True
    writer.close()
    assert [row["id"] for row in there] == ["a", "b"]


# ---------------------------------------------------------------- the driver


class Toys:
    """A pipeline of toy workflows, whose crystals are numbers."""

    def __init__(
        self,
        workflow: Callable[[int], Any],
        crystals: int,
        potential: Any = None,
        most: int = 10,
        stop: Stop | None = None,
        load_double: Any = None,
    ) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.account = Timing()
        self.ended: dict[int, Any] = {}
        self.under_way = self.most_seen = 0
        self.stop = stop or Stop()
        crystal = Crystal.from_ase(bulk("Cu"))
        numbers = iter(range(crystals))

        def way(crystal: Crystal) -> Any:
            self.under_way += 1
            self.most_seen = max(self.most_seen, self.under_way)
            return (yield from workflow(next(numbers)))

        blocks = ([crystal] * min(30, crystals - first) for first in range(0, crystals, 30))
        self.reader = Reader(blocks, self.inbox, self.account)
        self.pipeline = Pipeline(
            StoppablePotential(potential or Recorder(capacity=20), self.stop),
            way,
            self.reader,
            Inline(self.inbox),
            self.inbox,
            self.account,
            most,
            self.stop,
            self.on_end,
            load_double,
        )

    def on_end(self, active: Any, outcome: Any) -> None:
        self.under_way -= 1
        self.ended[active.number] = outcome

    def run(self) -> None:
        try:
            self.pipeline.run()
        finally:
            self.reader.close()


def test_under_way_are_never_more_than_allowed() -> None:
    def workflow(number: int) -> Any:
        total = yield OnCpu("symmetry", sum, ([number, 1],))
        forces = yield ForcesOn(copies_of(1 + number % 3, 4))
        total += yield OnCpu("analysis", sum, ([number, 2],))
        return {"total": total, "forces": forces}

    potential = Recorder(capacity=25)
    toys = Toys(workflow, 300, potential, most=12)
    toys.run()
    assert toys.most_seen == 12
    assert [toys.ended[n]["total"] for n in range(300)] == [2 * n + 3 for n in range(300)]
    for number in range(300):
        expected = forces_of(copies_of(1 + number % 3, 4))
        np.testing.assert_array_equal(toys.ended[number]["forces"], expected)
    # 96 full passes would do; some are not full, as the next block is being read.
    assert len(potential.passes) < 140


def test_crystals_that_fail_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def workflow(number: int) -> Any:
        if number == 1:
            raise UnsuitableError("unknown element", "no")
        if number == 2:
            raise ZeroDivisionError("by accident")
        if number == 3:
            yield OnCpu("symmetry", math.log, (-1.0,))
        try:
            yield ForcesOn(copies_of(99 if number == 4 else 2, 3))
        except EvaluationError:
            if number != 5:
                raise
        return {"done": True}

    potential = Recorder(capacity=20)
    potential.poisoned = {99}
    toys = Toys(workflow, 7, potential)
    toys.run()
    kinds = {
        n: getattr(outcome, "kind", type(outcome).__name__) for n, outcome in toys.ended.items()
    }
    assert kinds == {
        0: "dict", 1: "unknown element", 2: "error", 3: "error", 4: "EvaluationError",
        5: "dict", 6: "dict",
    }  # fmt: skip


def test_forces_in_double_come_from_their_own_potential() -> None:
    def workflow(number: int) -> Any:
        forces = yield ForcesOn(copies_of(2, 3))
        if number % 2:
            forces = yield ForcesOn(copies_of(2, 3), in_double=True)
        return {"forces": forces}

    single, double = Recorder(capacity=20), Recorder(capacity=20)
    loaded = []
    toys = Toys(workflow, 20, single, load_double=lambda: loaded.append(1) or double)
    toys.run()
    assert loaded == [1]
    assert len(toys.ended) == 20
    for outcome in toys.ended.values():
        np.testing.assert_array_equal(outcome["forces"], forces_of(copies_of(2, 3)))
    assert 0 < len(double.passes) < len(single.passes)


def test_where_double_cannot_be_had_it_is_tried_once_and_the_run_goes_on() -> None:
    tried = []

    def load() -> Any:
        tried.append(1)
        raise RuntimeError("the device is full")

    def workflow(number: int) -> Any:
        yield ForcesOn(copies_of(2, 3))
        try:
            yield ForcesOn(copies_of(2, 3), in_double=True)
        except PotentialError as error:
            return {"error": str(error)}

    toys = Toys(workflow, 12, load_double=load)
    toys.run()
    assert tried == [1]
    assert [outcome["error"] for outcome in toys.ended.values()] == [
        "no potential in float64: the device is full"
    ] * 12


def test_what_has_its_forces_is_analysed_when_a_run_is_stopped() -> None:
    stop = Stop()

    def workflow(number: int) -> Any:
        yield ForcesOn(copies_of(2, 3))
        if number == 4:
            stop.signal = signal.SIGTERM
        return (yield OnCpu("analysis", dict, ([("number", number)],)))

    toys = Toys(workflow, 50, Recorder(capacity=6), stop=stop)
    with pytest.raises(StopRequested):
        toys.run()
    toys.pipeline.say_end_of_work()
    assert sorted(toys.ended) == [0, 1, 2, 3, 4]
    assert all(isinstance(outcome, dict) for outcome in toys.ended.values())


# ---------------------------------------------------------------- the whole way


class Fresh(OneByOne):
    """EMT without memory of what it computed before; several structures a pass."""

    info = PotentialInfo("emt", "ase", "", "", "float64", "cpu", None)
    capacity = 3

    def __init__(self) -> None:
        self.calls = 0
        self.before: Callable[[int, Atoms], None] = lambda call, atoms: None

    def evaluate(self, structures: Any, *, stress: bool = False) -> Any:
        results = []
        for atoms in structures:
            self.calls += 1
            self.before(self.calls, atoms)
            results += CalculatorPotential(EMT(), self.info).evaluate([atoms], stress=stress)
        return results


QUICK = {"mesh": (4, 4, 4), "dtype": "float64", "band_points": 21, "supercell": (2, 2, 2)}


def same(a: Any, b: Any) -> None:
    for key in a.ids:
        first, second = a.row(key), b.row(key)
        for name in ("status", "reason", "verdict", "spacegroup", "relaxation_steps"):
            assert first[name] == second[name]
        for name in ("relaxed_positions", "relaxed_cell", "energy", "force_constants"):
            np.testing.assert_allclose(first[name], second[name], atol=1e-9, rtol=0)


def test_results_depend_neither_on_workers_nor_on_order_nor_on_blocks(
    tmp_path: Path, metals: list[Atoms]
) -> None:
    metals.append(bulk("Si"))
    variants = [
        (metals, 0, 0),
        (metals[::-1], 1, 1),
        (metals[::2] + metals[1::2], 2, 3),
    ]
    stores = []
    for number, (crystals, workers, block) in enumerate(variants):
        out = tmp_path / f"{number}.h5"
        hpcbench.run(crystals, model=Fresh(), out=out, workers=workers, block=block, **QUICK)
        stores.append(hpcbench.open(out))
    table = stores[0].table
    assert Counter(table["status"]) == {"done": 5, "failed": 1}
    assert table.query("status == 'failed'")["reason"].iloc[0].startswith("potential: ")
    for store in stores[1:]:
        assert sorted(store.ids) == sorted(stores[0].ids)
        same(stores[0], store)
    stages = read_stages(tmp_path / "0.h5.run" / "events")
    assert stages is not None
    assert 0 < stages.passes < 1
    assert {
        "relaxation",
        "forces",
        "symmetry",
        "displacements",
        "analysis",
        "reading",
        "writing",
    } < set(stages.seconds)
    assert stages.lines().startswith("relaxation steps and force passes under way")
    done = table.query("status == 'done'")
    # Shares of the passes add up to the passes, but for those of the crystal that failed.
    shared = done["seconds_relaxation"].sum()
    assert 0.5 * stages.seconds["relaxation"] < shared <= stages.seconds["relaxation"] + 1e-2
    assert (done[["seconds_forces", "seconds_analysis"]] > 0).all(axis=None)


def children() -> list[psutil.Process]:
    """Worker processes of this one."""
    return [
        child
        for child in psutil.Process().children()
        if any("popen_loky" in word for word in child.cmdline())
    ]


def test_a_worker_that_is_killed_costs_nothing(metals: list[Atoms]) -> None:
    potential = Fresh()
    killed = []

    def kill(call: int, atoms: Atoms) -> None:
        if call == 30:
            killed.append(children()[0].pid)
            os.kill(killed[-1], signal.SIGKILL)

    potential.before = kill
    result = hpcbench.run(metals, model=potential, workers=2, **QUICK)
    assert len(killed) == 1
    assert list(result.table["status"]) == ["done"] * 5
    assert children() == []


def deadly(atoms: Atoms, *arguments: Any) -> Any:
    """Displace a crystal, but not gold."""
    if "Au" in atoms.symbols:
        signal.raise_signal(signal.SIGKILL)
    return displace_supercell(atoms, *arguments)


def test_a_crystal_that_kills_its_worker_fails_alone(
    metals: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_supercell, "displace_supercell", deadly)
    result = hpcbench.run(metals[::-1], model=Fresh(), workers=2, **QUICK)
    assert list(result.table["status"]) == ["failed"] + ["done"] * 4
    assert "displacements ended the process" in result.table["reason"].iloc[0]


def launched(out: Path, metals: list[Atoms], potential: Any, stop: Stop, **settings: Any) -> Any:
    config = load_config({**QUICK, "out": str(out), "report": False, **settings}, environment={})
    return launch(
        config,
        SingleProcess(),
        stop=stop,
        records=[Crystal.from_ase(atoms) for atoms in metals],
        potential=potential,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_in_the_middle_keeps_what_is_finished(
    tmp_path: Path, metals: list[Atoms], workers: int
) -> None:
    potential, stop = Fresh(), Stop()
    potential.capacity = 1
    forces = 0

    def after_forces(call: int, atoms: Atoms) -> None:
        nonlocal forces
        forces += len(atoms) >= 8
        # AuCu comes first: two displaced supercells, and two that tell their noise; then three.
        if forces == 8:
            stop.signal = signal.SIGTERM

    potential.before = after_forces
    out = tmp_path / "s.h5"
    outcome = launched(out, metals, potential, stop, workers=workers)
    assert not outcome.complete
    assert outcome.problem is None
    table = hpcbench.open(out).table
    assert 2 <= len(table) < 5
    assert (table["status"] == "done").all()
    assert children() == []
    potential.before = lambda call, atoms: None
    assert launched(out, metals, potential, Stop(), workers=workers).complete
    after = hpcbench.open(out).table
    assert len(after) == 5
    assert (after.loc[table.index, "finished"] == table["finished"]).all()


def test_a_full_disk_ends_the_run_and_loses_nothing_before(
    tmp_path: Path, metals: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = RunFolder.commit
    calls = 0

    def commit(self: RunFolder, rows: Any, *arguments: Any) -> Path:
        nonlocal calls
        calls += 1
        if calls >= 2:
            raise StoreError("cannot write: no space left on device")
        return sound(self, rows, *arguments)

    monkeypatch.setattr(RunFolder, "commit", commit)
    out = tmp_path / "s.h5"
    outcome = launched(out, metals, Fresh(), Stop(), commit_interval=0, workers=0)
    assert isinstance(outcome.problem, StoreError)
    assert 0 < len(hpcbench.open(out)) < 5
    monkeypatch.undo()
    assert launched(out, metals, Fresh(), Stop(), workers=0).complete


def test_a_list_that_cannot_be_read_any_more_is_said_so(
    tmp_path: Path, metals: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpcbench.scheduler.leases import Leases

    sound = Leases.take
    calls = 0

    def take(self: Leases, *arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(116, "Stale file handle")
        return sound(self, *arguments, **keywords)

    monkeypatch.setattr(Leases, "take", take)
    outcome = launched(tmp_path / "s.h5", metals, Fresh(), Stop(), workers=0)
    assert isinstance(outcome.problem, StoreError)
    assert "Stale file handle; what was computed is safe" in str(outcome.problem)


def test_a_potential_that_fails_for_a_whole_batch_ends_the_rank(metals: list[Atoms]) -> None:
    class Broken(Fresh):
        def evaluate_batch(self, batch: Any, *, stress: bool = False) -> Any:
            if self.calls > 30:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().evaluate_batch(batch, stress=stress)

    with pytest.raises(PotentialError, match="no crystal to blame: RuntimeError: CUDA error"):
        hpcbench.run(metals, model=Broken(), workers=0, **QUICK)


def test_warnings_are_logged_with_the_crystals_they_are_of(
    tmp_path: Path, metals: list[Atoms]
) -> None:
    import warnings

    potential = Fresh()

    def warn(call: int, atoms: Atoms) -> None:
        if "Al" in atoms.symbols:
            warnings.warn("light metal", stacklevel=1)

    potential.before = warn
    potential.capacity = 1
    out = tmp_path / "s.h5"
    hpcbench.run(metals, model=potential, out=out, workers=0, **QUICK)
    text = (tmp_path / "s.h5.run" / "events" / "rank-00000.jsonl").read_text()
    lines = [line for line in text.splitlines() if "light metal" in line]
    assert len(lines) == 1
    assert Crystal.from_ase(metals[1]).id in lines[0]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import hpcbench
from ase.build import bulk
from test_pipeline import Fresh, QUICK

print("the script runs", flush=True)
potential = Fresh()
{more}
result = hpcbench.run(
    [bulk("Cu", a=3.5 + 0.01 * n) for n in range({number})], model=potential, workers=2, **QUICK
)
print(result.table["status"].value_counts().to_dict())
"""


def script(tmp_path: Path, number: int, more: str = "") -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent), number=number, more=more))
    # Python's own modules are not taken from the working folder by worker processes.
    (tmp_path / "queue.py").write_text("raise RuntimeError('not meant')\n")
    return [sys.executable, "-P", str(path)]


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    result = subprocess.run(
        script(tmp_path, 5), capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "the script runs\n{'done': 5}\n"
    assert result.stderr == ""


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        there = [
            child
            for child in psutil.Process(process.pid).children()
            if any("popen_loky" in word for word in child.cmdline())
        ]
        if len(there) == 2:
            return there
        time.sleep(0.05)
    raise AssertionError("no workers")


def test_workers_leave_signals_to_their_rank_and_end_with_it(tmp_path: Path) -> None:
    slow = "import time; potential.before = lambda call, atoms: time.sleep(0.2)"
    with subprocess.Popen(script(tmp_path, 200, slow), stdout=subprocess.PIPE, text=True) as rank:
        workers = workers_of(rank)
        # From the very start: they are not even at work yet.
        for _ in range(2):
            for worker in workers:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                    worker.send_signal(number)
            time.sleep(1.5)
        assert rank.poll() is None
        assert {worker.pid for worker in workers_of(rank)} == {worker.pid for worker in workers}
        everyone = psutil.Process(rank.pid).children(recursive=True)
        rank.kill()
        rank.wait(10)
        _, alive = psutil.wait_procs(everyone, timeout=3)
        assert alive == []


def test_pressure_squeezes_the_cell_that_may_follow_it(tmp_path: Path, metals: list[Atoms]) -> None:
    out = tmp_path / "s.h5"
    hpcbench.run(metals[:1], model=Fresh(), out=out, pressure=10, workers=0, **QUICK)
    store = hpcbench.open(out)
    row = store.row(store.ids[0])
    assert row["stress"].trace() / 3 == pytest.approx(-10 * GPa, abs=2e-4)
    assert store.settings["pressure"] == 10
    with pytest.raises(HpcbenchError, match="pressure 5 GPa needs relax full: with positions"):
        load_config({"pressure": 5, "relax": "positions"}, environment={})


def test_number_of_workers_is_a_number_or_auto() -> None:
    config = load_config({"workers": "3"}, environment={})
    assert config.workers == 3
    assert "workers" not in config.result_settings()
    assert load_config({}, environment={"HPCBENCH_WORKERS": "auto"}).workers == "auto"
    with pytest.raises(HpcbenchError, match="not negative, or the word auto, not 'two'"):
        load_config({"workers": "two"}, environment={})


def test_event_log_takes_events_from_threads(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0, "1")
    log.write("stages", wall=2.0, seconds={"relaxation": 1.0, "forces": 0.5})
    other = EventLog(tmp_path, 1, "1")
    other.write("stages", wall=2.0, seconds={"relaxation": 0.5})
    stages = read_stages(tmp_path)
    assert stages is not None
    assert stages.passes == 0.5
    log.write("start", total=0, before=0)
    EventLog(tmp_path, 0, "2").write("start", total=0, before=0)
    assert read_stages(tmp_path) is None


def test_runs_in_one_process_leave_no_files_open(
    tmp_path: Path, metals: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_plan(*arguments: object) -> None:
        raise SetupError("no plan")

    before, numbers = set(threading.enumerate()), []
    for number in range(3):
        settings: dict[str, Any] = {"model": EMT(), "mesh": (2, 2, 2), "workers": 0}
        settings["supercell"] = (2, 2, 2)
        hpcbench.run(metals[:1], out=tmp_path / f"{number}.h5", **settings)
        with monkeypatch.context() as patch:
            patch.setattr(launch_steps, "make_plan", no_plan)
            with pytest.raises(SetupError, match="no plan"):
                hpcbench.run(metals[:1], out=tmp_path / f"none-{number}.h5", **settings)
        numbers.append(len(os.listdir("/proc/self/fd")))
    assert numbers[1] == numbers[2]
    time.sleep(1.5)
    assert not [one for one in set(threading.enumerate()) - before if "_beat" in one.name]
