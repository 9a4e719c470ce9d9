"""MatterSim as a potential: batches of structures and displaced supercells, in one forward pass.

The weights are MatterSim's own; the forward pass is re-arranged (``m3gnet.py``), or, for an
architecture that is not known there, goes through MatterSim's layers (``layered.py``).
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
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
from hpcbench.potentials.checkpoint import Checkpoint, build_model, read_checkpoint
from hpcbench.potentials.columns import Columns, Response
from hpcbench.potentials.displaced import displaced_edges, share_list
from hpcbench.potentials.layered import LayeredM3GNet
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_response import LinearisedCrystals
from hpcbench.potentials.m3gnet_weights import UnknownArchitectureError
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
    Graph,
    during_passes,
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

REARRANGED, LAYERED = "re-arranged", "MatterSim's layers"
"""The values of ``info.forward_pass``."""

# Memory that MatterSim's own layers take of an edge, in multiples of what the re-arranged pass
# takes: 2.4 for the edge, and 0.08 for each of its triplets (benchmarks/memory.py), of which dense
# crystals have 25 and open ones 5.
COST_OF_A_LAYERED_EDGE = 2.4 + 20 * 0.08


@dataclass(frozen=True, eq=False)
class _Edges:
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
        What each takes of a pass's capacity.
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
        self._model, arguments = _model_and_arguments(checkpoint, self.device, precision)
        rearranged = isinstance(self._model, RearrangedM3GNet)
        self._cost_of_an_edge = 1.0 if rearranged else COST_OF_A_LAYERED_EDGE
        weights = sha256_of(path)
        self.info = PotentialInfo(
            name=name,
            package="mattersim",
            version=version("mattersim"),
            weights_sha256=weights,
            dtype=dtype,
            device=str(self.device),
            elements=elements or frozenset(range(1, int(arguments["max_z"]) + 1)),
            forward_pass=REARRANGED if rearranged else LAYERED,
            responds=rearranged,
        )
        bytes_per_edge = _bytes_per_edge(arguments, precision)
        memory = usable_memory(self.device, ranks_on_host)
        if max_edges:
            self._largest = self.capacity = max_edges
            return
        found = kept_probe(
            (weights, dtype, self.info.forward_pass),
            self.device,
            lambda: self._probe(memory / bytes_per_edge),
        )
        self._largest = max(1, int(memory / (found.bytes_per_edge or bytes_per_edge)))
        self.capacity = min(found.edges, self._largest)

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Energies, forces and, if asked, stresses; see the protocol.

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
        """Edges of a homogeneous structure of this density; see the protocol."""
        if volume <= 0.0:
            return 0.0
        edges = natoms * 4 / 3 * np.pi * self._model.cutoff**3 * natoms / volume
        return float(edges * self._cost_of_an_edge)

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """See the protocol."""
        with during_passes(self.device), self._memory_errors():
            shared = share_list(copies, self._model.cutoff, self.device)
        cost = round(shared.cost * self._cost_of_an_edge)
        return PreparedCopies(copies, cost, shared)

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
        assert isinstance(self._model, RearrangedM3GNet), "info.responds was asked for"
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
                edges = self._edges(batch, first, end)
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

    def _edges(self, batch: Structures, first: int, end: int) -> _Edges:
        part = batch.part(first, end)
        neighbours = neighbour_list(part, self._model.cutoff)
        vectors = edge_vectors(part, neighbours)
        bounds = torch.tensor(part.first_atom, device=self.device)
        # Edges are sorted by centre: those of a structure are a run. One transfer for the batch.
        first_edge = torch.searchsorted(neighbours.edges[0].contiguous(), bounds).cpu().numpy()
        costs = np.diff(first_edge) * self._cost_of_an_edge
        counted = neighbours.counted.cpu().numpy()
        return _Edges(batch, first, part, neighbours.edges, vectors, first_edge, costs, counted)

    def _fill_pass(self, result: BatchEvaluation, edges: _Edges, a: int, b: int) -> None:
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

    def _evaluate_pass(self, result: BatchEvaluation, edges: _Edges, a: int, b: int) -> None:
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
                f"({self._largest}); raise --max-edges if memory allows",
            )

    def _probe(self, largest: float) -> Any:
        with during_passes(self.device):
            return probe(self._probe_pass, self.device, largest)

    def _probe_pass(self, cost: int) -> int:
        """A pass of about this cost; returns what it cost."""
        edges = round(cost / self._cost_of_an_edge)
        batch = made_up_crystals(edges, self.device)
        neighbours = neighbour_list(batch, self._model.cutoff)
        self._model(batch.numbers, neighbours.edges, edge_vectors(batch, neighbours))
        return round(neighbours.nedges * self._cost_of_an_edge)


def _model_and_arguments(
    checkpoint: Checkpoint, device: torch.device, precision: torch.dtype
) -> tuple[RearrangedM3GNet | LayeredM3GNet, Mapping[str, Any]]:
    """The forward pass that fits a checkpoint, and the arguments of its model."""
    arguments = checkpoint.arguments
    with contextlib.suppress(UnknownArchitectureError):
        return RearrangedM3GNet(arguments, checkpoint.weights, device, precision), arguments
    # An older file, whose constants MatterSim knows, or another architecture.
    model, arguments, unexpected = build_model(checkpoint, device)
    if not unexpected:
        with contextlib.suppress(UnknownArchitectureError):
            return RearrangedM3GNet(arguments, model.state_dict(), device, precision), arguments
    return LayeredM3GNet(model, precision), arguments


def _bytes_per_edge(arguments: Mapping[str, Any], dtype: torch.dtype) -> float:
    """Peak memory of a re-arranged pass by edge, as benchmarks/memory.py finds it.

    A block keeps 8 arrays of the width of its features, and some more are in use at a time,
    besides the geometric part; the numbers are fitted to the sizes of the 1M and 5M models.
    """
    units, blocks = int(arguments["units"]), int(arguments["num_blocks"])
    return float(dtype.itemsize * (units * (11 * blocks + 9.5) + 400))
