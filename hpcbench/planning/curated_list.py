"""What of a list counts: duplicates and what is not sampled are set aside, known ones are marked.

The comparisons in it are apart, so that ranks can share them:

    groups = groups_to_compare(listing, config, references)
    listing = apply(listing, config, all_matches([matches(groups, rank)]))
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.curation.duplicates import (
    Candidates,
    Formula,
    Matches,
    candidates_of,
    formula_of,
    matches_of,
)
from hpcbench.curation.sampling import sample
from hpcbench.errors import SetAsideError, SetupError, SourceError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import NOVELTY, Origin
from hpcbench.planning.crystal_list import CrystalList, ListedCrystal, read_records
from hpcbench.sources import SourceFile, find_files

KNOWN, NOVEL = "known: ", "novel"
DUPLICATE, NOT_SAMPLED = "duplicate", "not sampled"


@dataclass(frozen=True)
class References:
    """Known crystals: how many were read, and those of the formulas that were asked for."""

    number: int
    crystals: list[Crystal]


def curated(config: RunConfig, listing: CrystalList) -> CrystalList:
    """A list with what a run sets aside and marks in it, by this process alone.

    Raises
    ------
    SetupError, SourceError
        If the known crystals cannot be read.
    """
    if not is_wanted(config):
        return listing
    limits = Limits(config.read_limits)
    files = find_files(config.against, limits)
    share = read_references(files, formulas_of(listing), 0, 1, limits)
    references = all_references(config, [share])
    found = matches(groups_to_compare(listing, config, references), 0)
    return apply(listing, config, all_matches([found]))


def is_wanted(config: RunConfig) -> bool:
    """Whether a run sets anything aside, or marks it."""
    return bool(config.unique or config.sample or config.max_atoms or config.against)


def formulas_of(listing: CrystalList) -> set[Formula]:
    """The reduced formulas of a list."""
    return {formula_of(crystal) for crystal in _comparable(listing)}


def read_references(
    files: Sequence[SourceFile],
    formulas: Collection[Formula],
    rank: int,
    size: int,
    limits: Limits = DEFAULT,
) -> References | SetupError:
    """One rank's share of known crystals; of other formulas than these they do not matter.

    An error is returned and not raised: the other ranks are waiting.
    """
    number, crystals = 0, []
    try:
        for _, record in read_records(files, rank, size, limits=limits):
            if isinstance(record, Crystal):
                number += 1
                if formula_of(record) in formulas:
                    crystals.append(record)
        return References(number, crystals)
    except Exception as error:  # whatever it is, the other ranks are waiting
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def all_references(config: RunConfig, gathered: Iterable[References | SetupError]) -> list[Crystal]:
    """What all ranks have read of the known crystals.

    Raises
    ------
    SetupError
        That one of the ranks had while reading.
    SourceError
        If there is none at all.
    """
    number, crystals = 0, []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        number += part.number
        crystals += part.crystals
    if config.against and not number:
        raise SourceError(f"no readable crystal in --against {' '.join(config.against)}")
    return sorted(crystals, key=lambda crystal: (crystal.name, crystal.id))


def groups_to_compare(
    listing: CrystalList, config: RunConfig, references: Iterable[Crystal]
) -> list[Candidates]:
    """What has to be compared; see :func:`hpcbench.curation.duplicates.candidates_of`."""
    sets: dict[str, list[Crystal]] = {}
    for crystal in _comparable(listing):
        # Known ones are looked for among all; duplicates within what one generator wrote.
        labels = {origin.generator for origin in crystal.origins} if config.unique else {""}
        for label in labels:
            sets.setdefault(label, []).append(crystal)
    found = candidates_of(sets, references)
    if config.unique:
        return found
    return [dataclasses.replace(group, sets={}) for group in found if group.references]


def matches(groups: Iterable[Candidates], rank: int) -> list[Matches] | SetupError:
    """What is found among the groups of one rank; an error is returned and not raised."""
    try:
        return [matches_of(group) for group in groups]
    except Exception as error:  # whatever it is, the other ranks are waiting
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def all_matches(gathered: Iterable[Sequence[Matches] | SetupError]) -> list[Matches]:
    """What all ranks have found.

    Raises
    ------
    SetupError
        That one of the ranks had while comparing.
    """
    found: list[Matches] = []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        found += part
    return found


def apply(listing: CrystalList, config: RunConfig, found: Iterable[Matches]) -> CrystalList:
    """Set aside duplicates and what is not sampled, by generator, and mark what is known.

    A crystal is computed if it counts for one of its generators.
    """
    first_of: dict[tuple[str, str], str] = {}
    known: dict[str, str] = {}
    for matches in found:
        first_of |= matches.duplicates
        known |= matches.known
    wanted: dict[str, list[str]] = {}
    for crystal in map(_crystal, listing.crystals):
        for label in {origin.generator for origin in crystal.origins}:
            if (label, crystal.id) not in first_of and not _is_too_large(crystal, config):
                wanted.setdefault(label, []).append(crystal.id)
    sampled = {
        label: sample(ids, config.sample, config.seed) if config.sample else set(ids)
        for label, ids in wanted.items()
    }

    def with_fate(origin: Origin, crystal: Crystal) -> Origin:
        key = crystal.id
        if config.against:
            novelty = KNOWN + known[key] if key in known else NOVEL
            origin = dataclasses.replace(origin, columns=(*origin.columns, (NOVELTY, novelty)))
        if first := first_of.get((origin.generator, key)):
            return dataclasses.replace(origin, set_aside=f"{DUPLICATE}: of {first}")
        if _is_too_large(crystal, config):
            text = f"{NOT_SAMPLED}: more than {config.max_atoms} atoms"
            return dataclasses.replace(origin, set_aside=text)
        if key not in sampled[origin.generator]:
            return dataclasses.replace(origin, set_aside=f"{NOT_SAMPLED}: seed {config.seed}")
        return origin

    entries = []
    for entry in listing.crystals:
        crystal = _crystal(entry)
        crystal = crystal.with_origins(tuple(with_fate(o, crystal) for o in crystal.origins))
        problem = entry.problem
        if all(origin.set_aside for origin in crystal.origins) and crystal.origins:
            kind, _, more = crystal.origins[0].set_aside.partition(": ")
            problem = SetAsideError(kind, more)
            entry = dataclasses.replace(entry, work=None)
        entries.append(dataclasses.replace(entry, record=crystal, problem=problem))
    return dataclasses.replace(listing, crystals=entries)


def _comparable(listing: CrystalList) -> Iterable[Crystal]:
    """Crystals that can be compared: not those whose cell or positions make no sense."""
    return (_crystal(entry) for entry in listing.crystals if entry.problem is None)


def _is_too_large(crystal: Crystal, config: RunConfig) -> bool:
    return 0 < config.max_atoms < crystal.natoms


def _crystal(entry: ListedCrystal) -> Crystal:
    assert isinstance(entry.record, Crystal), "the others are apart"
    return entry.record
