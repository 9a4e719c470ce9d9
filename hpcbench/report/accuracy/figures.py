"""The figures of Loew et al. and further ones, of one or several stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from hpcbench.analysis.accuracy.frequencies import has_frequencies, mae_of
from hpcbench.analysis.accuracy.groups import GroupErrors
from hpcbench.analysis.accuracy.quantities import HIGHEST, LOEW_TABLE_2, VOLUME, Errors
from hpcbench.analysis.accuracy.spectra import ALL, PRODUCT, SQUARES
from hpcbench.analysis.breakdown import CRYSTAL_SYSTEMS
from hpcbench.report.accuracy.measured import GROUPS, Measured
from hpcbench.report.figure import INK, OPEN, PUBLISHED, RULE, STABLE, UNSTABLE, Figure
from hpcbench.report.periodic_table import draw_periodic_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = (STABLE, UNSTABLE, OPEN, "#3d7d52", "#7d4a8f")
LONGEST_NAME = 28
STEPS = (1, 2, 5, 10)
"""Steps between the numbers of an axis of counts."""
# Axes of errors leave out the outermost percent, where there are so many crystals.
_MANY = 100


def loew_figures(several: Sequence[Measured]) -> Iterator[Figure]:
    """Yield Loew's Figures 1 to 5; the data set of the first two is that of the first store."""
    yield _composition(several[0])
    yield _elements(several[0])
    yield _violins("loew-3-volume", "Errors of the volume", "Figure 3", several, (VOLUME.key,))
    keys = tuple(quantity.key for quantity in LOEW_TABLE_2)
    yield _violins("loew-4-phonons", "Errors of phonons", "Figure 4", several, keys)
    yield _highest(several)


def further_figures(several: Sequence[Measured]) -> Iterator[Figure]:
    """Yield the figures that the papers do not have: softening, and errors by group."""
    if any(one.frequencies[ALL].frequencies for one in several):
        yield _softening(several)
        # One scale for all potentials. A strange element should not squeeze all others into one
        # colour.
        found = [group.frequencies.value for one in several for group in one.groups["element"]]
        top = float(np.nanquantile(found, 0.95))
        for place, one in enumerate(several):
            yield _element_map(one, name_of(place, several), top)
        for kind in ("crystal system", "atoms"):
            yield _by_group(several, kind)
        if len(several) == 2:
            yield _one_against_other(*several)


def name_of(place: int, several: Sequence[Measured]) -> str:
    """Return the end of a figure's name: empty for a single store.

    Parameters
    ----------
    place : int
        Place of the store among them.
    several : sequence of Measured
        All stores.
    """
    return f"-{place + 1}" if len(several) > 1 else ""


def shown(one: Measured) -> str:
    """Return a potential's name for a legend, short enough."""
    name = one.label.lstrip("_")
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def _composition(one: Measured) -> Figure:
    elements = Counter(len(pair.elements) for pair in one.pairs)
    systems = Counter(pair.crystal_system for pair in one.pairs)
    rows = [("elements", str(n), elements[n]) for n in sorted(elements)]
    rows += [("crystal system", name, systems[name]) for name in CRYSTAL_SYSTEMS]
    data = pandas.DataFrame(rows, columns=["of", "value", "crystals"])

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        left, right = canvas.subplots(1, 2, width_ratios=(1, 1.5), sharey=True)
        for axes, kind in ((left, "elements"), (right, "crystal system")):
            part = data[data["of"] == kind]
            axes.bar(np.arange(len(part)), part["crystals"], 0.7, color=STABLE)
            axes.set_xticks(np.arange(len(part)), part["value"])
            axes.grid(axis="y", color=RULE, linewidth=0.6)
            axes.set_axisbelow(True)
        for label in right.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
        left.set_xlabel("elements in a crystal")
        left.set_ylabel("crystals")
        left.yaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))

    return Figure(
        "loew-1-crystals",
        "The crystals",
        "Number of elements, and crystal systems of the references (Loew's Figure 1).",
        data,
        draw,
        (5.6, 3.0),
    )


def _elements(one: Measured) -> Figure:
    counts = Counter(element for pair in one.pairs for element in pair.elements)
    data = pandas.DataFrame({"element": list(counts), "crystals": list(counts.values())})

    def draw(canvas: Canvas) -> None:
        from matplotlib.colors import LogNorm

        norm = LogNorm(1, max(2, *counts.values()))
        draw_periodic_table(canvas.subplots(), counts, norm, lambda count: f"{count:.0f}")

    return Figure(
        "loew-2-elements",
        "Elements of the crystals",
        "How many crystals hold an element (Loew's Figure 2).",
        data,
        draw,
        (7.0, 3.9),
    )


def _violins(
    name: str, title: str, figure: str, several: Sequence[Measured], keys: tuple[str, ...]
) -> Figure:
    errors = {key: [one.errors[key] for one in several] for key in keys}
    data = pandas.DataFrame(
        [
            (one.label, key, pair.id, error)
            for key, some in errors.items()
            for one, found in zip(several, some, strict=True)
            for pair, error in zip(found.pairs, found.errors.tolist(), strict=True)
        ],
        columns=["potential", "quantity", "id", "error"],
    )

    def draw(canvas: Canvas) -> None:
        panels = np.atleast_1d(np.array(canvas.subplots(1, len(keys)), dtype=object))
        for axes, some in zip(panels, errors.values(), strict=True):
            _violin(axes, some)
            quantity = some[0].quantity
            axes.set_title(f"{quantity.title}\n{quantity.unit}", fontsize=8.5)
            axes.set_xticks(
                np.arange(len(several)),
                [shown(one) for one in several],
                rotation=25 if len(several) > 1 else 0,
                fontsize=7,
            )
        panels[0].set_ylabel("potential − reference")

    return Figure(
        name,
        title,
        f"Distribution over crystals, with the mean and the 5th and 95th percentile; the outermost "
        f"percent is beyond the axis where there are many (Loew's {figure}).",
        data,
        draw,
        (5.2, 3.0) if len(keys) == 1 else (7.0, 3.0),
    )


def _violin(axes: Axes, some: Sequence[Errors]) -> None:
    """Draw the distributions of one quantity's errors, side by side."""
    for place, found in enumerate(some):
        errors, colour = found.errors, COLOURS[place % len(COLOURS)]
        if len(errors) > 2 and np.ptp(errors) > 0:
            parts: dict[str, Any] = axes.violinplot(
                [errors], [place], widths=0.8, showextrema=False, points=200
            )
            for body in parts["bodies"]:
                body.set(facecolor=colour, edgecolor=colour, alpha=0.45)
        if len(errors):
            low, high = np.quantile(errors, [0.05, 0.95])
            axes.plot([place, place], [low, high], color=INK, linewidth=1.0)
            axes.plot(place, errors.mean(), "o", color=INK, markersize=3.5)
        if 0 < len(errors) < _MANY:
            axes.plot(np.full(len(errors), place + 0.12), errors, "_", color=colour, markersize=5)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    # One violin alone is no wider than one of three.
    room = max(0.6, (3 - len(some)) / 2) if axes.get_position().width > 0.5 else 0.6
    axes.set_xlim(-room, len(some) - 1 + room)
    together = np.concatenate([found.errors for found in some])
    if len(together) >= _MANY:
        low, high = np.quantile(together, [0.005, 0.995])
        low, high = min(low, 0.0), max(high, 0.0)
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def _highest(several: Sequence[Measured]) -> Figure:
    found = [one.errors[HIGHEST.key] for one in several]
    reference = found[0].reference
    everything = np.concatenate([reference, *(one.potential for one in found)])
    top = 100 * np.ceil(everything.max(initial=100.0) / 100)
    edges = np.linspace(0.0, top, 41)
    data = pandas.DataFrame({"from, K": edges[:-1], "to, K": edges[1:]})
    data["reference"] = np.histogram(reference, edges)[0]
    for one, errors in zip(several, found, strict=True):
        data[one.label] = np.histogram(np.clip(errors.potential, 0.0, top), edges)[0]

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        axes.stairs(data["reference"], edges, fill=True, color=PUBLISHED, alpha=0.5,
                    label="reference")  # fmt: skip
        for place, one in enumerate(several):
            axes.stairs(
                data[one.label], edges, color=COLOURS[place % len(COLOURS)], linewidth=1.4,
                label=shown(one),
            )  # fmt: skip
        axes.set_xlabel("highest frequency at commensurate q, K")
        axes.set_ylabel("crystals")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
        axes.legend(frameon=False, fontsize=8)

    return Figure(
        "loew-5-highest",
        "Highest frequencies",
        "Of all crystals, by the reference and by each potential; those of the reference are of "
        "the first store (Loew's Figure 5).",
        data,
        draw,
    )


def _softening(several: Sequence[Measured]) -> Figure:
    slopes = {
        one.label: np.array(
            [
                pair.frequencies[ALL][PRODUCT] / pair.frequencies[ALL][SQUARES]
                for pair in one.pairs
                if has_frequencies(pair, ALL) and pair.frequencies[ALL][SQUARES] > 0
            ]
        )
        for one in several
    }
    everything = np.concatenate(list(slopes.values()))
    low, high = np.quantile(everything, [0.005, 0.995]) if len(everything) else (0.9, 1.1)
    edges = np.linspace(min(low, 0.9), max(high, 1.1), 31)
    data = pandas.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for label, some in slopes.items():
        data[label] = np.histogram(np.clip(some, edges[0], edges[-1]), edges)[0]

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        for place, one in enumerate(several):
            colour = COLOURS[place % len(COLOURS)]
            slope = one.frequencies[ALL].slope.value
            axes.stairs(data[one.label], edges, color=colour, linewidth=1.4,
                        label=f"{shown(one)}: {slope:.3f} over all")  # fmt: skip
            axes.axvline(slope, color=colour, linewidth=1.0, linestyle="--")
        axes.axvline(1.0, color=INK, linewidth=0.8)
        axes.set_xlabel("slope of the frequencies against the reference's")
        axes.set_ylabel("crystals")
        axes.set_ylim(top=1.25 * max(1, int(data.iloc[:, 2:].to_numpy().max())))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
        axes.legend(frameon=False, fontsize=8)

    return Figure(
        "softening",
        "Softening",
        "Slope of each crystal's frequencies on the band path; below 1 the potential is too soft.",
        data,
        draw,
    )


def _element_map(one: Measured, ending: str, top: float) -> Figure:
    groups = [g for g in one.groups["element"] if np.isfinite(g.frequencies.value)]
    values = {group.name: group.frequencies.value for group in groups}
    data = _groups_table([(one.label, group) for group in groups], "element")

    def draw(canvas: Canvas) -> None:
        from matplotlib.colors import Normalize

        norm = Normalize(0.0, max(top, 1e-6), clip=True)
        draw_periodic_table(canvas.subplots(), values, norm, lambda value: f"{value:.2f}")

    return Figure(
        f"elements{ending}",
        f"Errors by element, {one.label}",
        "Mean over the crystals that hold an element of their mean absolute error on the band "
        "path, in THz.",
        data,
        draw,
        (7.0, 3.9),
    )


def _groups_table(groups: Sequence[tuple[str, GroupErrors]], kind: str) -> pandas.DataFrame:
    return pandas.DataFrame(
        [
            (label, g.name, g.materials, g.frequencies.value, g.frequencies.low, g.frequencies.high)
            for label, g in groups
        ],
        columns=["potential", kind, "crystals", "MAE, THz", "low", "high"],
    )


def _by_group(several: Sequence[Measured], kind: str) -> Figure:
    data = _groups_table([(one.label, g) for one in several for g in one.groups[kind]], kind)
    names = list(dict.fromkeys(data[kind]))
    counts = data.groupby(kind, sort=False)["crystals"].max()

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        width = 0.8 / len(several)
        for place, one in enumerate(several):
            part = data[data["potential"] == one.label].set_index(kind).reindex(names)
            at = np.arange(len(names)) + (place - (len(several) - 1) / 2) * width
            mae = part["MAE, THz"].to_numpy()
            # One crystal has no interval.
            some = part.where(part["crystals"] > 1)
            ends = [mae - some["low"].to_numpy(), some["high"].to_numpy() - mae]
            axes.bar(at, np.nan_to_num(mae), 0.92 * width, color=COLOURS[place % len(COLOURS)],
                     label=shown(one))  # fmt: skip
            # Rounding may leave a difference of -1e-15.
            ends = np.clip(ends, 0, None)
            axes.errorbar(at, mae, yerr=ends, fmt="none", ecolor=INK, capsize=2)
        labels = [f"{name}\n({counts[name]:,})" for name in names]
        axes.set_xticks(np.arange(len(names)), labels, fontsize=8)
        axes.set_ylabel("mean absolute error, THz")
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(several) > 1:
            axes.legend(frameon=False, fontsize=8)

    return Figure(
        f"errors-{kind.replace(' ', '-')}",
        GROUPS[kind],
        "Mean over crystals of the mean absolute error on the band path, with its 95 % interval; "
        "in brackets the number of crystals.",
        data,
        draw,
        (6.0, 3.2),
    )


def _one_against_other(first: Measured, second: Measured) -> Figure:
    errors = [
        {pair.id: mae_of(pair, ALL) for pair in one.pairs if has_frequencies(pair, ALL)}
        for one in (first, second)
    ]
    common = [key for key in errors[0] if key in errors[1]]
    data = pandas.DataFrame({"id": common})
    for one, found in zip((first, second), errors, strict=True):
        data[f"{one.label}, THz"] = [found[key] for key in common]

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        x, y = (data[f"{one.label}, THz"] for one in (first, second))
        scatter(axes, x, y, STABLE)
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.8)
        axes.set_xlabel(f"{shown(first)}, THz")
        axes.set_ylabel(f"{shown(second)}, THz")
        top = 1.05 * max(*x, *y, 1e-3)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)

    return Figure(
        "side-by-side",
        "Crystal by crystal",
        "Mean absolute error on the band path by either potential: below the line the second one "
        "is better.",
        data,
        draw,
        (4.8, 4.4),
    )


def scatter(axes: Axes, x: Any, y: Any, colour: str) -> None:
    """Draw points, as a picture where there are very many.

    Parameters
    ----------
    axes : Axes
        Where to.
    x, y : array of float
        The points.
    colour : str
        Of all of them.
    """
    many = len(x) > 1500
    axes.scatter(x, y, s=4 if many else 10, color=colour, alpha=0.5, linewidths=0, rasterized=many)
