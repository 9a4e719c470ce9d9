"""Polymorphs of one composition: their order, and transitions between them at a temperature.

As Lee and Xia (section III D): a crystal's free energy at its fixed volume is its energy plus its
vibrational free energy, A(T) = H + A_vib(T) (their equation 10). Of the crystals of a composition
the one of lowest H is the reference, to which all differences are taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcbench.analysis.accuracy.pairs import Phase
from hpcbench.analysis.accuracy.quantities import MEV_PER_KJ_MOL
from hpcbench.analysis.accuracy.statistics import Array
from hpcbench.analysis.accuracy.values import Values

TEMPERATURES = (0.0, 300.0, 1000.0)
"""In K."""
OFFSET = 10.0
"""In meV/atom: a polymorph is taken to be reachable if its A is less than this above the
reference's, for the errors of density functional theory (Lee and Xia)."""
# Crystals of one composition and space group closer than this are one polymorph that a generator
# has made twice: in meV/atom, and relative to the volume.
_SAME_ENERGY, _SAME_VOLUME = 1.0, 0.01


@dataclass(frozen=True, eq=False)
class Polymorphs:
    """The polymorphs of one composition, the one of lowest H first.

    Attributes
    ----------
    composition : str
        Reduced formula.
    phases : list of Phase
        In ascending order of H.
    enthalpy : ndarray, shape (n,)
        H above that of the first, in meV/atom.
    is_by_reference : bool
        Whether H is the reference's energy; else the potential's.
    potential, reference : dict of float to ndarray, shape (n,)
        A_vib minus that of the first, in meV/atom, by temperature in K; NaN where not known.
    """

    composition: str
    phases: list[Phase]
    enthalpy: Array
    is_by_reference: bool
    potential: dict[float, Array]
    reference: dict[float, Array]

    def order(self, temperature: float) -> list[int]:
        """Return the places of the phases by the potential's A at a temperature, lowest first.

        Those whose A_vib is not known are left out.
        """
        total = self.enthalpy + self.potential[temperature]
        known = np.flatnonzero(np.isfinite(total))
        return [int(place) for place in known[np.argsort(total[known], kind="stable")]]

    def transition(self, vibrational: Array) -> int | None:
        """Return the place of the polymorph to which there may be a transition; ``None`` if none.

        It is the one of lowest A among those less than ``OFFSET`` above the first phase.

        Parameters
        ----------
        vibrational : ndarray, shape (n,)
            A_vib minus that of the first: ``potential`` or ``reference`` at a temperature.
        """
        total = (self.enthalpy + vibrational)[1:]
        if not np.isfinite(total).any():
            return None
        lowest = int(np.nanargmin(total))
        return lowest + 1 if total[lowest] < OFFSET else None


@dataclass(frozen=True)
class Transitions:
    """Transitions at a temperature, by the reference and by the potential.

    Attributes
    ----------
    compositions : int
        Compositions for which both are known.
    reference, potential : int
        Compositions with a transition.
    both : list of (str, str)
        Composition, and the name of the polymorph, to which both predict one.
    """

    compositions: int
    reference: int
    potential: int
    both: list[tuple[str, str]]


def find_polymorphs(phases: Sequence[Phase]) -> list[Polymorphs]:
    """Return the compositions of which there are two or more polymorphs, in alphabetical order.

    H is the reference's energy where all polymorphs of a composition have one, as in the paper;
    else the potential's. Crystals whose energy is not known are left out. Copies are too: of
    crystals of one space group whose energies differ by less than 1 meV/atom and whose volumes by
    less than 1 % the first one counts.
    """
    by_composition: dict[str, list[Phase]] = defaultdict(list)
    for phase in phases:
        by_composition[phase.composition].append(phase)
    found = (_of(name, some) for name, some in sorted(by_composition.items()) if name)
    return [one for one in found if len(one.phases) > 1]


def _of(composition: str, phases: list[Phase]) -> Polymorphs:
    is_by_reference = all(p.reference and math.isfinite(p.reference.energy) for p in phases)
    energies: list[tuple[float, Phase]] = []
    for phase in phases:
        side = phase.reference if is_by_reference else phase.potential
        if side is not None and math.isfinite(side.energy):
            energies.append((1000 * side.energy, phase))
    energies.sort(key=lambda one: one[0])
    kept: list[tuple[float, Phase]] = []
    for energy, phase in energies:
        if not any(_is_copy(phase, other, energy - below) for below, other in kept):
            kept.append((energy, phase))
    some = [phase for _, phase in kept]
    enthalpy = np.array([energy for energy, _ in kept])
    return Polymorphs(
        composition,
        some,
        enthalpy - enthalpy.min(initial=math.inf),
        is_by_reference,
        {t: _vibrational([p.potential for p in some], t) for t in TEMPERATURES},
        {t: _vibrational([p.reference for p in some], t) for t in TEMPERATURES},
    )


def _is_copy(phase: Phase, other: Phase, above: float) -> bool:
    volume = other.potential.volume
    return (
        phase.spacegroup == other.spacegroup
        and above < _SAME_ENERGY
        and abs(phase.potential.volume - volume) < _SAME_VOLUME * volume
    )


def _vibrational(sides: Sequence[Values | None], at: float) -> Array:
    """Return A_vib minus that of the first phase, in meV/atom."""
    values = [
        math.nan
        if side is None
        else side.at("free_energy", at) * MEV_PER_KJ_MOL / max(side.natoms, 1)
        for side in sides
    ]
    return np.array(values) - (values[0] if values else 0.0)


def transitions(found: Sequence[Polymorphs], temperature: float) -> Transitions:
    """Count transitions by the reference and by the potential, at the same H.

    Parameters
    ----------
    found : sequence of Polymorphs
        Those whose H is not the reference's, and whose A_vib is not known of all by both, do not
        count.
    temperature : float
        In K.
    """
    theirs, ours, both, compositions = 0, 0, [], 0
    for one in found:
        sides = one.reference[temperature], one.potential[temperature]
        if not one.is_by_reference or not all(np.isfinite(side).all() for side in sides):
            continue
        compositions += 1
        to = [one.transition(side) for side in sides]
        theirs += to[0] is not None
        ours += to[1] is not None
        if to[0] is not None and to[0] == to[1]:
            both.append((one.composition, one.phases[to[0]].name))
    return Transitions(compositions, theirs, ours, both)


def vibrational_differences(
    found: Sequence[Polymorphs], temperature: float
) -> tuple[Array, Array, Array]:
    """Return all differences to the first phase: of H, of A_vib by reference and by potential.

    Parameters
    ----------
    found : sequence of Polymorphs
        Polymorphs without a known difference on either side are left out.
    temperature : float
        In K.

    Returns
    -------
    ndarray, ndarray, ndarray, each shape (n,)
        In meV/atom.
    """
    parts = [
        np.stack([one.enthalpy[1:], one.reference[temperature][1:], one.potential[temperature][1:]])
        for one in found
    ]
    joined = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    enthalpy, theirs, ours = joined[:, np.isfinite(joined).all(axis=0)]
    return enthalpy, theirs, ours
