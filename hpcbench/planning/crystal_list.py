"""The list of a run's crystals: reading, examining and writing it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.born import to_json
from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.curation.primitive import primitive_of
from hpcbench.curation.validation import examine
from hpcbench.errors import (
    CrystalError,
    HpcbenchError,
    SetAsideError,
    SetupError,
    SourceError,
    UnsuitableError,
)
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import origins_to_json
from hpcbench.phonons.supercells import require_size, supercell_of
from hpcbench.planning.costs import Work, predict_work
from hpcbench.references.finding import as_reference, is_store, read_store
from hpcbench.results.identity import identity
from hpcbench.sources import SourceFile, Unreadable, formats, merge, read_part
from hpcbench.sources.isolated_reading import left_out_row, read_apart
from hpcbench.sources.reading import KILLS, Place
from hpcbench.store.schema import CRYSTALS, FAILED, SET_ASIDE, UNREADABLE
from hpcbench.store.table_writer import TableWriter

Record = Crystal | Unreadable
# A file is left out after so many starts that ended while a separate process read it.
MOST_DEATHS = 3
# All ranks read a file of more bytes than this, and each examines a part of it.
_LARGE = 2**20
# One rank alone reads a file of more bytes than this that must be in memory as a whole.
_LARGEST_WHOLE = 2**26


@dataclass(frozen=True)
class ListedCrystal:
    """A record of the sources.

    Attributes
    ----------
    number : tuple of int
        Number of its file in the order of the sources, and its place there.
    record : Crystal or Unreadable
        The record.
    work : Work or None
        The predicted work, if it can be computed.
    seconds : float
        Predicted seconds of a rank.
    problem : CrystalError or None
        The reason if it is not computed.
    """

    number: tuple[int, ...]
    record: Record
    work: Work | None = None
    seconds: float = 0.0
    problem: CrystalError | None = None


@dataclass(frozen=True)
class ReadingGuard:
    """Safeguards for reading files that may end the process which reads them.

    Attributes
    ----------
    reads : callable
        Called with the path of each file before it is read, and whether a separate process reads
        it; with an empty path after all files.
    suspects : mapping
        Paths of files that a separate process reads, with the number of starts that ended during
        it.
    read_well : callable
        Called with the path of each file that a separate process has read without ending.
    """

    reads: Callable[[str, bool], None] = lambda path, alone: None
    suspects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    read_well: Callable[[str], None] = lambda path: None


UNGUARDED = ReadingGuard()


def read_share(
    config: RunConfig,
    files: Sequence[SourceFile],
    records: Iterable[Record] | None,
    rank: int,
    size: int,
    care: ReadingGuard = UNGUARDED,
) -> list[ListedCrystal] | SetupError:
    """Read and examine one rank's share of the files, or of given records.

    Small files are distributed one by one; each rank takes a part of archives and large files. An
    error is returned and not raised, because the other ranks wait.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    files : sequence of SourceFile
        Files with crystals.
    records : iterable of Crystal or Unreadable, or None
        Records to examine instead of the files.
    rank, size : int
        This rank, and the number of ranks.
    care : ReadingGuard
        Safeguards against files that end the process.
    """
    numbered: Iterable[tuple[tuple[int, ...], Record]]
    if records is None:
        numbered = read_records(
            files,
            rank,
            size,
            with_supercell=config.validate or config.supercell == "source",
            limits=Limits(config.read_limits),
            care=care,
        )
    else:
        numbered = (((place,), record) for place, record in enumerate(records))
    # Generators write some crystals many times, and examining one takes milliseconds.
    examined: dict[str, ListedCrystal] = {}
    share = []
    try:
        for number, record in numbered:
            if config.validate and isinstance(record, Crystal):
                record = as_reference(record)
            if record.id not in examined:
                examined[record.id] = listed(number, record, config)
            entry = dataclasses.replace(examined[record.id], number=number)
            if isinstance(record, Crystal) and isinstance(entry.record, Crystal):
                same = entry.record.with_origins(record.origins)
                entry = dataclasses.replace(entry, record=same)
            share.append(entry)
        return share
    except HpcbenchError as error:
        return SetupError(f"rank {rank}: {error}")
    except Exception as error:  # not raised, because the other ranks wait
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def read_records(
    files: Sequence[SourceFile],
    rank: int,
    size: int,
    *,
    with_supercell: bool = False,
    limits: Limits = DEFAULT,
    care: ReadingGuard = UNGUARDED,
) -> Iterator[tuple[tuple[int, ...], Record]]:
    """Read one rank's share of the records of files.

    Parameters
    ----------
    files : sequence of SourceFile
        Files with crystals.
    rank, size : int
        This rank, and the number of ranks.
    with_supercell : bool
        Whether to keep the supercell matrix of phonopy YAML files.
    limits : Limits
        Limits of reading.
    care : ReadingGuard
        Safeguards against files that end the process.

    Yields
    ------
    number : tuple of int
        Number of the file, and place of the record in it.
    record : Crystal or Unreadable
        The record.
    """
    for number, file in enumerate(files):
        deaths = care.suspects.get(file.path)
        if deaths is not None:
            if number % size == rank:
                for place, record in _read_suspect(file, deaths, with_supercell, limits, care):
                    yield (number, *place), record
            continue
        if is_store(file.path):
            for index, record in enumerate(read_store(file.path)):
                if index % size == rank:
                    yield (number, 0, index), record
            continue
        if _is_shared(file):
            part, parts = rank, size
        elif number % size == rank:
            part, parts = 0, 1
        else:
            continue
        care.reads(file.path, False)
        read = read_part(file, part, parts, with_supercell=with_supercell, limits=limits)
        for place, record in read:
            yield (number, *place), record
    care.reads("", False)


def _read_suspect(
    file: SourceFile, deaths: int, with_supercell: bool, limits: Limits, care: ReadingGuard
) -> Iterator[tuple[Place, Record]]:
    """Read a file that may end its process; leave it out if it has done so too often."""
    if deaths >= MOST_DEATHS:
        yield left_out_row(
            file,
            f"{deaths} starts ended while it was read in a process of its own; --retry-failed "
            f"tries again",
        )
        return
    care.reads(file.path, True)
    lived = True
    for place, record in read_apart(file, with_supercell=with_supercell, limits=limits):
        lived &= not (isinstance(record, Unreadable) and record.reason.startswith(KILLS))
        yield place, record
    if lived:
        care.read_well(file.path)


def _is_shared(file: SourceFile) -> bool:
    """Tell whether all ranks read a file; depends only on facts that rank 0 shares with all."""
    if formats.is_read_as_a_whole(file.path) and file.size > _LARGEST_WHOLE:
        return False  # all ranks of a node together would run out of memory
    return file.size > _LARGE


def listed(number: tuple[int, ...], record: Record, config: RunConfig) -> ListedCrystal:
    """Examine a record, and predict the work in it.

    Parameters
    ----------
    number : tuple of int
        Number of its file, and its place there.
    record : Crystal or Unreadable
        The record.
    config : RunConfig
        Settings of the run.
    """
    if isinstance(record, Unreadable):
        return ListedCrystal(number, record)
    assert config.relax is not None, "settings are resolved before a run"
    if config.primitive:
        record = primitive_of(record, config.symmetry_tolerance)
    try:
        examine(record, min_distance=config.min_distance)
        matrix = supercell_of(
            record, config.supercell_for(record), config.supercell_atoms, config.supercell_shape
        )
        require_size(record.natoms, matrix, config.largest_supercell)
    except UnsuitableError as error:
        return ListedCrystal(number, record, problem=error)
    except Exception as error:  # an error of one crystal must not end the run
        problem = CrystalError("error", f"{type(error).__name__}: {error}")
        return ListedCrystal(number, record, problem=problem)
    work = predict_work(record, matrix, config.symmetry_tolerance, config.relax)
    return ListedCrystal(number, record, work)


@dataclass(frozen=True)
class CrystalList:
    """The crystals and unreadable entries that all ranks have read.

    Attributes
    ----------
    crystals : list of ListedCrystal
        Crystals in the order of the sources, each once.
    unreadable : list of Unreadable
        Entries that could not be read.
    """

    crystals: list[ListedCrystal]
    unreadable: list[Unreadable]


def together(
    config: RunConfig, gathered: Sequence[Sequence[ListedCrystal] | SetupError]
) -> CrystalList:
    """Merge the shares of all ranks into one list.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    gathered : sequence
        Results of :func:`read_share` of all ranks.

    Raises
    ------
    SetupError
        If a rank had an error: that one.
    SourceError
        If there is no readable crystal.
    """
    entries: list[ListedCrystal] = []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        entries += part
    # The order must not depend on the number of ranks.
    entries.sort(key=lambda entry: entry.number)
    facts = {entry.record.id: entry for entry in entries}
    crystals, unreadable = merge(entry.record for entry in entries)
    if not crystals:
        reasons = "\n".join(f"  {entry.origin}: {entry.reason}" for entry in unreadable[:10])
        what = "reference with phonons or labels" if config.validate else "readable crystal"
        raise SourceError(
            f"no {what} in {' '.join(config.sources) or 'what was given'}"
            + (f":\n{reasons}" if reasons else "")
        )
    return CrystalList(
        [dataclasses.replace(facts[c.id], record=c) for c in crystals],
        unreadable,
    )


def write_list(path: Path, result_settings: Mapping[str, Any], listing: CrystalList) -> None:
    """Write the list of crystals of a run.

    Parameters
    ----------
    path : Path
        The file to write.
    result_settings : mapping
        Settings that results depend on, written into the file.
    listing : CrystalList
        The list.
    """
    with TableWriter(path, CRYSTALS, result_settings) as writer:
        writer.append(_row(entry) for entry in listing.crystals)
        writer.append(_row_of_unreadable(entry) for entry in listing.unreadable)


def _row(entry: ListedCrystal) -> dict[str, Any]:
    crystal, problem = entry.record, entry.problem
    assert isinstance(crystal, Crystal), "the others have rows of their own"
    matrix = crystal.supercell_matrix
    status = SET_ASIDE if isinstance(problem, SetAsideError) else FAILED
    return {
        **identity(crystal),
        "status": status if problem else "",
        "reason": problem.reason if problem else "",
        "has_supercell": matrix is not None,
        "supercell_matrix": np.zeros((3, 3)) if matrix is None else matrix,
        "nac_params": to_json(crystal.nac_params),
        "cost": entry.seconds,
    }


def _row_of_unreadable(entry: Unreadable) -> dict[str, Any]:
    """Return the row of an entry that could not be read."""
    return {
        "id": entry.id,
        "name": entry.name,
        "origins": origins_to_json((entry.origin,)),
        "status": UNREADABLE,
        "reason": entry.reason,
    }
