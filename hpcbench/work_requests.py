"""What the computation of a crystal asks for, piece by piece.

The way of one crystal is written as a generator: it yields a request and is sent the answer, or
is thrown the error, when it is there. So the way of a crystal reads from top to bottom, while
whoever drives many of them (``engine/pipeline.py``, or a plain loop in a test) decides what runs
where and what shares a forward pass.
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
"""Stages of the work on processor cores; that of the relaxation is ``symmetry``."""


@dataclass(frozen=True, eq=False)
class OnCpu:
    """Call ``function(*arguments)`` on a processor core; all are picklable.

    ``stage`` names the kind of work in the run's account of time.
    """

    stage: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Minimise:
    """Follow the forces down to a minimum; answered by ``relaxation.in_flight.Minimum``."""

    start: Start


@dataclass(frozen=True, eq=False)
class ForcesOn:
    """Forces on displaced copies of a supercell; answered by an array (ncopies, natoms, 3).

    ``in_double`` asks for them in double precision. ``linear``: for their change to first order in
    the displacements, which only a ``Differentiable`` potential has.
    """

    copies: DisplacedCopies
    in_double: bool = False
    linear: bool = False


@dataclass(frozen=True, eq=False)
class ResponseTo:
    """Linear response to columns of a crystal; answered by ``potentials.columns.Response``.

    The columns are all real, or all complex. ``in_double`` as above.
    """

    atoms: Atoms
    columns: Columns
    in_double: bool = False


Request = OnCpu | Minimise | ForcesOn | ResponseTo
