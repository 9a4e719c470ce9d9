"""Prediction of the cost of a run: rank-hours, wall time, memory, and size of the store."""

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
from hpcbench.potentials.spec import USUAL_CUTOFF
from hpcbench.sources import find_files

# Bytes in the store, compressed, measured with generated crystals of 20 atoms without symmetry:
# for a row with its path; for each pair of an atom of the cell and one of the supercell; for the
# frequencies of a branch.
ROW_BYTES, PAIR_BYTES, BRANCH_BYTES = 12e3, 65.0, 1.4e3
# Seconds until all ranks compute (start of Python, reading the list, loading and testing the
# potential), and at the end.
START_AND_END = 300.0
# Wall times are rounded up to a multiple of so many seconds.
WALLTIME_STEP = 600.0


@dataclass(frozen=True)
class Span:
    """Predicted time of the work on a number of ranks.

    Attributes
    ----------
    ranks : int
        Number of ranks that share the work.
    seconds : float
        Seconds until the last rank ends.
    busy : float
        Share of the ranks' time until then in which they have work.
    walltime : float
        Seconds to request from a queue, with the uncertainty, start and end.
    """

    ranks: int
    seconds: float
    busy: float
    walltime: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted costs of a run.

    Attributes
    ----------
    listed : int
        Number of different crystals and unreadable entries in the sources.
    finished : int
        Number of these that have a result in the store.
    aside : dict
        Number of crystals that will not be computed, by the kind of the reason.
    names : list of str
        Names of the ncrystals crystals to compute; the arrays below are in their order.
    natoms : ndarray, shape (ncrystals,)
        Atoms in their cells.
    works : list of Work
        The work in them.
    seconds : ndarray, shape (ncrystals,)
        Predicted seconds of a rank.
    rates : CostModel
        Rates behind the seconds.
    pass_bytes : float or None
        Memory in bytes that a forward pass on the largest supercell takes; ``None`` where it is
        not known of the potential.
    store_bytes : ndarray, shape (ncrystals,)
        Approximate bytes of their rows in the store.
    spans : list of Span
        Predicted times by number of ranks.
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
        """Return the total in seconds of a rank, and its lower and upper bound."""
        total = float(self.seconds.sum())
        return total, total / self.rates.factor, total * self.rates.factor

    @property
    def largest(self) -> Work:
        """Return the work with the largest supercell, by edges."""
        return max(self.works, key=lambda work: work.largest)


def predict(
    config: RunConfig, rates: CostModel, finished: Collection[str], ranks: Sequence[int]
) -> Prediction:
    """Read the sources as a run does, and predict its costs.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    rates : CostModel
        Rates that turn work into seconds.
    finished : collection of str
        Ids of crystals that have a result.
    ranks : sequence of int
        Numbers of ranks for which the wall time is predicted.

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
    spec = spec_of(config.model)
    per_edge = spec.bytes_per_edge and spec.bytes_per_edge * (spec.cutoff / USUAL_CUTOFF) ** 3
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
    """Return the approximate bytes of rows in the store.

    Parameters
    ----------
    natoms : ndarray, shape (ncrystals,)
        Atoms of the cells.
    supercell_atoms : ndarray, shape (ncrystals,)
        Atoms of the supercells.
    """
    return ROW_BYTES + PAIR_BYTES * natoms * supercell_atoms + BRANCH_BYTES * 3 * natoms


def span(seconds: NDArray[np.float64], ranks: int, largest: int, factor: float) -> Span:
    """Divide the work among ranks as a run does, and predict the end of the last rank.

    Parameters
    ----------
    seconds : ndarray
        Predicted seconds of each crystal.
    ranks : int
        Number of ranks.
    largest : int
        Most crystals in a block, the setting ``block``.
    factor : float
        Factor by which the sum may be wrong.
    """
    blocks = make_blocks(range(len(seconds)), list(seconds), ranks, largest)
    ends = [0.0] * ranks
    for block in blocks:
        heapq.heappush(ends, heapq.heappop(ends) + float(seconds[list(block.rows)].sum()))
    last = max(ends)
    busy = float(seconds.sum()) / (ranks * last) if last else 1.0
    steps = math.ceil((last * factor + START_AND_END) / WALLTIME_STEP)
    return Span(ranks, last, busy, steps * WALLTIME_STEP)
