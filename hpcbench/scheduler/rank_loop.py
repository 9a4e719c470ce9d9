"""The work of a rank in a launch: lease blocks, take over those of dead ranks, compute."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.engine.rank_process import RankProcess
from hpcbench.engine.worker import Worker
from hpcbench.errors import StoreError
from hpcbench.planning.blocks import Block
from hpcbench.planning.prefetch_limit import most_seconds_held
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.registry import (
    has_both_precisions,
    load_potential,
    require_response,
)
from hpcbench.results.identity import crystal_of
from hpcbench.scheduler.assigned_work import AssignedWork
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.isolated_worker import Fate, IsolatedWorker
from hpcbench.scheduler.journal import Journal, journal_path, read_journal
from hpcbench.scheduler.leases import Lease, Leases
from hpcbench.scheduler.run_plan import Plan
from hpcbench.scheduler.suspicious import (
    MOST_DEATHS,
    Suspicion,
    Suspicions,
    joined,
    set_aside,
    suspects_of_rank,
)
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DOUBLE
from hpcbench.store.table_reader import TableReader

POLL = 0.2
# A suspect is given up after these seconds and so many times its prediction; only if predictions
# are from measured rates.
SHORTEST_LIMIT = 600.0
TIMES_PREDICTED = 100.0

Load = Callable[[Sequence[int]], list[tuple[Crystal, float]]]
"""Returns crystals by their rows in the list, each with its predicted seconds."""


@dataclass
class RankLoop:
    """Do the work of this rank in a launch.

    Attributes
    ----------
    process : RankProcess
        Settings, folder and log of this rank.
    plan : Plan
        The launch's plan.
    heartbeat : Heartbeat
        Of the ranks.
    journal : Journal
        This rank's journal.
    worker : Worker
        Computes crystals, and reports results to ``assigned``.
    assigned : AssignedWork
        The crystals that this rank has leased.
    isolated_worker : IsolatedWorker or None
        Computes suspects; without one the rank itself does.
    load : callable
        Reads crystals of the list.
    left_undone : bool
        Whether there was work that this rank could not do, or not in the time that is left.
    """

    process: RankProcess
    plan: Plan
    heartbeat: Heartbeat
    journal: Journal
    worker: Worker
    assigned: AssignedWork
    isolated_worker: IsolatedWorker | None
    load: Load
    # Suspects that this rank holds, and their rows of the list.
    _suspects: Suspicions = field(default_factory=dict, init=False)
    _rows: dict[str, int] = field(default_factory=dict, init=False)
    # Blocks of others that this rank has tried to take over.
    _tried: set[tuple[int, int]] = field(default_factory=set, init=False)
    left_undone: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        launch = self.process.folder.launch_folder(self.plan.launch)
        self._launch = launch
        self._leases = Leases(
            launch, self.process.rank, self.process.size, self.plan.blocks, self.journal
        )

    def work(self) -> bool:
        """Compute until nothing is left that this rank could do.

        Blocks for which there was not enough time set ``left_undone``.

        Returns
        -------
        bool
            False if the run was asked to stop before.

        Raises
        ------
        StoreError
            If results cannot be written, or the list cannot be read.
        PotentialError
            If the potential has stopped working.
        """
        lease = None
        while not self.process.stop.requested:
            ending = threading.Event()
            if not self.worker.work(self._crystals(ending, lease), ending):
                break
            if not self._compute_suspects():
                break
            self.heartbeat.rest()
            lease = self._wait_for_abandoned_blocks()
            if lease is None:
                break
        return not self.process.stop.requested

    def _crystals(self, ending: threading.Event, lease: Lease | None) -> Iterator[list[Crystal]]:
        """Yield the crystals of blocks, as long as this rank finds any; used in a thread."""
        if lease is not None:
            yield self._open(lease)
        while not (ending.is_set() or self.process.stop.requested):
            # Suspects are computed last, so they do not count as work that this rank has.
            held = self.assigned.seconds_left(without=self._suspects)
            left = self.assigned.seconds_left(self._leases.seconds_left(), self._suspects) - held
            if held > most_seconds_held(
                left, self.process.size, self.process.config.lease_minutes * 60
            ):
                time.sleep(POLL)
                continue
            lease = self._leases.take(self._fits)
            # A rank with suspects to compute leaves the blocks of dead ranks to the others.
            if lease is None and not self._suspects:
                lease = self._inherit()
            if lease is None:
                return
            yield self._open(lease)

    def _fits(self, block: Block) -> bool:
        fits = self.assigned.seconds_left(block.seconds) <= self.process.stop.seconds_left
        self.left_undone |= not fits
        return fits

    def _inherit(self) -> Lease | None:
        """Take over a block of a rank that has died or given up; ``None`` if there is none."""
        for rank in self.heartbeat.lost():
            if rank == self.process.rank:
                continue
            told = read_journal(journal_path(self._launch, f"rank-{rank:05d}"))
            for number, holder in self._leases.held_by(rank, told, self._tried):
                if not self._fits(self.plan.blocks[number]):
                    continue
                self._tried.add((number, holder))
                # Before the block is taken, so that waiting ranks do not leave in the meantime.
                self.heartbeat.resume()
                if lease := self._leases.take_over(number, holder):
                    return lease
        return None

    def _wait_for_abandoned_blocks(self) -> Lease | None:
        """Wait until no rank works any more, or one leaves a block behind."""
        while not self.process.stop.requested:
            # Before looking for blocks: a rank that dies in the meantime leaves some.
            working = self.heartbeat.working()
            if lease := self._inherit():
                return lease
            self.heartbeat.rest()
            if not working:
                return None
            self.process.stop.pause(self.heartbeat.poll)
        return None

    def _open(self, lease: Lease) -> list[Crystal]:
        """Return the crystals of a block that are to be computed now."""
        rows = lease.block.rows
        listed = self.load(rows)
        crystals = {crystal.id: crystal for crystal, _ in listed}
        self._rows |= dict(zip(crystals, rows, strict=True))
        suspects: Suspicions = {}
        finished: set[str] = set()
        if lease.block.suspect:
            suspects = {key: self.plan.suspicions[key] for key in crystals}
        if lease.holder:
            holders = self._leases.holders(lease)
            committed = self.process.folder.committed_ids(holders)
            finished = committed & crystals.keys()
            before = (suspects_of_rank(self._launch, rank, committed) for rank in holders)
            suspects = joined([suspects, *before])
        for key in finished:
            del crystals[key]
        suspects = {key: suspicion for key, suspicion in suspects.items() if key in crystals}
        self._suspects = joined([self._suspects, suspects])
        seconds = {crystal.id: cost for crystal, cost in listed if crystal.id in crystals}
        self.assigned.add(lease.number, seconds)
        self.process.log.write(
            "lease",
            block=lease.number,
            crystals=len(crystals),
            seconds=round(sum(seconds.values()), 3),
            suspects=len(suspects),
            holder=lease.holder,
        )
        clean = [crystal for key, crystal in crystals.items() if key not in suspects]
        if clean:
            if self.isolated_worker is not None:
                # It shares the device, so it must end before other work. It takes long to start, so
                # it is kept while there are only suspects.
                self.isolated_worker.close()
            self.journal.begin([crystal.id for crystal in clean])
        return clean

    def _compute_suspects(self) -> bool:
        """Compute all suspects; return false if the run was asked to stop before."""
        while not self.process.stop.requested:
            if not self._suspects:
                lease = self._leases.take(self._fits, suspect=True)
                if lease is None:
                    break
                self._open(lease)
                continue
            # Crystals that have ended a process come last: the others are probably harmless.
            key = min(self._suspects, key=lambda key: (self._suspects[key].deaths, key))
            if not self._compute_suspect(key):
                return False
        return not self.process.stop.requested

    def _compute_suspect(self, key: str) -> bool:
        """Compute a suspect alone; return false if the run was asked to stop before."""
        row, attempts = self._rows[key], self._suspects[key].attempts
        if self.isolated_worker is None:
            # No other process can use the potential, or the device.
            self.journal.begin([key], alone=True)
            ((crystal, _),) = self.load([row])
            self.worker.attempts[key] = attempts
            del self._suspects[key]
            return self.worker.work([[crystal]])
        longest = math.inf
        # Without a limit if this rank no longer holds the crystal.
        if self.plan.measured and self.assigned.predicted(key):
            longest = max(SHORTEST_LIMIT, TIMES_PREDICTED * self.assigned.predicted(key))
        fate = self.isolated_worker.compute(row, attempts, longest)
        if fate is Fate.DONE or key in self.process.folder.committed_ids([self.process.rank]):
            del self._suspects[key]
            self.assigned.finish(key)
            self.assigned.commit([key])
        elif fate is Fate.DIED:
            self._note_death(key)
        if fate is Fate.UNABLE:
            # A GPU may allow one process only. Then this rank takes the risk.
            self.process.log.write(
                "warning", id="", message=f"no isolated worker: {self.isolated_worker.how}"
            )
            self.isolated_worker = None
        return fate is not Fate.STOPPED

    def _note_death(self, key: str) -> None:
        """Note that the isolated worker died of a suspect; after several deaths that has failed."""
        assert self.isolated_worker is not None, "it has died"
        self.process.log.write("death", ids=[key], how=self.isolated_worker.how)
        self.journal.died(key)
        suspicion = self._suspects[key].and_also(Suspicion(1))
        self._suspects[key] = suspicion
        if suspicion.deaths >= MOST_DEATHS:
            del self._suspects[key]
            self.worker.attempts[key] = suspicion.attempts - 1
            ((crystal, _),) = self.load([self._rows[key]])
            self.worker.fail(crystal, set_aside(suspicion.deaths, self.isolated_worker.how))
            self.assigned.finish(key)


@contextlib.contextmanager
def load_crystals(folder: RunFolder) -> Iterator[Load]:
    """Open the list of crystals, and yield a function that reads crystals by their rows.

    Raises
    ------
    StoreError
        If the list cannot be read.
    """
    try:
        reader = TableReader(folder.crystals)
    except OSError as error:
        raise StoreError(f"{folder.crystals}: {error}") from error
    with reader:

        def load(rows: Sequence[int]) -> list[tuple[Crystal, float]]:
            return [(crystal_of(row), row["cost"]) for row in reader.rows(rows)]

        yield load


def load_for(config: RunConfig, device: str, ranks_on_host: int) -> Potential:
    """Load and self-test the potential of a run.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    device : str
        Where it computes.
    ranks_on_host : int
        Processes that share the machine's memory.

    Raises
    ------
    PotentialError
        If it cannot be loaded.
    """
    potential = load_potential(
        config.model,
        dtype=config.dtype,
        device=device,
        max_edges=config.max_edges,
        ranks_on_host=ranks_on_host,
    )
    require_response(potential.info, config.derivative)
    from hpcbench.potentials.selftest import self_test

    self_test(potential)
    return potential


def double_of(config: RunConfig, device: str, ranks_on_host: int) -> Callable[[], Potential] | None:
    """Return a function that loads the potential of a run in double precision.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    device : str
        Where it computes.
    ranks_on_host : int
        Processes that share the machine's memory.

    Returns
    -------
    callable or None
        ``None`` if the run has double precision already, or the potential has one precision only.
    """
    if config.dtype == DOUBLE or not has_both_precisions(config.model):
        return None
    # The same passes take twice the memory.
    double = dataclasses.replace(config, dtype=DOUBLE, max_edges=config.max_edges // 2)
    return functools.cache(lambda: load_for(double, device, ranks_on_host))
