"""Pairs of edges: the two directions of a bond, and the two bonds of an angle."""

from __future__ import annotations

import torch

from hpcbench.errors import EvaluationError

# In A: how well an edge and its reverse agree.
SAME_VECTOR = 1e-6

# Directions along which the edges between two atoms are ordered. Two edges that differ by a lattice
# vector may be level along one of them, hardly along all.
ORDERS = ((0.6180339887, 0.4142135624, 0.7320508076), (0.2360679775, 0.8284271247, 0.1415926536))


def reverses(edges: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return for each edge the index of the edge that leads back.

    Parameters
    ----------
    edges : Tensor, shape (2, nedges), int64
        Centre and neighbour atom.
    vectors : Tensor, shape (nedges, 3), float64
        From centre to neighbour, in A.

    Raises
    ------
    EvaluationError
        If some edge has none.

    Notes
    -----
    The edges from one atom to another are sorted by their component along a direction, and those
    that lead back by the opposite of theirs: in the two orders an edge and its reverse have the
    same place. Whether they do is checked.
    """
    centre, neighbour = edges
    natoms = int(edges.max()) + 1 if edges.numel() else 0
    for order in ORDERS:
        along = vectors @ torch.tensor(order, dtype=vectors.dtype, device=vectors.device)
        there = _sorted(centre * natoms + neighbour, along)
        back = _sorted(neighbour * natoms + centre, -along)
        found = torch.empty_like(there)
        found[there] = back
        opposite = (vectors + vectors.index_select(0, found)).abs().amax(1) < SAME_VECTOR
        same = (centre == neighbour.index_select(0, found)) & (
            neighbour == centre.index_select(0, found)
        )
        if bool((opposite & same).all()):
            return found
    raise EvaluationError("edges that do not lead back: atoms too close to a cutoff to tell")


def _sorted(pairs: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Order by pairs of atoms, and within a pair along a direction."""
    order = torch.argsort(along, stable=True)
    return order[torch.argsort(pairs.index_select(0, order), stable=True)]


def pairs_at_centres(centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all ordered pairs of different edges of one centre, as indices of edges.

    Parameters
    ----------
    centre : Tensor, shape (nedges,), int64
        Ascending.

    Returns
    -------
    first, second : Tensor, shape (npairs,), int64
        Sorted by the first.
    """
    _, place, counts = torch.unique_consecutive(centre, return_inverse=True, return_counts=True)
    begin = counts.cumsum(0) - counts
    partners = counts.index_select(0, place)
    first = torch.repeat_interleave(partners)
    # Where the pairs of each edge begin.
    offset = partners.cumsum(0) - partners
    step = torch.arange(len(first), device=centre.device) - offset.index_select(0, first)
    second = begin.index_select(0, place.index_select(0, first)) + step
    different = first != second
    return first[different], second[different]
