"""The page on generators as printable rows: PhononBench's tables, counted and published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from hpcbench.analysis.generators import Outcome, ranked_outcomes
from hpcbench.analysis.published import (
    PublishedOutcome,
    PublishedSize,
    PublishedSpeed,
    published_outcomes,
    published_sizes,
    published_speeds,
)
from hpcbench.analysis.rates import Ranking, Rate, rank, size_for
from hpcbench.criteria import Criterion
from hpcbench.report.benchmark_figures import benchmark_figures
from hpcbench.report.figure import figure_svg
from hpcbench.report.wording import DASH, chance_words, interval_words, rate_words

if TYPE_CHECKING:
    import pandas

NOT_SAID = "not said"
# In percentage points: PhononBench's 4,000 samples give 1.4 at a rate of 30 %.
HALF_WIDTHS = (5.0, 2.0, 1.0)
# Fewest crystals from which the required number for an interval is estimated.
FEWEST = 10


@dataclass(frozen=True)
class GeneratorRow:
    """A generator in the main table, by the rate of stable crystals.

    Attributes
    ----------
    label : str
        Its name, training set and condition.
    outcome : Outcome
        The numbers.
    share, interval : str
        Share of stable crystals among those determined, and Wilson's 95 % interval.
    share_of_suitable, share_of_sampled : str
        The share when failed relaxations count as unstable, and when all failures do.
    ranks : str
        Lowest and highest rank of the 95 % interval.
    above_next : str
        The probability that it is above the next one.
    dun, sun : str
        Share of dynamically stable, unique and novel entries among all generated ones; and of those
        that are near the hull as well.
    """

    label: str
    outcome: Outcome
    share: str
    interval: str
    share_of_suitable: str
    share_of_sampled: str
    ranks: str
    above_next: str
    dun: str
    sun: str


@dataclass(frozen=True)
class CriterionShares:
    """A generator's stable shares by each criterion."""

    label: str
    shares: list[str]


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published Tables 3 and 4, with its rate and interval computed here."""

    label: str
    published: PublishedOutcome
    share: str
    interval: str


@dataclass(frozen=True)
class SpeedRow:
    """A generator's speed: entries, hours, entries per minute, and these for a batch of 200."""

    label: str
    generated: str
    hours: str
    speed: str
    equivalent: str


@dataclass(frozen=True)
class DrawnFigure:
    """A figure of the page."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Benchmark:
    """The contents of the page on generators."""

    rows: list[GeneratorRow]
    all_right: str
    criteria: list[str]
    by_criterion: list[CriterionShares]
    published: list[PublishedRow]
    speeds: list[SpeedRow]
    published_speeds: list[PublishedSpeed]
    sizes: list[tuple[str, str, str]]
    published_sizes: list[PublishedSize]
    reasons: list[tuple[str, str, str]]
    costs: list[tuple[str, str, str]]
    small_only: bool
    needed: list[tuple[str, list[str]]]
    half_widths: list[str]
    figures: list[DrawnFigure]
    was_compared: bool
    has_hull: bool


def benchmark_of(
    table: pandas.DataFrame, criteria: Iterable[Criterion], complete: bool = True
) -> Benchmark | None:
    """Return the page's contents for a store; ``None`` if no generator is named.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Store.table``.
    criteria : iterable of Criterion
        Those of the store.
    complete : bool
        Whether nothing is left to compute.
    """
    ordered = ranked_outcomes(table, complete)
    if not any(outcome.generator.label for outcome in ordered):
        return None
    ranking = rank([outcome.rates["determined"] for outcome in ordered])
    names = [c for c in criteria if any(c.column in o.by_criterion for o in ordered)]
    return Benchmark(
        rows=[_row(outcome, ranking, place) for place, outcome in enumerate(ordered)],
        all_right=chance_words(ranking.all_right) if len(ordered) > 1 else "",
        criteria=[criterion.name for criterion in names],
        by_criterion=[
            CriterionShares(
                label_of(o), [rate_words(o.by_criterion.get(c.column, Rate(0, 0))) for c in names]
            )
            for o in ordered
        ],
        published=[
            PublishedRow(
                row.generator.label,
                row,
                rate_words(row.rate),
                interval_words(row.rate),
            )
            for row in sorted(published_outcomes(), key=lambda row: -row.rate.share)
        ],
        speeds=[_speed(o) for o in ordered if o.speed is not None],
        published_speeds=published_speeds(),
        sizes=[
            (label_of(o), o.generator.architecture or DASH, _number(o.generator.parameters, 1))
            for o in ordered
            if o.generator.architecture or o.generator.parameters
        ],
        published_sizes=published_sizes(),
        reasons=[
            (label_of(o), _listed(o.reasons), _listed(o.mended))
            for o in ordered
            if o.reasons or o.mended
        ],
        costs=[
            (label_of(o), _number(o.seconds / 3600, 2), _number(3600 * o.done / o.seconds, 0))
            for o in ordered
            if o.seconds
        ],
        small_only=any(o.too_large for o in ordered),
        needed=[(label_of(o), _needed(o.rates["determined"])) for o in ordered if o.done],
        half_widths=[f"±{width:g} %" for width in HALF_WIDTHS],
        figures=[
            DrawnFigure(figure.title, figure.caption, Markup(figure_svg(figure)))
            for figure in benchmark_figures(table, ordered)
        ],
        was_compared=any(o.novel is not None for o in ordered),
        has_hull=any(o.near_hull is not None for o in ordered),
    )


def label_of(outcome: Outcome) -> str:
    """Return the name of a generator in tables."""
    return outcome.generator.label or NOT_SAID


def _row(outcome: Outcome, ranking: Ranking, place: int) -> GeneratorRow:
    rates = outcome.rates
    first, last = ranking.ranks[place]
    return GeneratorRow(
        label=label_of(outcome),
        outcome=outcome,
        share=rate_words(rates["determined"]),
        interval=interval_words(rates["determined"]),
        share_of_suitable=rate_words(rates["suitable"]),
        share_of_sampled=rate_words(rates["sampled"]),
        ranks=str(first) if first == last else f"{first}–{last}",
        above_next=chance_words(ranking.above_next[place]),
        dun=_of_generated(outcome, outcome.stable_and_novel),
        sun=_of_generated(outcome, outcome.near_hull),
    )


def _of_generated(outcome: Outcome, count: int | None) -> str:
    share = math.nan if count is None else outcome.of_generated(count)
    return DASH if math.isnan(share) else f"{100 * share:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:,.{digits}f}"


def _speed(outcome: Outcome) -> SpeedRow:
    generator = outcome.generator
    return SpeedRow(
        label_of(outcome),
        f"{generator.generated or outcome.generated:,}",
        _number(generator.hours, 2),
        _number(outcome.speed, 1),
        _number(outcome.equivalent_speed, 1),
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) or DASH


def _needed(rate: Rate) -> list[str]:
    if rate.of < FEWEST:
        return [DASH] * len(HALF_WIDTHS)
    return [f"{size_for(rate.share, width / 100):,}" for width in HALF_WIDTHS]
