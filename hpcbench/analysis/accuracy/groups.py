"""Errors by element, by crystal system and by number of atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hpcbench.analysis.accuracy.frequencies import by_material, sums_over
from hpcbench.analysis.accuracy.pairs import Pair
from hpcbench.analysis.accuracy.quantities import HIGHEST
from hpcbench.analysis.accuracy.spectra import ALL, PRODUCT, SQUARES
from hpcbench.analysis.accuracy.statistics import Estimate, estimate, ratio
from hpcbench.analysis.breakdown import CRYSTAL_SYSTEMS

SIZES = ((1, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 10_000))
"""Numbers of atoms of the primitive cell, first and last of each group."""


@dataclass(frozen=True)
class GroupErrors:
    """Errors of some crystals.

    Attributes
    ----------
    name : str
        What they have in common.
    materials : int
        Their number.
    frequencies : Estimate
        Mean over them of the mean absolute error on the band path, in THz.
    slope : Estimate
        Of their frequencies against the reference's.
    highest : Estimate
        Mean absolute error of the highest frequency, in K.
    """

    name: str
    materials: int
    frequencies: Estimate
    slope: Estimate
    highest: Estimate


def errors_by_element(pairs: list[Pair]) -> list[GroupErrors]:
    """Return the errors of the crystals that hold an element, in alphabetical order.

    A crystal counts for each of its elements.
    """
    names = sorted({element for pair in pairs for element in pair.elements})
    return _by(pairs, names, lambda pair: pair.elements)


def errors_by_crystal_system(pairs: list[Pair]) -> list[GroupErrors]:
    """Return the errors by the crystal system of the reference."""
    return _by(pairs, CRYSTAL_SYSTEMS, lambda pair: (pair.crystal_system,))


def errors_by_size(pairs: list[Pair]) -> list[GroupErrors]:
    """Return the errors by the number of atoms of the primitive cell."""
    names = {size: f"{size[0]}–{size[1]}" for size in SIZES[:-1]}
    names[SIZES[-1]] = f"{SIZES[-1][0]} and more"

    def name_of(pair: Pair) -> tuple[str, ...]:
        return tuple(name for (a, b), name in names.items() if a <= pair.natoms <= b)

    return _by(pairs, names.values(), name_of)


def _by(
    pairs: list[Pair], names: Iterable[str], of: Callable[[Pair], tuple[str, ...]]
) -> list[GroupErrors]:
    groups: dict[str, list[Pair]] = {name: [] for name in names}
    for pair in pairs:
        for name in of(pair):
            if name in groups:
                groups[name].append(pair)
    return [_errors(name, some) for name, some in groups.items() if some]


def _errors(name: str, pairs: list[Pair]) -> GroupErrors:
    sums = sums_over(pairs, ALL)
    highest = [HIGHEST.value(pair.potential) - HIGHEST.value(pair.reference) for pair in pairs]
    known = np.abs(np.array(highest)[np.isfinite(highest)])
    return GroupErrors(
        name,
        len(pairs),
        estimate(by_material(sums), ratio),
        estimate(sums[:, [PRODUCT, SQUARES]], ratio),
        estimate(np.stack([known, np.ones(len(known))], axis=1), ratio),
    )
