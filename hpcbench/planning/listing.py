"""The list of a run's crystals, and what of it is still to be computed."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal, Origin
from hpcbench.errors import CrystalError, SetupError, SourceError, UnsuitableError
from hpcbench.phonons.supercells import require_size
from hpcbench.planning.costs import Work, predict_work, supercell_of
from hpcbench.sources import SourceFile, Unreadable, examine, merge, read_file
from hpcbench.store.schema import CRYSTALS, FAILED, UNREADABLE
from hpcbench.store.table_writer import TableWriter

Record = Crystal | Unreadable


@dataclass(frozen=True)
class Listed:
    """A record of the sources.

    Attributes
    ----------
    number : int
        Of the file that it comes from.
    record : Crystal or Unreadable
        Itself.
    work : Work or None
        The work in it, if it can be computed.
    seconds : float
        Predicted for a rank.
    problem : CrystalError or None
        Why it is set aside, if it is.
    """

    number: int
    record: Record
    work: Work | None = None
    seconds: float = 0.0
    problem: CrystalError | None = None


def read_share(
    config: RunConfig,
    files: Sequence[SourceFile],
    records: Iterable[Record] | None,
    rank: int,
    size: int,
) -> list[Listed] | SetupError:
    """Read and examine one rank's share of the files, or ``records`` if there are any.

    Large and small files are dealt out like cards. An error is returned and not raised: the
    other ranks are waiting.
    """
    numbered: Iterable[tuple[int, Record]]
    if records is None:
        numbered = (
            (number, record)
            for number in range(rank, len(files), size)
            for record in read_file(files[number], with_supercell=config.supercell == "source")
        )
    else:
        numbered = enumerate(records)
    try:
        return [listed(number, record, config) for number, record in numbered]
    except Exception as error:  # whatever it is, the other ranks are waiting
        traceback.print_exc()
        return SetupError(f"rank {rank}: {type(error).__name__}: {error}")


def listed(number: int, record: Record, config: RunConfig) -> Listed:
    """Examine a record, and predict the work in it."""
    if isinstance(record, Unreadable):
        return Listed(number, record)
    try:
        examine(record, min_distance=config.min_distance)
        matrix = supercell_of(
            record, config.supercell, config.supercell_atoms, config.supercell_shape
        )
        require_size(record.natoms, matrix, config.largest_supercell)
    except UnsuitableError as error:
        return Listed(number, record, problem=error)
    except Exception as error:  # one strange crystal must not end the run
        problem = CrystalError("error", f"{type(error).__name__}: {error}")
        return Listed(number, record, problem=problem)
    work = predict_work(record, matrix, config.symmetry_tolerance, config.relax)
    return Listed(number, record, work)


def together(
    config: RunConfig, gathered: Sequence[Sequence[Listed] | SetupError]
) -> tuple[list[Listed], list[Unreadable]]:
    """What all ranks have read, in the order of the sources; the same crystal only once.

    Raises
    ------
    SetupError
        That one of the ranks had while reading.
    SourceError
        If there is no readable crystal.
    """
    entries: list[Listed] = []
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
    return [dataclasses.replace(facts[c.id], record=c) for c in crystals], unreadable


def write_list(
    path: Path,
    deciding: Mapping[str, Any],
    crystals: Iterable[Listed],
    unreadable: Iterable[Unreadable],
) -> None:
    """Write the list of crystals of a run."""
    with TableWriter(path, CRYSTALS, deciding) as writer:
        writer.append(_row(entry) for entry in crystals)
        writer.append(_row_of_unreadable(entry) for entry in unreadable)


def _row(entry: Listed) -> dict[str, Any]:
    crystal, problem = entry.record, entry.problem
    assert isinstance(crystal, Crystal), "the others have rows of their own"
    matrix = crystal.supercell_matrix
    return {
        **identity(crystal),
        "status": FAILED if problem else "",
        "reason": problem.reason if problem else "",
        "has_supercell": matrix is not None,
        "supercell_matrix": np.zeros((3, 3)) if matrix is None else matrix,
        "cost": entry.seconds,
    }


def _row_of_unreadable(entry: Unreadable) -> dict[str, Any]:
    """The row of an entry that could not be read."""
    return {
        "id": entry.id,
        "name": entry.name,
        "origins": _origins((entry.origin,)),
        "status": UNREADABLE,
        "reason": entry.reason,
    }


def crystal_of(row: Mapping[str, Any]) -> Crystal:
    """The crystal of a row of the list."""
    return Crystal(
        row["id"],
        row["name"],
        tuple(Origin(*origin) for origin in json.loads(row["origins"])),
        row["cell"],
        row["positions"],
        row["numbers"],
        row["supercell_matrix"] if row["has_supercell"] else None,
    )


def identity(crystal: Crystal) -> dict[str, Any]:
    """The columns of a row, of the list or of results, that say which crystal it is."""
    return {
        "id": crystal.id,
        "name": crystal.name,
        "origins": _origins(crystal.origins),
        "formula": crystal.formula,
        "natoms": crystal.natoms,
        "cell": crystal.cell,
        "numbers": crystal.numbers,
        "positions": crystal.positions,
    }


def _origins(origins: tuple[Origin, ...]) -> str:
    return json.dumps([[o.file, o.index, o.generator] for o in origins])
