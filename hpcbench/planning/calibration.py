"""What crystals took, after a launch; how good the prediction was, and rates for the next one."""

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
    from hpcbench.events import Progress
    from hpcbench.store.reader import Store
    from hpcbench.store.run_folder import RunFolder

# Rates of fewer crystals than this are too uncertain to be kept, and more than this do not make
# them better: they are chosen at random.
FEWEST, MOST = 10, 2000


@dataclass(frozen=True, eq=False)
class Taken:
    """What the crystals of a launch took.

    Attributes
    ----------
    ids : list of str
        Of crystals that were computed. Those that failed have no times.
    seconds : ndarray, shape (len(ids),)
        Of a rank's time: for the passes, for work on processor cores as far as the potential
        had to wait for it, and a share of what belongs to no crystal. Their sum is ``wall``.
    wall : float
        Seconds that all ranks were at work, together.
    provenance : mapping
        Of one of the rows.
    """

    ids: list[str]
    seconds: NDArray[np.float64]
    wall: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """A prediction, and what came.

    Attributes
    ----------
    crystals : int
        That were computed.
    predicted, actual : float
        Seconds of ranks, summed over these crystals.
    spread : float
        Typical factor between both for one crystal, apart from that of the sums (a geometric
        standard deviation).
    """

    crystals: int
    predicted: float
    actual: float
    spread: float


def taken(store: Store, progress: Progress) -> Taken | None:
    """What the crystals of the latest launch took; ``None`` if it has computed none.

    Only of ranks that came to the end of their work: the others have not told how long it was.
    """
    table = store.table
    if "seconds_forces" not in table:
        return None
    ended = {number: rank for number, rank in progress.by_rank.items() if rank.wall > 0}
    started = table["rank"].map({number: rank.started for number, rank in ended.items()})
    # A rank's own clock has written both.
    rows = table[(table["status"] == DONE) & (table["finished"] >= started)]
    passes = (rows["seconds_relaxation"] + rows["seconds_forces"]).to_numpy(dtype=float)
    beside = rows["seconds_analysis"].to_numpy(dtype=float)
    if passes.sum() + beside.sum() <= 0.0:
        return None
    wall = sum(rank.wall for rank in ended.values())
    # Where nothing works beside the potential, its time is what the passes leave.
    share = min(1.0, max(0.0, (wall - passes.sum()) / beside.sum())) if beside.sum() else 0.0
    seconds = passes + share * beside
    seconds *= wall / seconds.sum()
    return Taken(list(rows["id"]), seconds, wall, json.loads(rows["provenance"].iloc[0]))


def learn(store: Store, progress: Progress) -> CostModel | None:
    """Fit the rates to the latest launch, and keep them for the next ones.

    ``None`` if too few crystals were computed. Rates of many crystals are not given up for those
    of few: they stay until a launch has half as many.

    Raises
    ------
    StoreError
        If the list of crystals cannot be read.
    """
    what = taken(store, progress)
    # A reanalysis says nothing of the potential.
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
                settings["supercell"],
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


def listed_costs(folder: RunFolder) -> dict[str, float]:
    """Predicted seconds by id, of the crystals of a run's list that can be computed."""
    if not folder.crystals.exists():
        return {}
    with TableReader(folder.crystals) as reader:
        columns = (reader.column(name) for name in ("id", "cost", "reason"))
        return {key: float(cost) for key, cost, reason in zip(*columns, strict=True) if not reason}


def accuracy(what: Taken, costs: Mapping[str, float]) -> Accuracy | None:
    """How good the predicted seconds (by id) were; ``None`` where there are none."""
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
