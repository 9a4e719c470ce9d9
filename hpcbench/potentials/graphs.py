"""Graphs of periodic structures for M3GNet potentials: edges, and triplets of edges.

Built here rather than by MatterSim's converter, which rounds positions to single precision and
in later releases mixes up the triplets of structures that share a batch (microsoft/mattersim
#171, #163).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

# MatterSim's tolerance on lengths: an edge is kept up to cutoff + tolerance.
LENGTH_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of one structure or, concatenated, of several.

    Attributes
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    positions : ndarray, shape (natoms, 3)
        Positions in A, wrapped into the cell.
    cells : ndarray, shape (nstructures, 3, 3)
        Lattice vectors as rows, in A.
    structure_of_atom : ndarray, shape (natoms,)
        Which structure an atom belongs to.
    edges : ndarray, shape (2, nedges)
        Centre and neighbour atom of each edge, sorted by centre.
    offsets : ndarray, shape (nedges, 3)
        Lattice translation of the neighbour, in lattice vectors.
    triplets : ndarray, shape (ntriplets, 2)
        Pairs of different edges of one centre, both within the three-body cutoff, sorted by
        the first.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cells: NDArray[np.float64]
    structure_of_atom: NDArray[np.int64]
    edges: NDArray[np.int64]
    offsets: NDArray[np.float64]
    triplets: NDArray[np.int64]

    @property
    def nedges(self) -> int:
        """Number of edges."""
        return self.edges.shape[1]

    @property
    def ntriplets(self) -> int:
        """Number of triplets."""
        return len(self.triplets)


def build_graph(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    cutoff: float,
    threebody_cutoff: float,
) -> Graph:
    """The graph of one periodic structure; lengths in A.

    Every edge within ``cutoff`` is there, with all periodic images, whatever the size and the
    shape of the cell.
    """
    cell = np.ascontiguousarray(cell, dtype=np.float64)
    fractional = np.linalg.solve(cell.T, np.asarray(positions, dtype=np.float64).T).T
    wrapped = np.ascontiguousarray((fractional - np.floor(fractional)) @ cell)
    centres, neighbours, offsets, lengths = find_points_in_spheres(
        wrapped,
        wrapped,
        r=float(cutoff),
        pbc=np.ones(3, dtype=np.int64),
        lattice=cell,
        tol=LENGTH_TOLERANCE,
    )
    # An atom is not its own neighbour, but its periodic images are.
    keep = (centres != neighbours) | (lengths > LENGTH_TOLERANCE)
    order = np.flatnonzero(keep)
    order = order[np.argsort(centres[order], kind="stable")]
    centres, lengths = centres[order].astype(np.int64), lengths[order]
    return Graph(
        numbers=np.asarray(numbers, dtype=np.int64),
        positions=wrapped,
        cells=cell[None],
        structure_of_atom=np.zeros(len(wrapped), dtype=np.int64),
        edges=np.stack([centres, neighbours[order].astype(np.int64)]),
        offsets=offsets[order].astype(np.float64),
        triplets=_triplets(centres, lengths <= threebody_cutoff),
    )


def _triplets(centres: NDArray[np.int64], short: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All ordered pairs of different short edges that have the same centre."""
    edges = np.flatnonzero(short)
    if len(edges) == 0:
        return np.empty((0, 2), dtype=np.int64)
    # Edges of one centre are neighbours in the list: a run of `count` edges from `first`.
    _, first, counts = np.unique(centres[edges], return_index=True, return_counts=True)
    partners = np.repeat(counts, counts)
    own = np.repeat(np.arange(len(edges)), partners)
    start = np.repeat(np.repeat(first, counts), partners)
    position = np.arange(len(own)) - np.repeat(np.cumsum(partners) - partners, partners)
    other = start + position
    different = own != other
    return np.stack([edges[own[different]], edges[other[different]]], axis=1)


def concatenate(graphs: Sequence[Graph]) -> Graph:
    """One graph of several structures, without edges between them."""
    natoms = np.array([len(g.numbers) for g in graphs])
    nedges = np.array([g.nedges for g in graphs])
    nstructures = np.array([len(g.cells) for g in graphs])
    first_atom = np.cumsum(natoms) - natoms
    first_edge = np.cumsum(nedges) - nedges
    first_structure = np.cumsum(nstructures) - nstructures
    return Graph(
        numbers=np.concatenate([g.numbers for g in graphs]),
        positions=np.concatenate([g.positions for g in graphs]),
        cells=np.concatenate([g.cells for g in graphs]),
        structure_of_atom=np.concatenate(
            [g.structure_of_atom + i for g, i in zip(graphs, first_structure, strict=True)]
        ),
        edges=np.concatenate(
            [g.edges + i for g, i in zip(graphs, first_atom, strict=True)], axis=1
        ),
        offsets=np.concatenate([g.offsets for g in graphs]),
        triplets=np.concatenate([g.triplets + i for g, i in zip(graphs, first_edge, strict=True)]),
    )


def split_by_limits(graphs: Sequence[Graph], max_edges: int, max_triplets: int) -> list[list[int]]:
    """Indices of graphs that share a forward pass, in order, within both limits.

    A graph above a limit is alone.
    """
    groups: list[list[int]] = []
    edges = triplets = 0
    for index, graph in enumerate(graphs):
        edges += graph.nedges
        triplets += graph.ntriplets
        if not groups or edges > max_edges or triplets > max_triplets:
            groups.append([])
            edges, triplets = graph.nedges, graph.ntriplets
        groups[-1].append(index)
    return groups
