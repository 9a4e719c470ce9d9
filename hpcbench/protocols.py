"""The protocols: stages of the relaxation, cell of the phonons, and criterion of the verdict.

``phononbench`` follows the scripts of PhononBench (arXiv 2512.21227,
github.com/xqh19970407/PhononBench), whose relaxation is ``relax_structure`` of Loew et al.
(github.com/hyllios/utils, ``benchmark_ph/umlip.py``); ``robust`` avoids the effect of residual
strain on their labels (docs/concepts/protocols.md). ``loew`` and ``lee-xia`` are those of two
papers that measure potentials by phonons of DFT: Loew et al., npj Comput. Mater. 11, 178 (2025),
and Lee, Hegde, Wolverton, Xia, arXiv 2407.09674.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcbench.criteria import EXACT

# Each round has at least twice the operations of the one before. Of 100 generated crystals 81
# needed one and 19 two.
_ROUNDS_TO_FIXED_POINT = 8


DISPLACEMENT, RESPONSE, BOTH = "displacement", "response", "both"
"""The values of ``--derivative``."""


@dataclass(frozen=True)
class Stage:
    """One stage of a relaxation.

    Attributes
    ----------
    fmax_aim : float
        Maximum force in eV/A at which the optimiser stops.
    fmax_accept : float
        Maximum force in eV/A at which the result counts as converged.
    steps : int
        Optimiser steps in a round; every round starts a fresh optimiser.
    rounds : int
        Largest number of rounds, if ``symmetry`` asks for several.
    symmetry : str
        ``kept``: one round; the cell is refined to the symmetry found in it, which is kept.
        ``refined``: the same in each round, until ``fmax_aim`` is reached, and refined once more
        after the last one, where the forces are accepted. ``exact``: each round begins with the
        ideal cell, until the relaxed one shows no more symmetry than it has exactly.
    """

    fmax_aim: float
    fmax_accept: float
    steps: int
    rounds: int = 1
    symmetry: Literal["kept", "refined", "exact"] = "kept"


@dataclass(frozen=True)
class Protocol:
    """A named way to compute a verdict.

    Attributes
    ----------
    name : str
        Its name on the command line.
    fmax : float
        Default of ``--fmax`` in eV/A: the maximum force of an accepted relaxation.
    max_steps : int
        Default of ``--max-steps``: optimiser steps in each round.
    primitive_matrix : str
        phonopy's ``primitive_matrix``: ``auto``, or ``P`` for the cell as given.
    criterion : str
        The criterion that gives the verdict; the answers of all others are stored as well.
    supercell : tuple of float
        Default of ``--supercell``: multiples of the cell as given, or a height in A.
    beside : str
        Name of a protocol that is also done, completely; this one continues from its relaxed
        crystal, as after its own first stage.
    literal : bool
        Whether every criterion has an answer, however uncertain, and nothing is computed again, as
        in the scripts of a benchmark.
    derivative : str
        Default of ``--derivative``.
    relax : str
        Default of ``--relax``.
    mesh : tuple of float
        Default of ``--mesh``: three numbers, or a length in A.
    cutoff_frequency : float
        Default of ``--cutoff-frequency`` in THz.
    """

    name: str
    fmax: float
    max_steps: int
    primitive_matrix: str
    criterion: str
    supercell: tuple[float, ...]
    beside: str = ""
    literal: bool = False
    derivative: str = DISPLACEMENT
    relax: str = "full"
    mesh: tuple[float, ...] = (20, 20, 20)
    cutoff_frequency: float = 0.1

    def stages(self, fmax: float, max_steps: int) -> tuple[Stage, ...]:
        """Return the stages of the relaxation.

        Parameters
        ----------
        fmax : float
            Maximum force of an accepted relaxation, in eV/A.
        max_steps : int
            Optimiser steps in each round.
        """
        if self.name == "phononbench":
            return (Stage(fmax / 2, fmax, max_steps, 15, "refined"),)
        if self.name in OF_REFERENCES:
            return (Stage(fmax, fmax, max_steps),)
        coarse = max(0.005, fmax)
        return (
            Stage(coarse, coarse, max_steps),
            Stage(fmax, fmax, max_steps, _ROUNDS_TO_FIXED_POINT, "exact"),
        )


LOEW, LEE_XIA = "loew", "lee-xia"
OF_REFERENCES = (LOEW, LEE_XIA)
"""The protocols of papers that compare potentials with references."""

# In A. Between commensurate q frequencies are interpolated, for which 2x2x2 of a small cell is too
# small: for MgO, Si and AlN with the demo potential, branches are off by 2.3 to 3.4 THz
# (tests/test_supercells.py).
_HIGH_ENOUGH = (12.0,)

# fmt: off
PROTOCOLS = {
    "robust": Protocol("robust", 0.001, 1000, "auto", EXACT, _HIGH_ENOUGH),
    "exact": Protocol("exact", 0.001, 1000, "auto", EXACT, _HIGH_ENOUGH, derivative=RESPONSE),
    "phononbench": Protocol("phononbench", 0.005, 500, "P", "phononbench", (2, 2, 2), literal=True),
    # As many steps as 15 rounds of their script have.
    LOEW: Protocol(
        LOEW, 0.005, 7500, "auto", "loew", _HIGH_ENOUGH, literal=True, cutoff_frequency=0.0
    ),
    LEE_XIA: Protocol(
        LEE_XIA, 0.005, 7500, "auto", "lee-xia", _HIGH_ENOUGH, literal=True, relax="none",
        mesh=(75.0,),
    ),
    "both": Protocol("both", 0.001, 1000, "auto", EXACT, _HIGH_ENOUGH, "phononbench"),
}
# fmt: on
