"""Requests of the computation of a crystal.

The computation of one crystal is a generator: it yields a request, and receives the answer, or an
error, when that is available. So it reads from top to bottom, while its driver, which handles many
crystals (``engine/pipeline.py``, or a simple loop in a test), chooses where requests run and which
of them share a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.columns import Columns
    from hpcbench.potentials.copies import DisplacedCopies
    from hpcbench.relaxation.in_flight import Start


DISPLACEMENTS, ANALYSIS = "displacements", "analysis"
"""Names of stages of the work on processor cores; that of the relaxation is ``symmetry``."""


@dataclass(frozen=True, eq=False)
class OnCpu:
    """Call ``function(*arguments)`` on a processor core; all are picklable.

    ``stage`` names the kind of work in the account of the run's time.
    """

    stage: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Minimise:
    """Relax to a minimum; the answer is a ``relaxation.in_flight.Minimum``."""

    start: Start


@dataclass(frozen=True, eq=False)
class ForcesOn:
    """Compute forces on displaced copies of a supercell; the answer has shape (ncopies, natoms, 3).

    ``in_double`` requests double precision. ``linear`` requests the change of the forces to first
    order in the displacements, which only a ``Differentiable`` potential can compute.
    """

    copies: DisplacedCopies
    in_double: bool = False
    linear: bool = False


@dataclass(frozen=True, eq=False)
class ResponseTo:
    """Compute the linear response to columns of a crystal; the answer is a ``Response``.

    The columns are all real, or all complex. ``in_double`` requests double precision.
    """

    atoms: Atoms
    columns: Columns
    in_double: bool = False


Request = OnCpu | Minimise | ForcesOn | ResponseTo
