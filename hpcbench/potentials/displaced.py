"""The edges of displaced copies of a supercell, from one list that all copies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hpcbench.errors import UnsuitableError
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.neighbours import LENGTH_TOLERANCE, edge_vectors, neighbour_list
from hpcbench.potentials.structures import Structures


@dataclass(frozen=True, eq=False)
class SharedList:
    """Hold the neighbours in a perfect supercell, which its displaced copies share.

    Attributes
    ----------
    numbers : Tensor, shape (natoms,), int64
        Atomic numbers.
    edges : Tensor, shape (2, nedges), int64
        Centre and neighbour atom of every edge that some copy might have, sorted by centre.
    vectors : Tensor, shape (nedges, 3), float64
        From centre to neighbour in the perfect supercell, in A.
    cost : int
        Edges of the perfect supercell within the cutoff, which is about that of a copy.
    """

    numbers: torch.Tensor
    edges: torch.Tensor
    vectors: torch.Tensor
    cost: int

    @property
    def natoms(self) -> int:
        """Return the number of atoms in one copy."""
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class CopiesGraph:
    """Edges of displaced copies of one or several supercells, one copy after the other.

    Attributes
    ----------
    numbers : Tensor, shape (natoms,), int64
        Atomic numbers.
    edges : Tensor, shape (2, nedges), int64
        Centre and neighbour atom, sorted by centre.
    vectors : Tensor, shape (nedges, 3), float64
        From centre to neighbour, in A.
    """

    numbers: torch.Tensor
    edges: torch.Tensor
    vectors: torch.Tensor


def share_list(
    copies: DisplacedCopies, cutoff: float, device: torch.device | str = "cpu"
) -> SharedList:
    """Build the list that all copies of a supercell share.

    Parameters
    ----------
    copies : DisplacedCopies
        The copies.
    cutoff : float
        Longest edge of a copy, in A.
    device : torch.device or str
        Where the list is put.

    Raises
    ------
    UnsuitableError
        If the supercell is so flat that its neighbours cannot be listed.
    """
    natoms = copies.natoms
    perfect = Structures(
        torch.as_tensor(copies.numbers, dtype=torch.int64, device=device),
        torch.as_tensor(copies.positions, dtype=torch.float64, device=device),
        torch.as_tensor(copies.cell, dtype=torch.float64, device=device)[None],
        torch.zeros(natoms, dtype=torch.int64, device=device),
        (0, natoms),
    )
    # Only one atom of a copy moves, so no vector changes by more than one displacement. The
    # tolerance comes twice: lengths at the very end must not be lost to rounding.
    reach = copies.largest_displacement
    found = neighbour_list(perfect, cutoff + reach + LENGTH_TOLERANCE)
    if not bool(found.counted.all()):
        raise UnsuitableError("cell", "its supercell is too flat for a list of neighbours")
    vectors = edge_vectors(perfect, found)
    cost = int(_is_within(vectors, cutoff).sum())
    return SharedList(perfect.numbers, found.edges, vectors, cost)


def displaced_edges(
    parts: Sequence[tuple[SharedList, DisplacedCopies, int, int]], cutoff: float
) -> CopiesGraph:
    """Return the edges of some displaced copies of each supercell.

    Parameters
    ----------
    parts : sequence of (SharedList, DisplacedCopies, int, int)
        What copies of a supercell share, the copies, and the first and the end of those wanted.
    cutoff : float
        Longest edge, in A.

    Notes
    -----
    They are the edges that a fresh list of each displaced supercell has: those whose length in
    the copy is within the cutoff. An edge that moves by the displacement has the perfect
    vector plus or minus that displacement, all others keep theirs.
    """
    with torch.no_grad():
        natoms = 0
        pieces: list[tuple[torch.Tensor, ...]] = []
        for shared, copies, first, end in parts:
            device = shared.vectors.device
            edges, vectors = _displaced(
                shared,
                torch.as_tensor(copies.atoms[first:end], dtype=torch.int64).to(device),
                torch.as_tensor(copies.displacements[first:end], dtype=torch.float64).to(device),
                cutoff,
            )
            pieces.append((shared.numbers.repeat(end - first), edges.add_(natoms), vectors))
            natoms += (end - first) * shared.natoms
        numbers, all_edges, all_vectors = zip(*pieces, strict=True)
        return CopiesGraph(torch.cat(numbers), torch.cat(all_edges, dim=1), torch.cat(all_vectors))


def _displaced(
    shared: SharedList, atoms: torch.Tensor, displacements: torch.Tensor, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges and vectors of all copies in which these atoms are displaced."""
    centres, neighbours = shared.edges
    # +1 where the neighbour moves, -1 where the centre does; an edge between an atom and its
    # own image moves as a whole.
    sign = (neighbours == atoms[:, None]).to(torch.int8) - (centres == atoms[:, None]).to(
        torch.int8
    )
    copy, edge = sign.nonzero(as_tuple=True)
    moved = shared.vectors.index_select(0, edge)
    moved += displacements.index_select(0, copy) * sign[copy, edge, None]
    keep = _is_within(shared.vectors, cutoff).repeat(len(atoms), 1)
    stays = _is_within(moved, cutoff)
    keep[copy, edge] = stays
    place = keep.flatten().cumsum(0).view_as(keep)[copy[stays], edge[stays]] - 1

    copy, edge = keep.nonzero(as_tuple=True)
    edges = shared.edges.index_select(1, edge)
    edges += copy * shared.natoms
    vectors = shared.vectors.index_select(0, edge)
    vectors.index_copy_(0, place, moved[stays])
    return edges, vectors


def _is_within(vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
    return (vectors * vectors).sum(1) <= (cutoff + LENGTH_TOLERANCE) ** 2
