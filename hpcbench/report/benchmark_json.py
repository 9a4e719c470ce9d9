"""The results of generators as JSON, for other programs; see ``docs/benchmark.md``."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpcbench.analysis.breakdown import by_crystal_system, by_number_of_elements, elements_in_stable
from hpcbench.analysis.generators import Outcome, ranked_outcomes
from hpcbench.analysis.rates import Rate, rank
from hpcbench.version import __version__

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

FORMAT = "hpcbench-benchmark"
VERSION = 1


def benchmark_json(store: Store) -> dict[str, Any]:
    """Return the results of a store's generators, as JSON types.

    Unknown numbers are ``None``. If the store names no generator, there is one with an empty name.
    """
    table = store.table
    unfinished = len(store.unfinished_ids())
    outcomes = ranked_outcomes(table, complete=not unfinished)
    ranking = rank([outcome.rates["determined"] for outcome in outcomes])
    return {
        "format": FORMAT,
        "version": VERSION,
        "hpcbench": __version__,
        "settings": store.settings,
        "unfinished": unfinished,
        "of_earlier_lists": len(store.earlier),
        "generators": [
            _generator(*of_one)
            for of_one in zip(outcomes, ranking.ranks, ranking.above_next, strict=True)
        ],
        "chance_that_the_order_is_right": ranking.all_right,
        "by_crystal_system": {name: _rate(rate) for name, rate in by_crystal_system(table).items()},
        "by_number_of_elements": {
            str(number): _rate(rate) for number, rate in by_number_of_elements(table).items()
        },
        "elements_in_stable_crystals": elements_in_stable(table),
    }


def _generator(outcome: Outcome, ranks: tuple[int, int], above_next: float) -> dict[str, Any]:
    counts = {
        name: getattr(outcome, name)
        for name in (
            "generated", "readable", "unique", "sampled", "suitable", "done", "stable",
            "undetermined", "novel", "stable_and_novel", "near_hull",
        )
    }  # fmt: skip
    of_generated = {
        name: _known(outcome.of_generated(count)) if count is not None else None
        for name, count in (
            ("dynamically_stable_unique_novel", outcome.stable_and_novel),
            ("dynamically_stable_near_hull_unique_novel", outcome.near_hull),
        )
    }
    return {
        "label": outcome.generator.label,
        **asdict(outcome.generator),
        "counts": counts,
        "stable_of": {name: _rate(rate) for name, rate in outcome.rates.items()},
        "stable_by_criterion": {
            name.removeprefix("verdict_").replace("_", "-"): _rate(rate)
            for name, rate in outcome.by_criterion.items()
        },
        "of_generated": of_generated,
        "rank_between": list(ranks),
        "chance_above_next": _known(above_next),
        "entries_a_minute": outcome.speed,
        "entries_a_minute_at_batch_200": outcome.equivalent_speed,
        "mended": dict(outcome.mended),
        "reasons": dict(outcome.reasons),
        "ids": dict(outcome.ids),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return {
        "count": rate.count,
        "of": rate.of,
        "share": _known(rate.share),
        "wilson_95": [_known(low), _known(high)],
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
