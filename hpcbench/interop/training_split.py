"""The crystals of a training set: each once, and no composition in two parts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase.data import chemical_symbols
from ase.formula import Formula

from hpcbench.crystal import Crystal
from hpcbench.curation.duplicates import Candidates, matches_of, reduced_formula
from hpcbench.errors import StoreError
from hpcbench.interop.export_files import done_rows
from hpcbench.interop.training_recipe import PARTS, Recipe
from hpcbench.phonons.perturbed import multiples_of_atoms
from hpcbench.store.row_checks import require_relaxed

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

FIELDS = ("numbers", "relaxed_cell", "relaxed_positions", "spacegroup_number")
"""What is read of each crystal."""

NO_SUPERCELL = "no supercell"
"""The kind of reason for a crystal that has none of the wanted number of atoms."""


@dataclass(frozen=True)
class Split:
    """Assign the crystals of a store to the parts of a training set.

    Attributes
    ----------
    parts : dict
        The part of each composition.
    duplicates : dict
        Of crystals that are left out as duplicates: the id of the one that stays, by id.
    crystals : frozenset of str
        Ids of all that were compared.
    """

    parts: Mapping[str, str]
    duplicates: Mapping[str, str]
    crystals: frozenset[str]


def composition_of(row: Mapping[str, Any]) -> str:
    """Return the composition of a crystal as its reduced Hill formula: ``O3SrTi``."""
    counts = {chemical_symbols[z]: count for z, count in reduced_formula(row["numbers"])}
    return str(Formula.from_dict(counts).format("hill"))


def supercell_of(row: Mapping[str, Any], recipe: Recipe) -> tuple[int, int, int]:
    """Return how often a crystal is repeated along its vectors.

    Parameters
    ----------
    row : mapping
        The crystal's row of a store.
    recipe : Recipe
        How many atoms a supercell has.

    Raises
    ------
    StoreError
        If no supercell has so many atoms, or the stored data do not make a crystal.
    """
    require_relaxed(row)
    least, most = recipe.atoms
    multiples = multiples_of_atoms(row["relaxed_cell"], row["relaxed_positions"], least, most)
    if multiples is None:
        raise StoreError(
            f"{NO_SUPERCELL}: a cell of {len(row['numbers'])} atoms has none of {least} to {most}"
        )
    return multiples


def split_of(store: Store, recipe: Recipe) -> Split:
    """Find duplicates among the crystals of a store, and deal out the compositions.

    Crystals are the same if pymatgen's ``StructureMatcher`` says so, as with ``--unique``, and
    their space groups are the same: it takes a slightly distorted crystal for the undistorted one.
    The memory is that of the largest group of crystals with the same composition and space group,
    and of a list of all ids.

    Parameters
    ----------
    store : Store
        The store.
    recipe : Recipe
        The seed, the shares and the size of the supercells.

    Raises
    ------
    StoreError
        If there is not one crystal for the set.
    """
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in done_rows(store, FIELDS):
        try:
            supercell_of(row, recipe)
        except StoreError:
            continue  # it is in no part; its reason is found again when it is written
        groups[composition_of(row)][int(row["spacegroup_number"])].append(row["id"])
    if not groups:
        least, most = recipe.atoms
        raise StoreError(
            f"{store.path}: no crystal with phonons has a supercell of {least} to {most} atoms"
        )
    duplicates: dict[str, str] = {}
    for by_symmetry in groups.values():
        for ids in by_symmetry.values():
            duplicates |= _duplicates(store, ids)
    counts = Counter(
        {
            composition: sum(key not in duplicates for ids in group.values() for key in ids)
            for composition, group in groups.items()
        }
    )
    crystals = (key for group in groups.values() for ids in group.values() for key in ids)
    return Split(deal(counts, recipe.split, recipe.seed), duplicates, frozenset(crystals))


def _duplicates(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """Return the ids of crystals that are the same as another, by the order of the ids."""
    if len(ids) < 2:
        return {}
    rows: Iterator[dict[str, Any]] = done_rows(store[list(ids)], FIELDS)
    crystals = [
        Crystal(
            row["id"],
            row["name"],
            (),
            row["relaxed_cell"],
            row["relaxed_positions"],
            row["numbers"],
        )
        for row in rows
    ]
    # The order of a store depends on when its crystals were finished.
    found = matches_of(Candidates(crystals, {"": sorted(ids)}))
    return {key: same for (_, key), same in found.duplicates.items()}


def deal(counts: Mapping[str, int], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Return the part of each composition.

    Compositions are in an order that follows from their names and the seed, so that few change
    places when crystals are added. Test and validation have as nearly their shares of the crystals
    as whole compositions allow, and at least one composition where there are enough and the share
    is above 0. The rest is for training.

    Parameters
    ----------
    counts : mapping
        The number of crystals of each composition.
    shares : sequence of 3 float
        Of the crystals, in the ``PARTS``; they add up to 1.
    seed : int
        The seed.
    """
    waiting = sorted(
        counts, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest(), reverse=True
    )
    total, parts = sum(counts.values()), {}
    for part, share in reversed(list(zip(PARTS[1:], shares[1:], strict=True))):
        wanted, have = share * total, 0
        # The last composition is for training.
        while wanted > 0 and len(waiting) > 1:
            if have and have + counts[waiting[-1]] / 2 > wanted:
                break
            parts[waiting[-1]] = part
            have += counts[waiting.pop()]
    return parts | dict.fromkeys(waiting, PARTS[0])
