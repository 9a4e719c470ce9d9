"""The command ``hpcbench plan``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench.cli.options import add_settings, positive
from hpcbench.config import RunConfig

if TYPE_CHECKING:
    from hpcbench.planning.prediction import Prediction

RANKS = (1, 4, 32, 256, 1024)


HELP = "how long a run will take, and what it needs"
DESCRIPTION = """\
Predict rank-hours, wall time, memory and the size of the store, before anything runs. Takes
SOURCE and settings as `hpcbench run` does; reads the crystals, loads no potential.

How fast a potential is on a device is learnt from runs (in ~/.cache/hpcbench/rates.json) and
guessed before the first one. What the store has already is left out.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the crystals are")
    parser.add_argument(
        "--ranks",
        nargs="+",
        type=positive,
        metavar="N",
        help="numbers of ranks to say the wall time for (default: some from 1 to 1024)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: seconds and bytes")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Print the predicted costs as a table or JSON; return the exit code."""
    from hpcbench.cli.as_rank import config_of
    from hpcbench.limits import Limits
    from hpcbench.planning.costs import load_cost_model
    from hpcbench.planning.prediction import predict
    from hpcbench.report.prediction_tables import print_prediction
    from hpcbench.sources import find_sources

    config = config_of(options)
    if note := find_sources(config.sources, Limits(config.read_limits)).note():
        print(f"hpcbench: {note}", file=sys.stderr)
    rates = load_cost_model(config.model, _weights(config), config.dtype, config.device)
    prediction = predict(config, rates, _finished(config), options.ranks or RANKS)
    if options.json:
        print(json.dumps(as_json(prediction), indent=1))
    else:
        print_prediction(prediction, config)
    return 0


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON types; times in seconds, memory in bytes."""
    total, least, most = prediction.rank_seconds
    rates = prediction.rates
    return {
        "listed": prediction.listed,
        "finished": prediction.finished,
        "set_aside": prediction.aside,
        "to_compute": len(prediction.names),
        "rank_seconds": {"predicted": total, "at_least": least, "at_most": most},
        "rates": {"measured": rates.measured, "crystals": rates.crystals, "where": rates.where},
        "spread": rates.spread,
        "largest_supercell": {
            "atoms": max((work.supercell_atoms for work in prediction.works), default=0),
            "edges": max((work.largest for work in prediction.works), default=0.0),
            "pass_bytes": prediction.pass_bytes,
        },
        "displaced_supercells": sum(work.copies for work in prediction.works),
        "store_bytes": float(prediction.store_bytes.sum()),
        "ranks": [
            {
                "ranks": span.ranks,
                "seconds": span.seconds,
                "busy": span.busy,
                "walltime": span.walltime,
            }
            for span in prediction.spans
        ],
    }


def _weights(config: RunConfig) -> str:
    """Return the weights' SHA-256; empty if they are not on this machine but can be fetched."""
    from hpcbench.errors import PotentialError
    from hpcbench.potentials.registry import (
        check_derivative,
        check_name,
        is_published,
        weights_sha256,
    )

    if not is_published(config.model):
        check_name(config.model)
        check_derivative(config.model, config.resolved().derivative)
    try:
        return weights_sha256(config.model)
    except PotentialError:
        return ""


def _finished(config: RunConfig) -> set[str]:
    from hpcbench.store.reader import Store
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(config.out)
    there = Path(folder.store).exists() or folder.path.exists()
    return set(Store(config.out).finished_ids()) if there else set()
