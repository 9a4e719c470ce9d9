"""The list of a run's crystals, and what of it is still to be computed."""

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
from hpcbench.results.identity import identity
from hpcbench.sources import SourceFile, Unreadable, formats, merge, read_part
from hpcbench.sources.isolated_reading import left_out_row, read_apart
from hpcbench.sources.reading import KILLS, Place
from hpcbench.store.schema import CRYSTALS, FAILED, SET_ASIDE, UNREADABLE
from hpcbench.store.table_writer import TableWriter

Record = Crystal | Unreadable
# Starts that may end while a file is read in a process of its own: with it, not of it alone.
MOST_DEATHS = 3
# In bytes: all ranks read a larger file, and each examines a part of what is in it.
_LARGE = 2**20
# One that has to be in memory as a whole is read by one rank if it is larger than this.
_LARGEST_WHOLE = 2**26


@dataclass(frozen=True)
class ListedCrystal:
    """A record of the sources.

    Attributes
    ----------
    number : tuple of int
        Of the file that it comes from, and its place there; in the order of the sources.
    record : Crystal or Unreadable
        Itself.
    work : Work or None
        The work in it, if it can be computed.
    seconds : float
        Predicted for a rank.
    problem : CrystalError or None
        Why it is not computed, if it is not.
    """

    number: tuple[int, ...]
    record: Record
    work: Work | None = None
    seconds: float = 0.0
    problem: CrystalError | None = None


@dataclass(frozen=True)
class ReadingGuard:
    """Say how files are read that may end the process which reads them.

    Attributes
    ----------
    reads : callable
        Told the path of each file before it is read, and whether by a process of its own; an
        empty path after all of them.
    suspects : dict
        Files that are read in a process of their own, with how many times that ended everything.
    read_well : callable
        Told the path of each file that a process of its own has read, and lived.
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
    """Read and examine one rank's share of the files, or ``records`` if there are any.

    Small files are dealt out like cards; of archives and large files each rank takes a part. An
    error is returned and not raised: the other ranks are waiting.
    """
    numbered: Iterable[tuple[tuple[int, ...], Record]]
    if records is None:
        numbered = read_records(
            files,
            rank,
            size,
            with_supercell=config.supercell == "source",
            limits=Limits(config.read_limits),
            care=care,
        )
    else:
        numbered = (((place,), record) for place, record in enumerate(records))
    # Generators write some crystals many times: to examine one takes milliseconds.
    examined: dict[str, ListedCrystal] = {}
    share = []
    try:
        for number, record in numbered:
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
    except Exception as error:  # whatever it is, the other ranks are waiting
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
    """One rank's share of the records of files, each with its file's number and its place there."""
    for number, file in enumerate(files):
        deaths = care.suspects.get(file.path)
        if deaths is not None:
            if number % size == rank:
                for place, record in _read_suspect(file, deaths, with_supercell, limits, care):
                    yield (number, *place), record
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
    """Read a file that may end its process, or leave it out if it has often enough."""
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
    """Whether all ranks go through a file: asked of what rank 0 has found, the same on all."""
    if formats.is_read_as_a_whole(file.path) and file.size > _LARGEST_WHOLE:
        return False  # a node's ranks together would run out of memory
    return file.size > _LARGE


def listed(number: tuple[int, ...], record: Record, config: RunConfig) -> ListedCrystal:
    """Examine a record, and predict the work in it."""
    if isinstance(record, Unreadable):
        return ListedCrystal(number, record)
    assert config.supercell is not None, "settings are resolved before a run"
    if config.primitive:
        record = primitive_of(record, config.symmetry_tolerance)
    try:
        examine(record, min_distance=config.min_distance)
        matrix = supercell_of(
            record, config.supercell, config.supercell_atoms, config.supercell_shape
        )
        require_size(record.natoms, matrix, config.largest_supercell)
    except UnsuitableError as error:
        return ListedCrystal(number, record, problem=error)
    except Exception as error:  # one strange crystal must not end the run
        problem = CrystalError("error", f"{type(error).__name__}: {error}")
        return ListedCrystal(number, record, problem=problem)
    work = predict_work(record, matrix, config.symmetry_tolerance, config.relax)
    return ListedCrystal(number, record, work)


@dataclass(frozen=True)
class CrystalList:
    """What all ranks have read.

    Attributes
    ----------
    crystals : list of ListedCrystal
        In the order of the sources; the same crystal only once.
    unreadable : list of Unreadable
        What could not be read.
    """

    crystals: list[ListedCrystal]
    unreadable: list[Unreadable]


def together(
    config: RunConfig, gathered: Sequence[Sequence[ListedCrystal] | SetupError]
) -> CrystalList:
    """The list, from what each rank has read.

    Raises
    ------
    SetupError
        That one of the ranks had while reading.
    SourceError
        If there is no readable crystal.
    """
    entries: list[ListedCrystal] = []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        entries += part
    # Whatever number of ranks has read them.
    entries.sort(key=lambda entry: entry.number)
    facts = {entry.record.id: entry for entry in entries}
    crystals, unreadable = merge(entry.record for entry in entries)
    if not crystals:
        reasons = "\n".join(f"  {entry.origin}: {entry.reason}" for entry in unreadable[:10])
        raise SourceError(
            f"no readable crystal in {' '.join(config.sources) or 'what was given'}"
            + (f":\n{reasons}" if reasons else "")
        )
    return CrystalList(
        [dataclasses.replace(facts[c.id], record=c) for c in crystals],
        unreadable,
    )


def write_list(path: Path, result_settings: Mapping[str, Any], listing: CrystalList) -> None:
    """Write the list of crystals of a run."""
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
    """The row of an entry that could not be read."""
    return {
        "id": entry.id,
        "name": entry.name,
        "origins": origins_to_json((entry.origin,)),
        "status": UNREADABLE,
        "reason": entry.reason,
    }
