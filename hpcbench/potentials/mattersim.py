"""MatterSim as a potential: batches of structures and displaced supercells, in one forward pass.

The weights are MatterSim's own; the forward pass is re-arranged (``m3gnet.py``), and does without
MatterSim's package.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from hpcbench.package_versions import installed
from hpcbench.potentials.catalogue import LoadRequest
from hpcbench.potentials.checkpoint import bytes_per_edge, model_of, read_checkpoint
from hpcbench.potentials.columns import Columns, Response
from hpcbench.potentials.displaced import displaced_edges, share_list
from hpcbench.potentials.m3gnet_response import LinearisedCrystals
from hpcbench.potentials.memory import (
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
    Linearised,
    PotentialInfo,
    PreparedCopies,
)
from hpcbench.potentials.structures import DisplacedCopies, Structures
from hpcbench.potentials.weights import sha256_of

if TYPE_CHECKING:
    from ase import Atoms

REARRANGED = "re-arranged"
"""The value of ``info.forward_pass``."""


class MatterSim:
    """A MatterSim checkpoint as a :class:`~hpcbench.potentials.protocol.Potential`.

    Parameters
    ----------
    path : Path
        A checkpoint in MatterSim's format.
    name : str
        The name under which it is recorded.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    dtype : str
        ``float32`` or ``float64``: the precision of the network. Neighbours, edge vectors, and
        sums of forces and stresses are in float64 always.
    max_edges : int
        Most edges of a forward pass; a structure above it is refused. 0: found by a probe on
        the device, and what its memory allows.
    elements : frozenset of int, optional
        Atomic numbers that it knows, where these are not all that it has parameters for.
    ranks_on_host : int
        Processes that share this machine's memory.

    Raises
    ------
    PotentialError
        If the file is not a MatterSim checkpoint.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        device: str = "cpu",
        dtype: str = "float32",
        max_edges: int = 0,
        elements: frozenset[int] | None = None,
        ranks_on_host: int = 1,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        precision = {"float32": torch.float32, "float64": torch.float64}[dtype]
        checkpoint = read_checkpoint(path, self.device)
        arguments = checkpoint.arguments
        self._model = model_of(checkpoint, self.device, precision)
        weights = sha256_of(path)
        self.info = PotentialInfo(
            name=name,
            package="mattersim",
            version=installed("mattersim"),
            weights_sha256=weights,
            dtype=dtype,
            device=str(self.device),
            elements=elements or frozenset(range(1, int(arguments["max_z"]) + 1)),
            forward_pass=REARRANGED,
            responds=True,
        )
        by_edge = bytes_per_edge(arguments, precision)
        memory = usable_memory(self.device, ranks_on_host)
        if max_edges:
            self._largest = self.capacity = max_edges
            return
        found = kept_probe(
            (weights, dtype, self.info.forward_pass),
            self.device,
            lambda: self._probe(memory / by_edge),
        )
        self._largest = max(1, int(memory / (found.bytes_per_edge or by_edge)))
        self.capacity = min(found.edges, self._largest)

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

    def linearise(self, batch: Structures) -> Linearised:
        """See the protocol.

        Raises
        ------
        OutOfMemoryError, EvaluationError
            As the protocol says.
        """
        cost = sum(
            self.cost(len(part.numbers), float(torch.linalg.det(part.cells[0]).abs()))
            for part in (batch.part(index, index + 1) for index in range(len(batch)))
        )
        with during_passes(self.device), self._memory_errors(cost if len(batch) > 1 else None):
            state = LinearisedCrystals(self._model, batch)
        return Linearised(state.forces, state.nedges, state)

    def respond(self, linearised: Linearised, columns: Sequence[Columns]) -> list[Response]:
        """See the protocol.

        Raises
        ------
        OutOfMemoryError, EvaluationError
            As the protocol says.
        """
        most = max(len(one) * one.parts for one in columns)
        cost = linearised.cost * most if most > 1 else None
        with during_passes(self.device), self._memory_errors(cost):
            found: list[Response] = linearised.state.respond(columns)
        return found

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

    def _probe(self, largest: float) -> Any:
        with during_passes(self.device):
            return probe(self._probe_pass, self.device, largest)

    def _probe_pass(self, cost: int) -> int:
        """Run a pass of about this cost, and return its cost."""
        batch = made_up_crystals(cost, self.device)
        neighbours = neighbour_list(batch, self._model.cutoff)
        self._model(batch.numbers, neighbours.edges, edge_vectors(batch, neighbours))
        return neighbours.nedges


def load_mattersim(request: LoadRequest) -> MatterSim:
    """Load a MatterSim checkpoint.

    Raises
    ------
    PotentialError
        If the weights are missing, or are not those of MatterSim v1's M3GNet.
    """
    return MatterSim(
        request.weights(),
        request.spec.name,
        request.device,
        request.dtype,
        request.max_edges,
        request.spec.elements,
        request.ranks_on_host,
    )
