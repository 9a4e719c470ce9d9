"""The figures of the page on generators, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from hpcbench.analysis.breakdown import (
    by_crystal_system,
    by_number_of_elements,
    convergence,
    elements_in_stable,
    lowest_frequencies,
)
from hpcbench.analysis.generators import Outcome
from hpcbench.analysis.published import SOURCE, published_crystal_systems, published_outcomes
from hpcbench.analysis.rates import Rate
from hpcbench.report.figure import INK, OPEN, PUBLISHED, RULE, STABLE, UNSTABLE, Figure
from hpcbench.report.periodic_table import draw_periodic_table
from hpcbench.store.schema import DONE, UNDETERMINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_GENERATORS = 12
LONGEST_NAME = 48


def benchmark_figures(table: pandas.DataFrame, outcomes: Sequence[Outcome]) -> list[Figure]:
    """Return the figures of a store's generators, without empty ones.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Store.table``.
    outcomes : sequence of Outcome
        In the order of the figures' rows.
    """
    return list(_figures(table, [o for o in outcomes if o.determined]))


def _figures(table: pandas.DataFrame, outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    if not outcomes:
        return
    yield _by_generator(outcomes)
    conditions = [o for o in outcomes if o.generator.condition]
    if conditions:
        yield _by_condition(conditions)
    yield _by_crystal_system(table)
    yield _by_number_of_elements(table)
    if elements := elements_in_stable(table):
        yield _elements(elements)
    yield _convergence(outcomes)
    yield _by_threshold(outcomes, table)
    yield _lowest(table)
    if any(outcome.reasons for outcome in outcomes):
        yield _reasons(outcomes)


def _name(outcome: Outcome) -> str:
    """Return a generator's name for a figure: short enough, and of letters that can be drawn."""
    label = outcome.generator.label or "not said"
    drawable = label.encode("utf-8", errors="replace").decode()
    # Legends leave out names that begin with an underscore.
    if len(drawable) > LONGEST_NAME:
        # The end distinguishes generators, for example by the training set.
        half = LONGEST_NAME // 2
        drawable = f"{drawable[:half]} … {drawable[-half:]}"
    return drawable.lstrip("_")


def _rates_table(name: str, rates: Iterable[tuple[Any, Rate]]) -> pandas.DataFrame:
    return pandas.DataFrame(
        [(key, rate.count, rate.of, rate.share, *rate.interval) for key, rate in rates],
        columns=[name, "stable", "determined", "share", "low", "high"],
    )


def _bars(axes: Axes, data: pandas.DataFrame, names: Sequence[str], colour: str) -> None:
    """Draw horizontal bars of shares in percent with their intervals, the first at the top."""
    places = -np.arange(len(data))
    share = 100 * data["share"].to_numpy()
    errors = [share - 100 * data["low"].to_numpy(), 100 * data["high"].to_numpy() - share]
    axes.barh(places, share, 0.62, color=colour)
    # Rounding may leave a difference of -1e-15.
    axes.errorbar(share, places, xerr=np.clip(errors, 0, None), fmt="none", ecolor=INK, capsize=2)
    axes.set_yticks(places, names)
    axes.set_xlim(left=0)
    axes.set_xlabel("stable, % of those with a verdict; 95 % interval")
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def _by_generator(outcomes: Sequence[Outcome]) -> Figure:
    rates = [(_name(o), o.rates["determined"]) for o in outcomes]
    data = _rates_table("generator", rates).assign(source="here")
    theirs = {
        row.generator.label: row.rate
        for row in published_outcomes()
        if not row.generator.condition and not row.drawn_from
    }
    published = _rates_table("generator", theirs.items()).assign(source=SOURCE)
    published = published.sort_values("share", ascending=False)

    def draw(canvas: Canvas) -> None:
        shown = data.head(MOST_GENERATORS)
        both = pandas.concat([shown, published], ignore_index=True)
        axes = canvas.subplots()
        _bars(axes, both, list(both["generator"]), STABLE)
        for bar in axes.patches[len(shown) :]:
            bar.set_facecolor(PUBLISHED)
        canvas.legend(
            [axes.patches[0], axes.patches[-1]],
            ["this store, by its own criterion", "published: MatterSim-v1.0.0-5M, -0.001 THz"],
            loc="outside upper left",
            frameon=False,
            fontsize=8,
        )
        axes.axhline(-len(shown) + 0.5, color=INK, linewidth=0.8)

    return Figure(
        "rates-by-generator",
        "Stable share by generator",
        f"Above the line: this store. Below it, in grey: published ({SOURCE}; "
        "MatterSim-v1.0.0-5M, -0.001 THz on the band path).",
        pandas.concat([data, published], ignore_index=True),
        draw,
        (5.6, 1.6 + 0.24 * (len(data.head(MOST_GENERATORS)) + len(published))),
    )


def _by_condition(outcomes: Sequence[Outcome]) -> Figure:
    rates = [(_name(o), o.rates["determined"]) for o in outcomes]
    data = _rates_table("condition", rates).sort_values("condition")

    def draw(canvas: Canvas) -> None:
        _bars(canvas.subplots(), data, list(data["condition"]), STABLE)

    return Figure(
        "rates-by-condition",
        "Stable share by condition",
        "Conditions of the generation; PhononBench's Figure 3a.",
        data,
        draw,
        (5.6, 1.0 + 0.26 * len(data)),
    )


def _by_crystal_system(table: pandas.DataFrame) -> Figure:
    rates = by_crystal_system(table)
    data = _rates_table("crystal system", reversed(rates.items()))
    theirs = published_crystal_systems()
    data["published, percent"] = [theirs[name] for name in data["crystal system"]]

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        names = [
            f"{n} ({d:,})" for n, d in zip(data["crystal system"], data["determined"], strict=True)
        ]
        _bars(axes, data.fillna(0.0), names, STABLE)
        axes.plot(
            data["published, percent"], -np.arange(len(data)), "D", color=PUBLISHED, markersize=4
        )

    return Figure(
        "rates-by-crystal-system",
        "Stable share by crystal system",
        "Of the relaxed crystals, with their numbers. Diamonds: published, of CrystalFormer "
        "trained on Alex-20 (PhononBench's Figure 2a).",
        data,
        draw,
    )


def _by_number_of_elements(table: pandas.DataFrame) -> Figure:
    data = _rates_table("elements", by_number_of_elements(table).items())

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.bar(data["elements"], data["stable"], 0.62, color=STABLE, label="stable")
        axes.bar(
            data["elements"], data["determined"] - data["stable"], 0.62, bottom=data["stable"],
            color=UNSTABLE, label="unstable",
        )  # fmt: skip
        for x, top, share in zip(data["elements"], data["determined"], data["share"], strict=True):
            if not top:
                continue
            axes.annotate(f"{100 * share:.0f} %", (x, top), (0, 2), textcoords="offset points",
                          ha="center")  # fmt: skip
        axes.set_xticks(data["elements"])
        axes.set_xlabel("elements in a crystal")
        axes.set_ylabel("crystals")
        axes.legend(frameon=False)

    return Figure(
        "rates-by-number-of-elements",
        "By number of elements",
        "Crystals with a verdict, and the share of stable ones; PhononBench's Figures 2b and 3b.",
        data,
        draw,
    )


THRESHOLDS = -np.geomspace(1e-4, 10.0, 61)


def _by_threshold(outcomes: Sequence[Outcome], table: pandas.DataFrame) -> Figure:
    lowest = dict(zip(table["id"], lowest_frequencies(table, "path"), strict=True))
    parts = []
    for outcome in outcomes:
        values = np.array([lowest[key] for key in outcome.ids.get("determined", [])], dtype=float)
        values = values[np.isfinite(values)]
        shares = [
            (values >= threshold).mean() if len(values) else np.nan for threshold in THRESHOLDS
        ]
        label = _name(outcome)
        parts.append(
            pandas.DataFrame({"generator": label, "threshold, THz": THRESHOLDS, "share": shares})
        )
    data = pandas.concat(parts, ignore_index=True)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for name, part in list(data.groupby("generator", sort=False))[:MOST_GENERATORS]:
            axes.plot(-part["threshold, THz"], 100 * part["share"], label=str(name), lw=1.3)
        axes.set_xscale("log")
        axes.set_xticks([1e-4, 1e-3, 1e-2, 0.1, 1, 10], ["-0.0001", "-0.001", "-0.01", "-0.1",
                                                        "-1", "-10"])  # fmt: skip
        axes.set_ylim(0, 100)
        axes.set_xlabel("threshold, THz")
        axes.set_ylabel("no lower frequency on the path, %")
        axes.grid(color=RULE, linewidth=0.6)
        axes.legend(frameon=False, fontsize=7)

    return Figure(
        "rates-by-threshold",
        "Share by threshold",
        "Crystals without a frequency below the threshold on the path, of those with a verdict.",
        data,
        draw,
        (5.6, 3.4),
    )


def _lowest(table: pandas.DataFrame) -> Figure:
    done = table[table["status"] == DONE]
    values = done["min_frequency_path"].to_numpy(dtype=float)
    verdicts = done["verdict"].to_numpy()[np.isfinite(values)]
    values = values[np.isfinite(values)]
    edges = np.linspace(min(-1.0, *np.quantile(values, [0.02])) if len(values) else -1.0, 0.5, 31)
    clipped = np.clip(values, edges[0], edges[-1])
    data = pandas.DataFrame(
        {
            "from, THz": edges[:-1],
            "to, THz": edges[1:],
            **{
                kind: np.histogram(clipped[verdicts == kind], edges)[0]
                for kind in ("stable", UNDETERMINED, "unstable")
            },
        }
    )

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        width = edges[1] - edges[0]
        below = np.zeros(len(data))
        for kind, colour in (("stable", STABLE), (UNDETERMINED, OPEN), ("unstable", UNSTABLE)):
            if kind == UNDETERMINED and not data[kind].any():
                continue
            axes.bar(data["from, THz"], data[kind], width * 0.92, align="edge", bottom=below,
                     color=colour, label=kind)  # fmt: skip
            below += data[kind].to_numpy()
        axes.set_xlabel("lowest frequency on the path, THz; lower ones in the first bar")
        axes.set_ylabel("crystals")
        axes.legend(frameon=False)

    return Figure(
        "lowest-frequencies",
        "Lowest frequencies",
        "Of all crystals with phonons; imaginary frequencies are negative.",
        data,
        draw,
    )


def _reasons(outcomes: Sequence[Outcome]) -> Figure:
    data = pandas.DataFrame(
        [
            {"generator": _name(o), "reason": kind, "entries": count}
            for o in outcomes
            for kind, count in o.reasons.items()
        ]
    )

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        wide = data.pivot_table("entries", "generator", "reason", "sum", sort=False).fillna(0)
        left = np.zeros(len(wide))
        for kind in wide.columns:
            axes.barh(-np.arange(len(wide)), wide[kind], 0.62, left=left, label=str(kind))
            left += wide[kind].to_numpy()
        axes.set_yticks(-np.arange(len(wide)), list(wide.index))
        axes.set_xlabel("entries without phonons")
        canvas.legend(loc="outside right upper", frameon=False, fontsize=7)

    return Figure(
        "reasons",
        "Why there are no phonons",
        "Entries that could not be read, and crystals that could not be computed, by reason.",
        data,
        draw,
        (5.6, 1.2 + 0.3 * data["generator"].nunique()),
    )


def _elements(counts: dict[str, int]) -> Figure:
    data = pandas.DataFrame({"element": list(counts), "stable crystals": list(counts.values())})

    def draw(canvas: Canvas) -> None:
        from matplotlib.colors import LogNorm

        norm = LogNorm(1, max(2, *counts.values()))
        draw_periodic_table(canvas.subplots(), counts, norm, lambda count: f"{count:.0f}")

    return Figure(
        "elements-in-stable-crystals",
        "Elements in stable crystals",
        "How many of the stable crystals hold an element; PhononBench's Figure 4.",
        data,
        draw,
        (7.0, 3.9),
    )


def _convergence(outcomes: Sequence[Outcome]) -> Figure:
    parts = []
    for outcome in outcomes:
        found = convergence(outcome.ids.get("determined", []), outcome.ids.get("stable", []))
        parts.append(
            pandas.DataFrame(
                {
                    "generator": _name(outcome),
                    "crystals": found.sizes,
                    "share": found.shares,
                    "low": found.low,
                    "high": found.high,
                }
            )
        )
    data = pandas.concat(parts, ignore_index=True)

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes = canvas.subplots()
        for name, part in list(data.groupby("generator", sort=False))[:MOST_GENERATORS]:
            (line,) = axes.plot(part["crystals"], 100 * part["share"], label=str(name), lw=1.3)
            axes.fill_between(
                part["crystals"], 100 * part["low"], 100 * part["high"], alpha=0.12, lw=0,
                color=line.get_color(),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("number of crystals, in random order")
        axes.set_ylabel("stable, %")
        axes.grid(color=RULE, linewidth=0.6)
        axes.legend(frameon=False, fontsize=7)

    return Figure(
        "convergence",
        "How many crystals a rate needs",
        "The stable share of the first n crystals with a verdict, with its 95 % interval; "
        "PhononBench's Figure 5.",
        data,
        draw,
        (5.6, 3.4),
    )
