"""MatterSim as a potential.

The weights are MatterSim's own; the forward pass is re-arranged (``m3gnet.py``), and does without
MatterSim's package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hpcbench.package_versions import installed
from hpcbench.potentials.checkpoint import bytes_per_edge, model_of, read_checkpoint
from hpcbench.potentials.columns import Columns, Response
from hpcbench.potentials.edge_potential import EdgePotential
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_response import LinearisedCrystals
from hpcbench.potentials.passes import during_passes
from hpcbench.potentials.protocol import Linearised, PotentialInfo
from hpcbench.potentials.spec import LoadRequest
from hpcbench.potentials.structures import Structures
from hpcbench.potentials.weights import sha256_of

REARRANGED = "re-arranged"
"""The value of ``info.forward_pass``."""


class MatterSim(EdgePotential):
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

    _model: RearrangedM3GNet

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
        where = torch.device(device)
        precision = {"float32": torch.float32, "float64": torch.float64}[dtype]
        checkpoint = read_checkpoint(path, where)
        arguments = checkpoint.arguments
        info = PotentialInfo(
            name=name,
            package="mattersim",
            version=installed("mattersim"),
            weights_sha256=sha256_of(path),
            dtype=dtype,
            device=str(where),
            elements=elements or frozenset(range(1, int(arguments["max_z"]) + 1)),
            forward_pass=REARRANGED,
            responds=True,
        )
        super().__init__(
            model_of(checkpoint, where, precision),
            info,
            where,
            bytes_per_edge(arguments, precision),
            max_edges,
            ranks_on_host,
        )

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
