"""What a run has to do, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcbench.crystal import Crystal
from hpcbench.symmetry import symmetry_dataset

# Of a typical potential; the cost needs to be right only in proportion.
CUTOFF = 5.0
RELAXATION_STEPS = 80
# What limits a rank's memory where crystals are tiny.
MOST_UNDER_WAY = 1024


@dataclass(frozen=True)
class Block:
    """Crystals that one rank takes together.

    Attributes
    ----------
    rows : tuple of int
        In the list of crystals.
    seconds : float
        Predicted for one rank.
    suspect : bool
        They have been with a process when it died, and are computed by an understudy.
    """

    rows: tuple[int, ...]
    seconds: float = 0.0
    suspect: bool = False


def most_under_way(crystals: int, ranks: int) -> int:
    """How many crystals a rank may have under way at once.

    What one rank has leased no other can compute: with several ranks, none takes more than a
    quarter of its share at a time, so that all of them come to their end together.
    """
    if ranks == 1:
        return MOST_UNDER_WAY
    return min(MOST_UNDER_WAY, max(2, math.ceil(crystals / (4 * ranks))))


def predict_cost(crystal: Crystal, supercell_atoms: int, symmetry_tolerance: float) -> float:
    """Edges that the potential will have to evaluate for a crystal.

    The relaxation takes some steps on the cell; the phonons take about six displacements an
    atom, divided by the order of the point group, on the supercell.
    """
    volume = abs(float(np.linalg.det(crystal.cell)))
    if volume == 0.0:
        return 0.0
    density = crystal.natoms / volume
    edges_per_atom = 4 / 3 * math.pi * CUTOFF**3 * density
    displacements = math.ceil(6 * crystal.natoms / _point_group_order(crystal, symmetry_tolerance))
    atoms = RELAXATION_STEPS * crystal.natoms + displacements * supercell_atoms
    return edges_per_atom * atoms


def _point_group_order(crystal: Crystal, tolerance: float) -> int:
    dataset = symmetry_dataset(crystal.cell, crystal.positions, crystal.numbers, tolerance)
    return 1 if dataset is None else len(np.unique(dataset.rotations, axis=0))


def make_blocks(
    rows: Sequence[int], costs: Sequence[float], ranks: int, largest: int = 0
) -> list[Block]:
    """Share rows out in blocks, most expensive first.

    Longest first keeps all ranks busy to the end on a skewed list. A block costs at most a
    small share of a rank's work, so that cheap crystals go together and expensive ones alone.

    Parameters
    ----------
    rows : sequence of int
        Rows of the list of crystals that want computing.
    costs : sequence of float
        Their predicted costs.
    ranks : int
        Number of ranks that will share the work.
    largest : int
        Most crystals in a block; 0 to decide by the length of the list.
    """
    order = sorted(range(len(rows)), key=lambda i: (-costs[i], rows[i]))
    most = largest or min(64, max(1, math.ceil(len(rows) / (16 * ranks))))
    share = sum(costs) / (8 * ranks)
    blocks: list[Block] = []
    block: list[int] = []
    cost = 0.0
    for i in order:
        if block and (len(block) >= most or cost + costs[i] > share):
            blocks.append(Block(tuple(block)))
            block, cost = [], 0.0
        block.append(rows[i])
        cost += costs[i]
    if block:
        blocks.append(Block(tuple(block)))
    return blocks
