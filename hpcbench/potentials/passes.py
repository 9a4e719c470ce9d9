"""Prepare the input of a forward pass, and sum its gradient to forces and stresses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.structures import Structures


@dataclass(frozen=True, eq=False)
class Graph:
    """Hold the input of one pass through the model.

    Attributes
    ----------
    numbers : Tensor, shape (natoms,)
        Atomic numbers.
    edges : Tensor, shape (2, nedges)
        Centre and neighbour, sorted by centre.
    vectors : Tensor, shape (nedges, 3), float64
        From centre to neighbour in A.
    """

    numbers: torch.Tensor
    edges: torch.Tensor
    vectors: torch.Tensor


@dataclass(frozen=True, eq=False)
class BatchEdges:
    """The edges of some structures of a batch.

    Attributes
    ----------
    batch : Structures
        The whole batch.
    first : int
        Where the structures begin in it.
    part : Structures
        The structures.
    edges, vectors : Tensor
        As in ``Graph``.
    first_edge : ndarray, shape (nstructures + 1,)
        Where the edges of each structure begin, and their number at the end.
    costs : ndarray, shape (nstructures,)
        What each takes of a pass's capacity: its edges.
    counted : ndarray, shape (nstructures,), bool
        As in ``NeighbourList``.
    """

    batch: Structures
    first: int
    part: Structures
    edges: torch.Tensor
    vectors: torch.Tensor
    first_edge: NDArray[np.int64]
    costs: NDArray[np.float64]
    counted: NDArray[np.bool_]


def edges_of(batch: Structures, first: int, end: int, cutoff: float) -> BatchEdges:
    """Find the edges of structures ``first`` up to ``end`` of a batch.

    Parameters
    ----------
    batch : Structures
        The whole batch.
    first, end : int
        Which structures.
    cutoff : float
        Longest edge, in A.
    """
    part = batch.part(first, end)
    neighbours = neighbour_list(part, cutoff)
    vectors = edge_vectors(part, neighbours)
    bounds = torch.tensor(part.first_atom, device=vectors.device)
    # Edges are sorted by centre: those of a structure are a run. One transfer for the batch.
    first_edge = torch.searchsorted(neighbours.edges[0].contiguous(), bounds).cpu().numpy()
    costs = np.diff(first_edge).astype(np.float64)
    counted = neighbours.counted.cpu().numpy()
    return BatchEdges(batch, first, part, neighbours.edges, vectors, first_edge, costs, counted)


def forces_from(graph: Graph, gradient: torch.Tensor) -> torch.Tensor:
    """Return forces on atoms from the energy's gradient with respect to edge vectors.

    Parameters
    ----------
    graph : Graph
        What went through the model.
    gradient : Tensor, shape (nedges, 3), float64
        In eV/A.

    Returns
    -------
    Tensor, shape (natoms, 3), float64
        In eV/A.
    """
    forces = torch.zeros(len(graph.numbers), 3, dtype=torch.float64, device=gradient.device)
    forces.index_add_(0, graph.edges[0], gradient)
    return forces.index_add_(0, graph.edges[1], gradient, alpha=-1)


def stresses_from(batch: Structures, graph: Graph, gradient: torch.Tensor) -> torch.Tensor:
    """Return Cauchy stresses: a strain maps each edge vector r to r (1 + strain).

    Parameters
    ----------
    batch : Structures
        The structures.
    graph : Graph
        What went through the model.
    gradient : Tensor, shape (nedges, 3), float64
        Of the energy with respect to edge vectors, in eV/A.

    Returns
    -------
    Tensor, shape (nstructures, 3, 3), float64
        In eV/A^3.
    """
    products = graph.vectors[:, :, None] * gradient[:, None, :]
    virials = torch.zeros_like(batch.cells)
    structure = batch.structure_of_atom.index_select(0, graph.edges[0])
    virials.index_add_(0, structure, products)
    volumes = torch.linalg.det(batch.cells).abs()[:, None, None]
    return (virials + virials.transpose(1, 2)) / (2 * volumes)


def ranges_of_passes(costs: NDArray[np.float64], capacity: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of neighbouring structures that share a pass.

    Parameters
    ----------
    costs : ndarray, shape (nstructures,)
        What each takes of a pass; one above the capacity is alone.
    capacity : int
        What a pass holds.
    """
    first, load = 0, 0.0
    for index, cost in enumerate(costs):
        if index > first and load + cost > capacity:
            yield first, index
            first, load = index, 0.0
        load += cost
    yield first, len(costs)


@contextlib.contextmanager
def during_passes(device: torch.device) -> Iterator[None]:
    """Compute products in full precision, whatever the program has set; on a CPU, one thread.

    TF32 or bfloat16 would change forces by a thousandth. Threads gain nothing on graphs of this
    size, and beside other work they make a pass several times slower; a number that the user
    chose is kept.
    """
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    one_thread = device.type == "cpu" and threads > 1 and "OMP_NUM_THREADS" not in os.environ
    if one_thread:
        torch.set_num_threads(1)
    try:
        # A program's own autocast or inference mode would change or break the arithmetic.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        if one_thread:
            torch.set_num_threads(threads)
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
