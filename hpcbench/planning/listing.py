"""The list of a run's crystals, and what of it is still to be computed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError, SetupError, SourceError, UnsuitableError
from hpcbench.phonons.supercells import full_matrix
from hpcbench.planning.blocks import Block, make_blocks, predict_cost
from hpcbench.rank.rows import listed_crystal, listed_unreadable
from hpcbench.sources import SourceFile, Unreadable, examine, merge, read_file
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS
from hpcbench.store.tables import TableWriter

Record = Crystal | Unreadable


@dataclass(frozen=True)
class Plan:
    """What a launch will do; the same on every rank.

    Attributes
    ----------
    launch : str
        Name of the launch; later ones sort after earlier ones.
    total : int
        Crystals in the list, those that cannot be computed included.
    before : int
        Crystals that need no more work.
    blocks : list of Block
        The work, in the order in which it is to be taken.
    """

    launch: str
    total: int
    before: int
    blocks: list[Block]


@dataclass(frozen=True)
class Listed:
    """A record, its place in the sources, its cost, and why it is set aside, if it is."""

    number: int
    record: Record
    cost: float = 0.0
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
    """Examine a record, and predict its cost."""
    if isinstance(record, Unreadable):
        return Listed(number, record)
    try:
        examine(record, min_distance=config.min_distance)
    except UnsuitableError as error:
        return Listed(number, record, problem=error)
    except Exception as error:  # one strange crystal must not end the run
        problem = CrystalError("error", f"{type(error).__name__}: {error}")
        return Listed(number, record, problem=problem)
    if isinstance(config.supercell, str):
        asked = record.supercell_matrix
        matrix = np.eye(3) if asked is None else asked.astype(float)
    else:
        matrix = full_matrix(config.supercell).astype(float)
    supercell_atoms = record.natoms * abs(round(float(np.linalg.det(matrix))))
    cost = predict_cost(record, supercell_atoms, config.symmetry_tolerance)
    return Listed(number, record, cost)


def write_list(
    config: RunConfig,
    folder: RunFolder,
    deciding: Mapping[str, Any],
    gathered: Sequence[Sequence[Listed] | SetupError],
    ranks: int,
) -> Plan:
    """Write the list of crystals from what the ranks have read, and plan.

    Raises
    ------
    SetupError
        That one of the ranks had while reading.
    SourceError
        If there is no readable crystal.
    """
    parts = []
    for part in gathered:
        if isinstance(part, SetupError):
            raise part
        parts.append(part)
    # In the order of the sources, whatever number of ranks has read them.
    entries = sorted((e for part in parts for e in part), key=lambda entry: entry.number)
    facts = {entry.record.id: (entry.cost, entry.problem) for entry in entries}
    crystals, unreadable = merge(entry.record for entry in entries)
    if not crystals:
        reasons = "\n".join(f"  {entry.origin}: {entry.reason}" for entry in unreadable[:10])
        raise SourceError(
            f"no readable crystal in {' '.join(config.sources) or 'what was given'}"
            + (f":\n{reasons}" if reasons else "")
        )
    with TableWriter(folder.crystals, CRYSTALS, deciding) as writer:
        writer.append(listed_crystal(c, *facts[c.id]) for c in crystals)
        writer.append(listed_unreadable(entry) for entry in unreadable)
    finished = set(Store(folder.store).finished_ids())
    pending = [
        row
        for row, crystal in enumerate(crystals)
        if facts[crystal.id][1] is None and crystal.id not in finished
    ]
    total = len(crystals) + len(unreadable)
    name = f"{time.time_ns():020d}"
    folder.launch_folder(name)
    folder.forget_other_launches(name)
    costs = [facts[crystals[row].id][0] for row in pending]
    blocks = make_blocks(pending, costs, ranks, config.block)
    return Plan(name, total, total - len(pending), blocks)
