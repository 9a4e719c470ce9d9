"""The recipe of a training set: what ``hpcbench export --format training`` is asked for.

This module imports nothing heavy, since the command line has its defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpcbench.errors import UsageError

PARTS = ("train", "validation", "test")
"""Parts of a training set."""

VASP, EXTXYZ = "vasp", "extxyz"
"""The values of ``--unlabelled``."""

_MOST_ATOMS = 10_000


@dataclass(frozen=True)
class Recipe:
    """Hold the settings of a training set.

    Attributes
    ----------
    per_crystal : int
        Supercells of each crystal.
    displacement : tuple of 2 float
        Shortest and longest displacement of an atom, in A.
    atoms : tuple of 2 int
        Fewest and most atoms of a supercell.
    seed : int
        Of the displacements and the split.
    split : tuple of 3 float
        Shares of the crystals in the ``PARTS``.
    unlabelled : str
        Empty: supercells have energies, forces and stresses of the store's potential. Else what is
        written without them: ``vasp`` or ``extxyz``.
    """

    per_crystal: int = 6
    displacement: tuple[float, float] = (0.01, 0.05)
    atoms: tuple[int, int] = (100, 200)
    seed: int = 0
    split: tuple[float, float, float] = (0.9, 0.05, 0.05)
    unlabelled: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises
        ------
        UsageError
            With the option and what it takes.
        """
        if self.per_crystal < 1:
            raise UsageError(f"--per-crystal {self.per_crystal}: give at least 1")
        shortest, longest = self.displacement
        if not 0 < shortest <= longest < math.inf:
            raise UsageError(
                f"--displacement {shortest:g} {longest:g}: give the shortest and the longest in A, "
                f"above 0"
            )
        least, most = self.atoms
        if not 1 <= least <= most <= _MOST_ATOMS:
            raise UsageError(
                f"--atoms {least} {most}: give the fewest and the most atoms of a supercell, from "
                f"1 to {_MOST_ATOMS}"
            )
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: give 0 or more")
        if not (self.split[0] > 0 and min(self.split) >= 0 and abs(sum(self.split) - 1) < 1e-6):
            shares = " ".join(f"{share:g}" for share in self.split)
            raise UsageError(
                f"--split {shares}: give the shares of {', '.join(PARTS)}, which add up to 1"
            )
        if self.unlabelled not in ("", VASP, EXTXYZ):
            raise UsageError(f"--unlabelled {self.unlabelled}: give {VASP} or {EXTXYZ}")
