"""Selection of the crystals to compute: no duplicates, only a sample; known ones are marked.

The comparisons are separate functions, so that ranks can share them:

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
    """Known crystals that a list is compared with.

    Attributes
    ----------
    number : int
        Number of known crystals that were read.
    crystals : list of Crystal
        Those with a formula of the list.
    """

    number: int
    crystals: list[Crystal]


def curated(config: RunConfig, listing: CrystalList) -> CrystalList:
    """Select crystals and mark known ones as a run does, in this process alone.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    listing : CrystalList
        The list.

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
    """Tell whether a run selects crystals or marks known ones."""
    return bool(config.unique or config.sample or config.max_atoms or config.against)


def formulas_of(listing: CrystalList) -> set[Formula]:
    """Return the reduced formulas of a list."""
    return {formula_of(crystal) for crystal in _comparable(listing)}


def read_references(
    files: Sequence[SourceFile],
    formulas: Collection[Formula],
    rank: int,
    size: int,
    limits: Limits = DEFAULT,
) -> References | SetupError:
    """Read one rank's share of the known crystals.

    An error is returned and not raised, because the other ranks wait.

    Parameters
    ----------
    files : sequence of SourceFile
        Files with known crystals.
    formulas : collection of Formula
        Reduced formulas of the list; crystals of others are only counted.
    rank, size : int
        This rank, and the number of ranks.
    limits : Limits
        Limits of reading.
    """
    number, crystals = 0, []
    try:
        for _, record in read_records(files, rank, size, limits=limits):
            if isinstance(record, Crystal):
                number += 1
                if formula_of(record) in formulas:
                    crystals.append(record)
        return References(number, crystals)
    except Exception as error:  # not raised, because the other ranks wait
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def all_references(config: RunConfig, gathered: Iterable[References | SetupError]) -> list[Crystal]:
    """Merge the known crystals that all ranks have read.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    gathered : iterable
        Results of :func:`read_references` of all ranks.

    Raises
    ------
    SetupError
        If a rank had an error: that one.
    SourceError
        If no known crystal could be read.
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
    """Return groups of crystals to compare.

    Parameters
    ----------
    listing : CrystalList
        The list.
    config : RunConfig
        Settings of the run.
    references : iterable of Crystal
        Known crystals.

    Returns
    -------
    list of Candidates
        See :func:`hpcbench.curation.duplicates.candidates_of`.
    """
    sets: dict[str, list[Crystal]] = {}
    for crystal in _comparable(listing):
        # All crystals are compared with known ones, but with others of the same generator only.
        labels = {origin.generator for origin in crystal.origins} if config.unique else {""}
        for label in labels:
            sets.setdefault(label, []).append(crystal)
    found = candidates_of(sets, references)
    if config.unique:
        return found
    return [dataclasses.replace(group, sets={}) for group in found if group.references]


def matches(groups: Iterable[Candidates], rank: int) -> list[Matches] | SetupError:
    """Compare the groups of one rank.

    An error is returned and not raised, because the other ranks wait.

    Parameters
    ----------
    groups : iterable of Candidates
        The groups.
    rank : int
        This rank, for the error.
    """
    try:
        return [matches_of(group) for group in groups]
    except Exception as error:  # not raised, because the other ranks wait
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def all_matches(gathered: Iterable[Sequence[Matches] | SetupError]) -> list[Matches]:
    """Collect the matches of all ranks.

    Raises
    ------
    SetupError
        If a rank had an error: that one.
    """
    found: list[Matches] = []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        found += part
    return found


def apply(listing: CrystalList, config: RunConfig, found: Iterable[Matches]) -> CrystalList:
    """Exclude duplicates and crystals that are not sampled, by generator, and mark known ones.

    A crystal is computed if at least one of its generators keeps it.

    Parameters
    ----------
    listing : CrystalList
        The list.
    config : RunConfig
        Settings of the run.
    found : iterable of Matches
        Duplicates and known crystals.
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
    """Return the crystals that can be compared: those with a valid cell and positions."""
    return (_crystal(entry) for entry in listing.crystals if entry.problem is None)


def _is_too_large(crystal: Crystal, config: RunConfig) -> bool:
    return 0 < config.max_atoms < crystal.natoms


def _crystal(entry: ListedCrystal) -> Crystal:
    assert isinstance(entry.record, Crystal), "the others are apart"
    return entry.record
