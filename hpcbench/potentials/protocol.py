"""What the program asks of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a potential says of one structure.

    Attributes
    ----------
    energy : float
        Potential energy in eV.
    forces : ndarray, shape (natoms, 3), float64
        Forces in eV/A.
    stress : ndarray, shape (3, 3), float64, or None
        Cauchy stress in eV/A^3, with ASE's sign (negative under compression); ``None`` where
        it was not asked for.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class PotentialInfo:
    """What is written into the store about a potential.

    ``elements`` are the atomic numbers that it knows, or ``None`` where it does not say.
    ``weights_sha256`` is empty for a potential without a weights file.
    """

    name: str
    package: str
    version: str
    weights_sha256: str
    dtype: str
    device: str
    elements: frozenset[int] | None


class Potential(Protocol):
    """A potential energy surface that evaluates many structures in one call."""

    @property
    def info(self) -> PotentialInfo:
        """Name, versions, precision, device."""
        ...

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Energies and forces (and stresses) of all structures, in their order.

        The structures share forward passes as far as the potential's limits allow; the result
        of one does not depend on the others.
        """
        ...
