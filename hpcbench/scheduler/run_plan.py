"""What a launch will do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.errors import SetAsideError
from hpcbench.planning.blocks import Block, make_blocks
from hpcbench.planning.costs import CostModel
from hpcbench.planning.crystal_list import CrystalList, write_list
from hpcbench.planning.prediction import row_bytes
from hpcbench.scheduler.suspicious import MOST_DEATHS, Suspicions, fold_launches, set_aside
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import FAILED


@dataclass(frozen=True)
class Plan:
    """What a launch will do; the same on every rank.

    Attributes
    ----------
    launch : str
        Name of the launch; later ones sort after earlier ones.
    total : int
        Crystals in the list, those that cannot be computed included.
    aside : int
        Others, that are not asked for.
    before : int
        Crystals that need no more work.
    pending : int
        Crystals to be computed.
    blocks : list of Block
        The work, in the order in which it is to be taken; suspects last.
    suspicions : dict
        What is held against the suspects, by id.
    results_bytes : float
        What the results will take on the disk, about.
    measured : bool
        Whether predictions are from rates that were measured.
    """

    launch: str
    total: int
    aside: int
    before: int
    pending: int
    blocks: list[Block]
    suspicions: Suspicions
    results_bytes: float
    measured: bool = False


def make_plan(
    config: RunConfig,
    folder: RunFolder,
    result_settings: Mapping[str, Any],
    listing: CrystalList,
    launch: str,
    ranks: int,
    rates: CostModel,
    retry: str | None,
) -> Plan:
    """Write the list of crystals, and plan.

    To be called by one rank that holds the folder alone.

    Parameters
    ----------
    crystals : CrystalList
        What the ranks have read.
    launch : str
        Name of the launch.
    rates : CostModel
        How long work takes.
    retry : str or None
        Compute those again that failed for a reason which begins like this.
    """
    crystals, unreadable = list(listing.crystals), listing.unreadable
    listed = {entry.record.id for entry in crystals}
    forgiven = set() if retry is None else _try_again(folder, retry, listed)
    finished = set(Store(folder.store).finished_ids())
    past = [path for path in folder.past_launches() if path.name != launch]
    suspicions = fold_launches(past, folder.attempts, finished, forgiven)
    for place, entry in enumerate(crystals):
        if entry.work is not None:
            crystals[place] = entry = dataclasses.replace(entry, seconds=rates.seconds(entry.work))
        suspicion = suspicions.get(entry.record.id)
        if suspicion is not None and suspicion.deaths >= MOST_DEATHS and entry.problem is None:
            crystals[place] = dataclasses.replace(entry, problem=set_aside(suspicion.deaths))
    write_list(folder.crystals, result_settings, dataclasses.replace(listing, crystals=crystals))
    pending = {
        entry.record.id: row
        for row, entry in enumerate(crystals)
        if entry.problem is None and entry.record.id not in finished
    }
    suspicions = {key: suspicions[key] for key in pending if key in suspicions}
    # A rank holds a block while it computes another one.
    longest = config.lease_minutes * 60 / 2

    def blocks_of(rows: Sequence[int]) -> list[Block]:
        return make_blocks(
            rows, [crystals[row].seconds for row in rows], ranks, config.block, longest
        )

    blocks = blocks_of([row for key, row in pending.items() if key not in suspicions])
    suspects = blocks_of([row for key, row in pending.items() if key in suspicions])
    blocks += [dataclasses.replace(block, suspect=True) for block in suspects]
    folder.remove_torn_files()
    aside = sum(isinstance(entry.problem, SetAsideError) for entry in crystals)
    total = len(crystals) + len(unreadable) - aside
    sizes = [
        (entry.record.natoms, entry.work.supercell_atoms)
        for entry in (crystals[row] for row in pending.values())
        if isinstance(entry.record, Crystal) and entry.work is not None
    ]
    natoms, supercell_atoms = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    results_bytes = float(row_bytes(natoms, supercell_atoms.astype(float)).sum())
    return Plan(
        launch=launch,
        total=total,
        aside=aside,
        before=total - len(pending),
        pending=len(pending),
        blocks=blocks,
        suspicions=suspicions,
        results_bytes=results_bytes,
        measured=rates.measured,
    )


def name_launch(folder: RunFolder) -> str:
    """A launch's name: later ones sort after earlier ones, also where the clock was set back."""
    earlier = [int(path.name) for path in folder.launches.iterdir() if path.name.isdigit()]
    return f"{max(time.time_ns(), *(number + 1 for number in (*earlier, 0))):020d}"


def _try_again(folder: RunFolder, reason: str, listed: Container[str]) -> set[str]:
    """Let failures count no more of listed crystals whose reason begins like this; their ids."""
    if not folder.store.exists() and not folder.segment_paths():
        return set()
    store = Store(folder.store)
    failures: dict[str, float] = {}
    # What an earlier list had may be in the list again.
    for table in (store.table, store.earlier.table):
        failed = table[(table["status"] == FAILED) & table["reason"].str.startswith(reason)]
        failures |= {
            key: when
            for key, when in zip(failed["id"], failed["finished"].astype(float), strict=True)
            if key in listed
        }
    folder.void(failures)
    return set(failures)
