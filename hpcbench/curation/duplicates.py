"""Detection of equal crystals in other cells, with other origins or with slightly other positions.

pymatgen's ``StructureMatcher`` decides, with its default tolerances (``ltol=0.2``, ``stol=0.3``,
``angle_tol=5``), as in the benchmarks of generators (CDVAE and others). It compares only crystals
with the same reduced formula and number of atoms in the primitive cell, and with similar lattice
lengths.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.crystal import Crystal
from hpcbench.curation.validation import MIN_VOLUME

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

Formula = tuple[tuple[int, int], ...]
"""Atomic numbers with their counts, divided by their greatest common divisor."""

# Largest ratio of lattice lengths. The matcher's own is 1.2: of 785 pairs of generated crystals of
# one formula and number of atoms it found 475 equal, none of them beyond 1.2
# (tests/test_curation.py).
_LENGTHS = 1.3
# pymatgen examines all lattice points within the longest lattice vector, which takes forever for a
# needle of a thousand A.
_MOST_POINTS = 1e5


@dataclass(frozen=True)
class Candidates:
    """Crystals of one formula.

    Attributes
    ----------
    crystals : list of Crystal
        In the order of the list.
    sets : dict
        Ids of the crystals of each generator, by its label.
    references : list of Crystal
        Known crystals.
    """

    crystals: list[Crystal] = field(default_factory=list)
    sets: dict[str, list[str]] = field(default_factory=dict)
    references: list[Crystal] = field(default_factory=list)


@dataclass(frozen=True)
class Matches:
    """Equal crystals among candidates.

    Attributes
    ----------
    duplicates : dict
        By label and id, the id of the first equal crystal of that generator.
    known : dict
        Names of equal references, by id.
    """

    duplicates: dict[tuple[str, str], str]
    known: dict[str, str]


def formula_of(crystal: Crystal) -> Formula:
    """Return the reduced formula, by atomic numbers."""
    return reduced_formula(crystal.numbers)


def reduced_formula(numbers: NDArray[np.integer[Any]]) -> Formula:
    """Return the reduced formula of atoms, by atomic numbers."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = reduce(math.gcd, counts.tolist())
    return tuple(zip(elements.tolist(), (counts // divisor).tolist(), strict=True))


def candidates_of(
    sets: Mapping[str, Iterable[Crystal]], references: Iterable[Crystal] = ()
) -> list[Candidates]:
    """Group crystals by formula, where they may be equal to others of their set or to a reference.

    Formulas with the most crystals come first, so that ranks can deal them out evenly.

    Parameters
    ----------
    sets : mapping of str to iterable of Crystal
        The crystals of each generator, by its label.
    references : iterable of Crystal
        Known crystals.
    """
    known = defaultdict(list)
    for reference in references:
        known[formula_of(reference)].append(reference)
    by_formula: dict[Formula, dict[str, Crystal]] = defaultdict(dict)
    in_sets: dict[Formula, dict[str, list[str]]] = defaultdict(dict)
    for label, crystals in sets.items():
        of_set: dict[Formula, list[str]] = defaultdict(list)
        for crystal in crystals:
            formula = formula_of(crystal)
            by_formula[formula][crystal.id] = crystal
            of_set[formula].append(crystal.id)
        for formula, ids in of_set.items():
            if len(ids) > 1:
                in_sets[formula][label] = ids
    found = [
        Candidates(list(crystals.values()), in_sets[formula], known[formula])
        for formula, crystals in by_formula.items()
        if in_sets[formula] or known[formula]
    ]
    return sorted(found, key=lambda group: -len(group.crystals))


def matches_of(group: Candidates) -> Matches:
    """Find the equal crystals among candidates.

    The first crystal of a set represents all that are equal to it. Equality within tolerances is
    not transitive, so crystals are compared only with representatives. A crystal that pymatgen
    cannot handle, because it is flat or a needle, is equal to none.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    reduced = {crystal.id: _reduced(crystal) for crystal in group.crystals}
    answers: dict[tuple[str, str], bool] = {}

    def is_same(one: str, other: str) -> bool:
        if (one, other) not in answers:
            answers[one, other] = _is_same(matcher, reduced[one], reduced[other])
        return answers[one, other]

    duplicates: dict[tuple[str, str], str] = {}
    for label, ids in group.sets.items():
        first: list[str] = []
        for key in ids:
            same = next((other for other in first if is_same(other, key)), None)
            if same is None:
                first.append(key)
            else:
                duplicates[label, key] = same
    references = [(reference.name, _reduced(reference)) for reference in group.references]
    known: dict[str, str] = {}
    for key, structure in reduced.items():
        names = (name for name, other in references if _is_same(matcher, other, structure))
        if name := next(names, ""):
            known[key] = name
    return Matches(duplicates, known)


@dataclass(frozen=True)
class _Reduced:
    structure: Structure
    lengths: NDArray[np.float64]


def _reduced(crystal: Crystal) -> _Reduced | None:
    """Return the Niggli-reduced primitive cell, and its lengths at unit volume per atom."""
    from pymatgen.core import Lattice, Structure

    if not abs(np.linalg.det(crystal.cell)) > MIN_VOLUME * crystal.natoms:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure(
                Lattice(crystal.cell),
                crystal.numbers.tolist(),
                crystal.positions,
                coords_are_cartesian=True,
            ).get_reduced_structure("LLL")
            lattice = structure.lattice
            if 4.2 * (1.2 * max(lattice.abc)) ** 3 / lattice.volume > _MOST_POINTS:
                return None
            structure = structure.get_reduced_structure("niggli").get_primitive_structure()
        volume = structure.volume / len(structure)
        return _Reduced(structure, np.sort(structure.lattice.abc) / volume ** (1 / 3))
    except Exception:  # pymatgen raises anything for a strange cell
        return None


def _is_same(matcher: StructureMatcher, one: _Reduced | None, other: _Reduced | None) -> bool:
    if one is None or other is None or len(one.structure) != len(other.structure):
        return False
    ratios = one.lengths / other.lengths
    if max(ratios.max(), (1 / ratios).max()) > _LENGTHS:
        return False
    try:
        return bool(matcher.fit(one.structure, other.structure, skip_structure_reduction=True))
    except Exception:  # the same
        return False
