"""Measured times of crystals after a launch: accuracy of the prediction, and new rates."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.phonons.supercells import supercell_of
from hpcbench.planning.costs import (
    CostModel,
    device_name,
    fit,
    keep_cost_model,
    kind_of,
    load_cost_model,
    predict_work,
)
from hpcbench.results.identity import crystal_of
from hpcbench.store.schema import DONE, REANALYSIS_OF
from hpcbench.store.table_reader import TableReader

if TYPE_CHECKING:
    from hpcbench.crystal import Crystal
    from hpcbench.events import Progress
    from hpcbench.store.reader import Store
    from hpcbench.store.run_folder import RunFolder

# Rates of fewer crystals are too uncertain to be kept, and more do not improve them: so many are
# chosen at random.
FEWEST, MOST = 10, 2000


@dataclass(frozen=True, eq=False)
class Taken:
    """Measured times of the crystals of a launch.

    Attributes
    ----------
    ids : list of str
        Ids of computed crystals. Crystals that failed have no times.
    seconds : ndarray, shape (len(ids),)
        Seconds of a rank: for the passes, for work on processor cores while the potential waited,
        and a share of the time that belongs to no crystal. Their sum is ``wall``.
    wall : float
        Seconds that ranks worked, summed over ranks.
    provenance : mapping
        Provenance of one of the rows.
    """

    ids: list[str]
    seconds: NDArray[np.float64]
    wall: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """A prediction compared with the measured times.

    Attributes
    ----------
    crystals : int
        Number of computed crystals.
    predicted, actual : float
        Seconds of a rank, summed over these crystals.
    spread : float
        Geometric standard deviation of the ratio of both for single crystals.
    """

    crystals: int
    predicted: float
    actual: float
    spread: float


def taken(store: Store, progress: Progress) -> Taken | None:
    """Return the times of the crystals of the latest launch; ``None`` if it has computed none.

    Only ranks count that ended their work, because only these have logged its time.

    Parameters
    ----------
    store : Store
        The store of the run.
    progress : Progress
        The latest launch, from its event logs.
    """
    table = store.table
    if "seconds_forces" not in table:
        return None
    ended = {number: rank for number, rank in progress.by_rank.items() if rank.wall > 0}
    started = table["rank"].map({number: rank.started for number, rank in ended.items()})
    # Both times are by the clock of the same rank.
    rows = table[(table["status"] == DONE) & (table["finished"] >= started)]
    passes = (rows["seconds_relaxation"] + rows["seconds_forces"]).to_numpy(dtype=float)
    beside = rows["seconds_analysis"].to_numpy(dtype=float)
    if passes.sum() + beside.sum() <= 0.0:
        return None
    wall = sum(rank.wall for rank in ended.values())
    # Only the analysis that the passes do not hide takes wall time.
    share = min(1.0, max(0.0, (wall - passes.sum()) / beside.sum())) if beside.sum() else 0.0
    seconds = passes + share * beside
    seconds *= wall / seconds.sum()
    return Taken(list(rows["id"]), seconds, wall, json.loads(rows["provenance"].iloc[0]))


def learn(store: Store, progress: Progress) -> CostModel | None:
    """Fit the rates to the latest launch, and keep them for the next ones.

    Rates from many crystals are replaced only if the launch has at least half as many.

    Parameters
    ----------
    store : Store
        The store of the run.
    progress : Progress
        The latest launch, from its event logs.

    Returns
    -------
    CostModel or None
        The rates; ``None`` if too few crystals were computed.

    Raises
    ------
    StoreError
        If the list of crystals cannot be read.
    """
    what = taken(store, progress)
    # A reanalysis does not measure the potential.
    if what is None or len(what.ids) < FEWEST or REANALYSIS_OF in store.settings:
        return None
    settings, device = store.settings, what.provenance["device"]
    potential = (settings["model"], settings["weights_sha256"], settings["dtype"], device)
    if 2 * min(len(what.ids), MOST) < load_cost_model(*potential).crystals:
        return None
    chosen = np.random.default_rng(0).permutation(len(what.ids))[:MOST]
    seconds = dict(zip(what.ids, what.seconds, strict=True))
    with TableReader(store.folder.crystals) as reader:
        rows = {key: row for row, key in enumerate(reader.column("id"))}
        wanted = sorted(rows[what.ids[i]] for i in chosen if what.ids[i] in rows)
        crystals = [crystal_of(row) for row in reader.rows(wanted)]
    works = [
        predict_work(
            crystal,
            supercell_of(
                crystal,
                _supercell_for(crystal, settings),
                settings.get("supercell_atoms", 0),
                settings.get("supercell_shape", "diagonal"),
            ),
            settings["symmetry_tolerance"],
            settings["relax"],
        )
        for crystal in crystals
    ]
    times = np.array([seconds[crystal.id] for crystal in crystals])
    where = f"{device_name(kind_of(device))}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    model = dataclasses.replace(fit(works, times), where=where)
    keep_cost_model(*potential, model)
    return model


def _supercell_for(crystal: Crystal, settings: Mapping[str, Any]) -> Any:
    named = settings.get("validate") and crystal.supercell_matrix is not None
    return "source" if named else settings["supercell"]


def listed_costs(folder: RunFolder) -> dict[str, float]:
    """Return the predicted seconds, by id, of the crystals of a run that can be computed."""
    if not folder.crystals.exists():
        return {}
    with TableReader(folder.crystals) as reader:
        columns = (reader.column(name) for name in ("id", "cost", "reason"))
        return {key: float(cost) for key, cost, reason in zip(*columns, strict=True) if not reason}


def accuracy(what: Taken, costs: Mapping[str, float]) -> Accuracy | None:
    """Compare predicted with measured seconds.

    Parameters
    ----------
    what : Taken
        Measured times.
    costs : mapping
        Predicted seconds by crystal id.

    Returns
    -------
    Accuracy or None
        ``None`` if no crystal has both.
    """
    pairs = [
        (costs[key], seconds)
        for key, seconds in zip(what.ids, what.seconds, strict=True)
        if costs.get(key, 0.0) > 0.0 and seconds > 0.0
    ]
    if not pairs:
        return None
    predicted, actual = np.array(pairs).T
    spread = math.exp(float(np.std(np.log(actual / predicted))))
    return Accuracy(len(pairs), float(predicted.sum()), float(actual.sum()), spread)
