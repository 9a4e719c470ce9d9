"""Potentials that take edges: batches of structures and displaced supercells in one forward pass.

Neighbours, edge vectors and sums of forces and stresses are made here, in double precision; what
remains of a potential is a function from edge vectors to energies.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.errors import (
    EvaluationError,
    HpcbenchError,
    OutOfMemoryError,
    TooLargeError,
    UnsuitableError,
)
from hpcbench.potentials.displaced import displaced_edges, share_list
from hpcbench.potentials.memory import (
    Probe,
    is_out_of_memory,
    keep_freed_memory,
    kept_probe,
    made_up_crystals,
    probe,
    usable_memory,
)
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.passes import (
    BatchEdges,
    Graph,
    during_passes,
    edges_of,
    forces_from,
    ranges_of_passes,
    stresses_from,
)
from hpcbench.potentials.protocol import (
    BatchEvaluation,
    Evaluation,
    PotentialInfo,
    PreparedCopies,
)
from hpcbench.potentials.spec import DOUBLE, LoadRequest
from hpcbench.potentials.structures import DisplacedCopies, Structures

if TYPE_CHECKING:
    from ase import Atoms


# The probe's crystals are of it, where a potential knows it.
_SILICON = 14


class EdgeModel(Protocol):
    """Energies of atoms as a function of edge vectors, with their gradient.

    The graph is that of a whole batch: no edge leads from one structure to another, so a model need
    not know which atoms belong together.
    """

    @property
    def cutoff(self) -> float:
        """Return the length of the longest edge, in A."""
        ...

    def __call__(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute energies of atoms, and the gradient of their sum.

        Parameters
        ----------
        numbers : Tensor, shape (natoms,), int64
            Atomic numbers.
        edges : Tensor, shape (2, nedges), int64
            Centre and neighbour of each edge, sorted by centre. Both directions of a pair are
            there.
        vectors : Tensor, shape (nedges, 3), float64
            From the centre to the neighbour, in A, none longer than the cutoff.

        Returns
        -------
        energies : Tensor, shape (natoms,), float64
            In eV.
        gradient : Tensor, shape (nedges, 3), float64
            With respect to ``vectors``, in eV/A.
        """
        ...


class EdgePotential:
    """A model on edges as a :class:`~hpcbench.potentials.protocol.Potential`.

    Parameters
    ----------
    model : EdgeModel
        On ``device``.
    info : PotentialInfo
        What is recorded of it.
    device : torch.device
        Where it computes.
    bytes_per_edge : float
        Memory of a forward pass by edge, for where it cannot be measured.
    max_edges : int
        Most edges of a forward pass; a structure above it is refused. 0: found by a probe on
        the device, and what its memory allows.
    ranks_on_host : int
        Processes that share this machine's memory.
    """

    def __init__(
        self,
        model: EdgeModel,
        info: PotentialInfo,
        device: torch.device,
        bytes_per_edge: float,
        max_edges: int = 0,
        ranks_on_host: int = 1,
    ) -> None:
        self.device = device
        if self.device.type == "cpu":
            keep_freed_memory()
        self._model = model
        self.info = info
        memory = usable_memory(self.device, ranks_on_host)
        if max_edges:
            self._largest = self.capacity = max_edges
            return
        found = kept_probe(
            (info.weights_sha256, info.dtype, info.forward_pass),
            self.device,
            lambda: self._probe(memory / bytes_per_edge),
        )
        self._largest = max(1, int(memory / (found.bytes_per_edge or bytes_per_edge)))
        self.capacity = min(found.edges, self._largest)

    @classmethod
    def of(cls, request: LoadRequest, model: EdgeModel, info: PotentialInfo) -> Self:
        """Make the potential of an entry of the table.

        Parameters
        ----------
        request : LoadRequest
            As the loader was given it; its entry says how much memory an edge takes.
        model : EdgeModel
            In the precision and on the device of the request.
        info : PotentialInfo
            What is recorded of it.
        """
        by_edge = request.spec.bytes_per_edge
        assert by_edge is not None, f"{request.spec.name} has no memory by edge in the table"
        by_edge *= 2 if request.dtype == DOUBLE else 1
        device = torch.device(request.device)
        return cls(model, info, device, by_edge, request.max_edges, request.ranks_on_host)

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Evaluate structures in as few passes as possible; see the protocol.

        Parameters
        ----------
        structures : sequence of Atoms
            All are taken as periodic.
        stress : bool
            Whether stresses are wanted.

        Raises
        ------
        UnsuitableError
            If one structure alone is too large.
        EvaluationError
            If the model fails.
        """
        if not structures:
            return []
        batch = Structures.from_atoms(structures, self.device)
        result = self.evaluate_batch(batch, stress=stress)
        if result.problems:
            raise next(iter(result.problems.values()))
        energies, forces = result.energies.cpu().numpy(), result.forces.cpu().numpy()
        tensors: Sequence[Any] = [None] * len(batch)
        if result.stresses is not None:
            tensors = list(result.stresses.cpu().numpy())
        return [
            Evaluation(float(energy), array, tensor)
            for energy, array, tensor in zip(
                energies, np.split(forces, batch.first_atom[1:-1]), tensors, strict=True
            )
        ]

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """See the protocol."""
        result = BatchEvaluation(
            torch.full((len(batch),), torch.nan, dtype=torch.float64, device=self.device),
            torch.full_like(batch.positions, torch.nan),
            torch.full_like(batch.cells, torch.nan) if stress else None,
            {},
        )
        with during_passes(self.device):
            self._fill(result, batch, 0, len(batch))
        return result

    def cost(self, natoms: int, volume: float) -> float:
        """See the protocol: the edges of a homogeneous structure of this density."""
        if volume <= 0.0:
            return 0.0
        return float(natoms * 4 / 3 * np.pi * self._model.cutoff**3 * natoms / volume)

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """See the protocol."""
        with during_passes(self.device), self._memory_errors():
            shared = share_list(copies, self._model.cutoff, self.device)
        return PreparedCopies(copies, shared.cost, shared)

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """See the protocol.

        Raises
        ------
        OutOfMemoryError, EvaluationError
            As the protocol says.
        UnsuitableError
            If a copy alone is above the limit on edges.
        """
        for prepared, _, _ in parts:
            self._require_size(prepared.copies.natoms, prepared.cost)
        ncopies = sum(end - first for _, first, end in parts)
        cost = sum((end - first) * prepared.cost for prepared, first, end in parts)
        with during_passes(self.device), self._memory_errors(cost if ncopies > 1 else None):
            forces = self._forces_pass(parts)
        sizes = [(end - first, prepared.copies.natoms) for prepared, first, end in parts]
        ends = np.cumsum([count * natoms for count, natoms in sizes])
        return [
            part.reshape(*size, 3)
            for part, size in zip(np.split(forces, ends[:-1]), sizes, strict=True)
        ]

    def _forces_pass(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> NDArray[np.float64]:
        # A frame of its own: if the pass fails, all its tensors can be let go.
        displaced = displaced_edges(
            [(prepared.shared, prepared.copies, first, end) for prepared, first, end in parts],
            self._model.cutoff,
        )
        graph = Graph(displaced.numbers, displaced.edges, displaced.vectors)
        _, gradient = self._model(graph.numbers, graph.edges, graph.vectors)
        return forces_from(graph, gradient).cpu().numpy()

    def _fill(self, result: BatchEvaluation, batch: Structures, first: int, end: int) -> None:
        """Evaluate structures ``first`` up to ``end``, in as many passes as need be."""
        problem: HpcbenchError
        try:
            with self._memory_errors():
                edges = edges_of(batch, first, end, self._model.cutoff)
        except (OutOfMemoryError, EvaluationError) as error:
            problem = error
        else:
            for a, b in ranges_of_passes(edges.costs, self.capacity):
                self._fill_pass(result, edges, a, b)
            for index in np.flatnonzero(~edges.counted):
                self._set_aside(
                    result,
                    batch,
                    first + int(index),
                    UnsuitableError(
                        "cell", "its numbers are not finite, or its cell has next to no volume"
                    ),
                )
            return
        if end - first == 1:
            self._set_aside(result, batch, first, problem)
            return
        middle = (first + end) // 2
        self._fill(result, batch, first, middle)
        self._fill(result, batch, middle, end)

    def _fill_pass(self, result: BatchEvaluation, edges: BatchEdges, a: int, b: int) -> None:
        """Evaluate structures ``a`` up to ``b`` in one pass, or in smaller ones if that fails."""
        problem: HpcbenchError
        try:
            if b - a == 1:
                natoms = edges.part.first_atom[b] - edges.part.first_atom[a]
                self._require_size(natoms, int(edges.costs[a]))
            together = float(edges.costs[a:b].sum()) if b - a > 1 else None
            with self._memory_errors(together):
                self._evaluate_pass(result, edges, a, b)
            return
        except (OutOfMemoryError, EvaluationError, UnsuitableError) as error:
            problem = error
        if b - a == 1:
            self._set_aside(result, edges.batch, edges.first + a, problem)
            return
        middle = (a + b) // 2
        self._fill_pass(result, edges, a, middle)
        self._fill_pass(result, edges, middle, b)

    def _evaluate_pass(self, result: BatchEvaluation, edges: BatchEdges, a: int, b: int) -> None:
        part = edges.part.part(a, b)
        rows = slice(edges.first_edge[a], edges.first_edge[b])
        graph = Graph(
            part.numbers, edges.edges[:, rows] - edges.part.first_atom[a], edges.vectors[rows]
        )
        energies, gradient = self._model(graph.numbers, graph.edges, graph.vectors)
        totals = torch.zeros(len(part), dtype=torch.float64, device=self.device)
        first, end = edges.first + a, edges.first + b
        atoms = slice(edges.batch.first_atom[first], edges.batch.first_atom[end])
        result.energies[first:end] = totals.index_add_(0, part.structure_of_atom, energies)
        result.forces[atoms] = forces_from(graph, gradient)
        if result.stresses is not None:
            result.stresses[first:end] = stresses_from(part, graph, gradient)

    def _set_aside(
        self, result: BatchEvaluation, batch: Structures, index: int, problem: HpcbenchError
    ) -> None:
        if isinstance(problem, OutOfMemoryError):
            problem = TooLargeError(str(problem))
        result.problems[index] = problem
        result.energies[index] = torch.nan
        result.forces[batch.first_atom[index] : batch.first_atom[index + 1]] = torch.nan
        if result.stresses is not None:
            result.stresses[index] = torch.nan

    @contextlib.contextmanager
    def _memory_errors(self, cost: float | None = None) -> Iterator[None]:
        """Turn the errors of a forward pass into those of the protocol.

        If memory ended in a pass of several structures, passes are half of its ``cost`` from
        then on.
        """
        try:
            yield
            return
        except HpcbenchError:
            raise
        except Exception as error:
            # Its traceback holds the tensors of the pass: they must be free for the next one.
            traceback.clear_frames(error.__traceback__)
            text = f"{type(error).__name__}: {error}"
            if not is_out_of_memory(error):
                raise EvaluationError(text) from error
        if cost is not None:
            self.capacity = max(1, min(self.capacity, int(cost / 2)))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(f"the memory of {self.device} did not suffice ({text})")

    def _require_size(self, natoms: int, edges: int) -> None:
        if edges > self._largest:
            raise UnsuitableError(
                "too large",
                f"{natoms} atoms have {edges} edges, above the limit of one forward pass "
                f"({self._largest}); if memory allows, raise max_edges (--config)",
            )

    def _probe(self, largest: float) -> Probe:
        with during_passes(self.device):
            return probe(self._probe_pass, self.device, largest)

    def _probe_pass(self, cost: int) -> int:
        """Run a pass of about this cost, and return its cost."""
        elements = self.info.elements or {_SILICON}
        number = _SILICON if _SILICON in elements else min(elements)
        batch = made_up_crystals(cost, self.device, self._model.cutoff, number)
        neighbours = neighbour_list(batch, self._model.cutoff)
        self._model(batch.numbers, neighbours.edges, edge_vectors(batch, neighbours))
        return neighbours.nedges
