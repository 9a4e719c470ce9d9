"""What a run will take, before anything runs: rank-hours, wall time, memory, and the store."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.errors import SetupError
from hpcbench.limits import Limits
from hpcbench.planning.blocks import make_blocks
from hpcbench.planning.costs import CostModel, Work
from hpcbench.planning.crystal_list import read_share, together
from hpcbench.planning.curated_list import curated
from hpcbench.potentials.registry import spec_of
from hpcbench.sources import find_files

# In the store, compressed, by 20-atom generated crystals without symmetry: a row with its path;
# a pair of an atom of the cell and one of the supercell; the frequencies of a branch.
ROW_BYTES, PAIR_BYTES, BRANCH_BYTES = 12e3, 65.0, 1.4e3
# Until all ranks compute: Python, reading the list, loading and testing the potential; and what
# is left undone in the end, in s.
START_AND_END = 300.0
# Walltimes are asked for in steps of so many seconds.
WALLTIME_STEP = 600.0


@dataclass(frozen=True)
class Span:
    """How long the work takes on a number of ranks.

    Attributes
    ----------
    ranks : int
        That share the work.
    seconds : float
        Until the last rank ends.
    busy : float
        Share of the ranks' time until then in which they have work.
    walltime : float
        Seconds to ask a queue for: with the uncertainty, start and end.
    """

    ranks: int
    seconds: float
    busy: float
    walltime: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is known of a run beforehand.

    Attributes
    ----------
    listed : int
        Different crystals and unreadable entries in the sources.
    finished : int
        Of these, have a result in the store.
    aside : dict
        Number of crystals that will not be computed, by the kind of the reason.
    names : list of str
        Of the crystals that will be computed; the arrays below are in their order.
    natoms : ndarray
        Atoms in their cells.
    works : list of Work
        The work in them.
    seconds : ndarray
        Of a rank, for each.
    rates : CostModel
        Where the seconds come from.
    pass_bytes : float or None
        Memory in bytes that a forward pass on the largest supercell takes; ``None`` where it is
        not known of the potential.
    store_bytes : ndarray
        Of each row of the store, about.
    spans : list of Span
        How long it will take.
    """

    listed: int
    finished: int
    aside: dict[str, int]
    names: list[str]
    natoms: NDArray[np.int64]
    works: list[Work]
    seconds: NDArray[np.float64]
    rates: CostModel
    pass_bytes: float | None
    store_bytes: NDArray[np.float64]
    spans: list[Span]

    @property
    def rank_seconds(self) -> tuple[float, float, float]:
        """All of it, and within which bounds, in seconds of a rank."""
        total = float(self.seconds.sum())
        return total, total / self.rates.factor, total * self.rates.factor

    @property
    def largest(self) -> Work:
        """The work with the largest supercell, by edges."""
        return max(self.works, key=lambda work: work.largest)


def predict(
    config: RunConfig, rates: CostModel, finished: Collection[str], ranks: Sequence[int]
) -> Prediction:
    """Read the sources as a run does, and predict.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    rates : CostModel
        How long work takes.
    finished : collection of str
        Ids of crystals that need no more work.
    ranks : sequence of int
        Numbers of ranks to say the wall time for.

    Raises
    ------
    SourceError
        If there is no readable crystal.
    """
    share = read_share(config, find_files(config.sources, Limits(config.read_limits)), None, 0, 1)
    if isinstance(share, SetupError):
        raise share
    listing = curated(config, together(config, [share]))
    entries, unreadable = listing.crystals, listing.unreadable
    aside = Counter(entry.problem.kind for entry in entries if entry.problem)
    if unreadable:
        aside["unreadable"] = len(unreadable)
    pending = [
        (entry.record, entry.work)
        for entry in entries
        if isinstance(entry.record, Crystal) and entry.work and entry.record.id not in finished
    ]
    works = [work for _, work in pending]
    seconds = np.array([rates.seconds(work) for work in works])
    natoms = np.array([crystal.natoms for crystal, _ in pending], dtype=np.int64)
    supercells = np.array([work.supercell_atoms for work in works], dtype=np.float64)
    per_edge = spec_of(config.model).bytes_per_edge
    return Prediction(
        listed=len(entries) + len(unreadable),
        finished=sum(entry.record.id in finished for entry in entries),
        aside=dict(aside.most_common()),
        names=[crystal.name for crystal, _ in pending],
        natoms=natoms,
        works=works,
        seconds=seconds,
        rates=rates,
        pass_bytes=None
        if per_edge is None
        else per_edge * max((w.largest for w in works), default=0.0),
        store_bytes=row_bytes(natoms, supercells),
        spans=[span(seconds, number, config.block, rates.factor) for number in ranks],
    )


def row_bytes(
    natoms: NDArray[np.int64], supercell_atoms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bytes of rows of the store, about, by the atoms of cells and supercells."""
    return ROW_BYTES + PAIR_BYTES * natoms * supercell_atoms + BRANCH_BYTES * 3 * natoms


def span(seconds: NDArray[np.float64], ranks: int, largest: int, factor: float) -> Span:
    """Share the work out as a run does, and see when the last rank ends.

    Parameters
    ----------
    seconds : ndarray
        Predicted for each crystal.
    ranks : int
        That share them.
    largest : int
        Most crystals in a block, as ``--block`` has it.
    factor : float
        By which the sum may be off.
    """
    blocks = make_blocks(range(len(seconds)), list(seconds), ranks, largest)
    ends = [0.0] * ranks
    for block in blocks:
        heapq.heappush(ends, heapq.heappop(ends) + float(seconds[list(block.rows)].sum()))
    last = max(ends)
    busy = float(seconds.sum()) / (ranks * last) if last else 1.0
    steps = math.ceil((last * factor + START_AND_END) / WALLTIME_STEP)
    return Span(ranks, last, busy, steps * WALLTIME_STEP)
