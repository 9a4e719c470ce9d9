"""MatterSim: M3GNet's forward pass on batches of structures, in float32 or float64.

The layers and weights are MatterSim's own. Its outer ``forward`` is written out here, since it
casts parts of its input to single precision; see :func:`total_energies`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

from hpcbench.errors import PotentialError, UnsuitableError
from hpcbench.potentials.graphs import Graph, build_graph, concatenate, split_by_limits
from hpcbench.potentials.protocol import Evaluation, PotentialInfo
from hpcbench.potentials.weights import sha256_of

if TYPE_CHECKING:
    from ase import Atoms


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
        ``float32`` or ``float64``; the precision of everything after the neighbour list, which
        is always built in float64.
    max_edges, max_triplets : int
        Limits of one forward pass; a structure above them is refused.
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
        max_triplets: int = 0,
        elements: frozenset[int] | None = None,
        ranks_on_host: int = 1,
    ) -> None:
        self._device = torch.device(device)
        self._dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        self._model = _load(path, self._device).to(self._dtype)
        arguments = self._model.model_args
        self._cutoff = float(arguments["cutoff"])
        self._threebody_cutoff = float(arguments["threebody_cutoff"])
        limit_edges, limit_triplets = _limits(self._device, dtype, ranks_on_host)
        self._max_edges = max_edges or limit_edges
        self._max_triplets = max_triplets or limit_triplets
        self.info = PotentialInfo(
            name=name,
            package="mattersim",
            version=version("mattersim"),
            weights_sha256=sha256_of(path),
            dtype=dtype,
            device=str(self._device),
            elements=elements or frozenset(range(1, int(arguments["max_z"]) + 1)),
        )

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Energies, forces and, if asked, stresses; see the protocol.

        Raises
        ------
        UnsuitableError
            If one structure alone is above the limits on edges or triplets.
        """
        with _one_thread(self._device):
            return self._evaluate(structures, stress)

    def _evaluate(self, structures: Sequence[Atoms], stress: bool) -> list[Evaluation]:
        pass_edges, pass_triplets = self._pass_size()
        results: list[Evaluation] = []
        waiting: list[Graph] = []
        # Graphs are built as they are needed: memory follows the limits, not the list.
        for structure in structures:
            graph = self._graph(structure)
            together = [*waiting, graph]
            if len(split_by_limits(together, pass_edges, pass_triplets)) > 1:
                results += self._forward(waiting, stress)
                waiting = []
            waiting.append(graph)
        if waiting:
            results += self._forward(waiting, stress)
        return results

    def _graph(self, structure: Atoms) -> Graph:
        graph = build_graph(
            structure.numbers,
            structure.positions,
            structure.cell[:],
            self._cutoff,
            self._threebody_cutoff,
        )
        if graph.nedges > self._max_edges or graph.ntriplets > self._max_triplets:
            raise UnsuitableError(
                "too large",
                f"{len(structure)} atoms have {graph.nedges} edges and {graph.ntriplets} "
                f"triplets, above the limits of one forward pass ({self._max_edges} and "
                f"{self._max_triplets}); raise --max-edges and --max-triplets if memory allows",
            )
        return graph

    def _pass_size(self) -> tuple[int, int]:
        if self._device.type == "cpu":
            # On a CPU a pass that falls out of the cache is slower than several small ones.
            return min(CPU_PASS_EDGES, self._max_edges), min(CPU_PASS_TRIPLETS, self._max_triplets)
        return self._max_edges, self._max_triplets

    def _forward(self, graphs: Sequence[Graph], stress: bool) -> list[Evaluation]:
        graph = concatenate(graphs)
        positions = self._tensor(graph.positions).requires_grad_(True)
        cells = self._tensor(graph.cells)
        strain = torch.zeros_like(cells, requires_grad=stress)
        energies = total_energies(
            self._model,
            numbers=torch.from_numpy(graph.numbers).to(self._device),
            positions=positions,
            cells=cells,
            strain=strain if stress else None,
            structure_of_atom=torch.from_numpy(graph.structure_of_atom).to(self._device),
            edges=torch.from_numpy(graph.edges).to(self._device),
            offsets=self._tensor(graph.offsets),
            triplets=torch.from_numpy(graph.triplets).to(self._device),
        )
        wanted = [positions, strain] if stress else [positions]
        gradients = torch.autograd.grad(energies.sum(), wanted)
        energy = energies.detach().double().cpu().numpy()
        forces = -gradients[0].double().cpu().numpy()
        ends = np.cumsum([len(g.numbers) for g in graphs])
        by_structure = np.split(forces, ends[:-1])
        stresses: list[Any] = [None] * len(graphs)
        if stress:
            volumes = np.abs(np.linalg.det(graph.cells))
            tensor = gradients[1].double().cpu().numpy() / volumes[:, None, None]
            stresses = list((tensor + tensor.transpose(0, 2, 1)) / 2)
        return [
            Evaluation(float(e), f, s)
            for e, f, s in zip(energy, by_structure, stresses, strict=True)
        ]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device=self._device, dtype=self._dtype)


# Where a pass falls out of the cache it becomes slower than several small ones: measured on a CPU
# with supercells of silicon, diamond, NaCl and SrTiO3 of 16 to 80 atoms.
CPU_PASS_EDGES = 3_000
CPU_PASS_TRIPLETS = 50_000

# Peak memory of a forward and backward pass in float32 for a model of the 5M's size, as
# benchmarks/memory.py measures it, rounded up.
BYTES_PER_EDGE = 150_000
BYTES_PER_TRIPLET = 3_000
# Of the memory that a rank may use, for edges and for triplets each.
SHARE_OF_MEMORY = 0.4


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One thread for a pass on a CPU, unless the user chose a number.

    Threads gain nothing on graphs of this size, and beside other work they make a pass several
    times slower.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _limits(device: torch.device, dtype: str, ranks_on_host: int) -> tuple[int, int]:
    """Edges and triplets of one pass that fit into a rank's part of the memory."""
    if device.type == "cuda":
        memory, _ = torch.cuda.mem_get_info(device)
    else:
        memory = psutil.virtual_memory().available // ranks_on_host
    scale = 1 if dtype == "float32" else 2
    usable = SHARE_OF_MEMORY * memory / scale
    return int(usable / BYTES_PER_EDGE), int(usable / BYTES_PER_TRIPLET)


def total_energies(
    model: M3Gnet,
    *,
    numbers: torch.Tensor,
    positions: torch.Tensor,
    cells: torch.Tensor,
    strain: torch.Tensor | None,
    structure_of_atom: torch.Tensor,
    edges: torch.Tensor,
    offsets: torch.Tensor,
    triplets: torch.Tensor,
) -> torch.Tensor:
    """Energies in eV of all structures of a batch, shape (nstructures,).

    The same steps as ``mattersim.forcefield.m3gnet.m3gnet.M3Gnet.forward`` (MatterSim 1.2.3),
    in the precision of ``positions``. Arguments are as in
    :class:`~hpcbench.potentials.graphs.Graph`; ``strain`` (nstructures, 3, 3) deforms cells and
    positions, so that its gradient gives the stress.
    """
    if strain is not None:
        deformation = torch.eye(3, dtype=cells.dtype, device=cells.device) + strain
        cells = cells @ deformation
        positions = torch.einsum("ai,aij->aj", positions, deformation[structure_of_atom])
    centre, neighbour = edges
    translations = torch.einsum("ei,eij->ej", offsets, cells[structure_of_atom[centre]])
    vectors = positions[centre] - (positions[neighbour] + translations)
    lengths = torch.linalg.norm(vectors, dim=1)
    first, second = triplets[:, 0], triplets[:, 1]
    cosines = (vectors[first] * vectors[second]).sum(1) / (lengths[first] * lengths[second])
    # MatterSim's own bound: the derivative of the arc cosine is infinite at 1.
    cosines = cosines.clamp(-1.0 + 1e-7, 1.0 - 1e-7)
    three_basis = model.sbf(lengths[second], torch.acos(cosines))

    one_hot = torch.nn.functional.one_hot(numbers, model.max_z + 1).to(positions.dtype)
    atom_features = model.atom_embedding(one_hot)
    radial = model.rbf(lengths)
    edge_features = model.edge_encoder(radial)
    unused = torch.empty(0, device=positions.device)
    for block in model.graph_conv:
        atom_features, edge_features = block(
            atom_features,
            edge_features,
            radial,
            edges,
            three_basis,
            triplets,
            lengths.unsqueeze(-1),
            unused,
            unused,
            unused,
            total_num_atoms=len(numbers),
            total_num_bonds=edges.shape[1],
            three_body_edge_map=first,
        )
    atomic = model.normalizer(model.final(atom_features).view(-1), numbers)
    return torch.zeros(len(cells), dtype=atomic.dtype, device=atomic.device).index_add(
        0, structure_of_atom, atomic
    )


def _load(path: Path, device: torch.device) -> M3Gnet:
    hint = "give a checkpoint as MatterSim's Potential.save writes it"
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise PotentialError(f"{path}: not a readable checkpoint ({error}); {hint}") from error
    if not isinstance(checkpoint, dict) or not {"model", "model_args"} <= checkpoint.keys():
        raise PotentialError(f"{path}: not a MatterSim checkpoint; {hint}")
    try:
        model = M3Gnet(device=str(device), **checkpoint["model_args"])
        result = model.load_state_dict(checkpoint["model"], strict=False)
    except (RuntimeError, TypeError) as error:
        raise PotentialError(
            f"{path}: its weights do not fit MatterSim's M3GNet: {error}"
        ) from error
    # Buffers may be missing from older files, since they are constants; weights may not.
    missing = set(result.missing_keys) & {key for key, _ in model.named_parameters()}
    if missing:
        raise PotentialError(f"{path}: weights are missing: {', '.join(sorted(missing))}")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device).eval()
