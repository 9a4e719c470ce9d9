"""Crystals with their references, as a store has them, and those that cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcbench.analysis.accuracy.spectra import FrequencyHistogram
from hpcbench.analysis.accuracy.statistics import Array
from hpcbench.analysis.accuracy.values import Values
from hpcbench.analysis.rates import Rate
from hpcbench.store.schema import FAILED


@dataclass(frozen=True, eq=False)
class Pair:
    """One crystal by the potential and by its reference.

    Attributes
    ----------
    id, name, formula : str
        As in the store.
    elements : tuple of str
        Its elements, sorted.
    composition : str
        Its reduced formula, by which polymorphs are found.
    natoms : int
        Atoms of the primitive cell.
    crystal_system : str
        Of the reference, where that has a crystal; else of the potential's.
    potential, reference : Values
        What is compared.
    frequencies : mapping of str to ndarray, shape (6,)
        Sums over modes by set, see :mod:`hpcbench.analysis.accuracy.spectra`; empty if no
        frequencies can be compared.
    problem : str
        Why no frequencies can be compared; else empty.
    """

    id: str
    name: str
    formula: str
    elements: tuple[str, ...]
    composition: str
    natoms: int
    crystal_system: str
    potential: Values
    reference: Values
    frequencies: Mapping[str, Array] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Phase:
    """A crystal as one of the polymorphs of its composition.

    Attributes
    ----------
    id, name, composition : str
        As of a :class:`Pair`.
    spacegroup, natoms : int
        Of the potential's relaxed crystal, and atoms of its primitive cell.
    potential : Values
        By the potential.
    reference : Values or None
        By the reference, where there is one.
    """

    id: str
    name: str
    composition: str
    spacegroup: int
    natoms: int
    potential: Values
    reference: Values | None


@dataclass(frozen=True)
class LeftOut:
    """A crystal that is in no average.

    Attributes
    ----------
    id, name : str
        As in the store.
    kind, reason : str
        Why: in a few words that are counted, and in full.
    """

    id: str
    name: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Compared:
    """A store's crystals against their references.

    Attributes
    ----------
    label : str
        Name of the potential, and of the store where several are of one potential.
    settings : mapping
        Of the store.
    pairs : list of Pair
        In the order of the store.
    left_out : list of LeftOut
        Crystals that failed, have no reference, or whose reference has no values.
    phases : list of Phase
        All crystals with phonons, also those without a reference.
    histogram : FrequencyHistogram
        Of the frequencies on the band path, of all pairs.
    unfinished : int
        Crystals of the run that have no result yet.
    """

    label: str
    settings: Mapping[str, Any]
    pairs: list[Pair]
    left_out: list[LeftOut]
    phases: list[Phase]
    histogram: FrequencyHistogram
    unfinished: int = 0

    @property
    def failed(self) -> Rate:
        """Crystals that the potential could not compute, of those that it was given."""
        count = sum(one.kind.startswith(FAILED) for one in self.left_out)
        return Rate(count, count + len(self.phases))
