"""The figures of Lee and Xia, of one store: frequencies, thermal properties, polymorphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas

from hpcbench.analysis.accuracy.polymorphs import (
    OFFSET,
    Polymorphs,
    find_polymorphs,
    transitions,
    vibrational_differences,
)
from hpcbench.analysis.accuracy.quantities import LEE_XIA_THERMAL
from hpcbench.analysis.accuracy.spectra import ALL, BIN
from hpcbench.report.accuracy.figures import STEPS, scatter
from hpcbench.report.accuracy.measured import Measured
from hpcbench.report.accuracy.polymorph_tables import polymorph_errors
from hpcbench.report.figure import INK, PUBLISHED, RULE, STABLE, UNSTABLE, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Bins along an axis of the histogram, at most: each has two pixels of a page.
_MOST_BINS = 160
_TEMPERATURES = (300.0, 1000.0)
# In meV/atom of dH: what the lower panels of transitions show.
_ZOOM = 40.0
# Compositions in the figure of their polymorphs.
_MOST_COMPOSITIONS = 50


def lee_xia_figures(one: Measured, ending: str) -> Iterator[Figure]:
    """Yield the figures of a store.

    Parameters
    ----------
    one : Measured
        The store.
    ending : str
        Of the figures' names.
    """
    if one.compared.histogram.counts:
        yield _histogram(one, ending)
    if any(len(one.errors[quantity.key].pairs) for quantity in LEE_XIA_THERMAL):
        yield _thermal(one, ending)
    polymorphs = find_polymorphs(one.compared.phases)
    if polymorphs:
        yield _compositions(one, polymorphs, ending)
    if any(len(vibrational_differences(polymorphs, t)[0]) for t in _TEMPERATURES):
        yield _differences(one, polymorphs, ending)
        yield _transitions(one, polymorphs, ending)


def _histogram(one: Measured, ending: str) -> Figure:
    histogram, found = one.compared.histogram, one.frequencies[ALL]
    bins = np.array(list(histogram.counts), dtype=np.int64)
    spread = int(np.ptp(bins)) + 1
    coarse = max(1, -(-spread // _MOST_BINS))
    image, low, high = histogram.dense(coarse)
    data = pandas.DataFrame(
        [(x * BIN, y * BIN, count) for (x, y), count in sorted(histogram.counts.items())],
        columns=["reference, THz", "potential, THz", "frequencies"],
    )

    def draw(canvas: Canvas) -> None:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import FuncFormatter

        axes = canvas.subplots()
        picture = axes.imshow(
            np.ma.masked_equal(image.T, 0),
            origin="lower",
            extent=(low, high, low, high),
            norm=LogNorm(1, max(2, int(image.max()))),
            cmap="plasma",
            interpolation="nearest",
        )
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.6)
        bar = canvas.colorbar(picture, ax=axes, label="frequencies", shrink=0.85)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_xlabel("reference, THz")
        axes.set_ylabel("potential, THz")
        _say(axes, found.mae.value, "THz", found.r2.value, 3)

    return Figure(
        f"lee-xia-4a-frequencies{ending}",
        f"All frequencies, {one.label}",
        "On the band paths of all crystals; colours count frequencies, on a logarithmic scale (Lee "
        "and Xia's Figure 4a).",
        data,
        draw,
        (4.8, 4.0),
    )


def _say(axes: Axes, mae: float, unit: str, r2: float, digits: int) -> None:
    axes.text(0.04, 0.96, f"MAE {mae:.{digits}f} {unit}\nR² {r2:.3f}".replace("-", "−"),
              transform=axes.transAxes, va="top", fontsize=8)  # fmt: skip


def _thermal(one: Measured, ending: str) -> Figure:
    errors = [one.errors[quantity.key] for quantity in LEE_XIA_THERMAL]
    data = pandas.concat(
        [
            pandas.DataFrame(
                {
                    "quantity": found.quantity.key,
                    "id": [pair.id for pair in found.pairs],
                    "reference": found.reference,
                    "potential": found.potential,
                }
            )
            for found in errors
        ],
        ignore_index=True,
    )

    def draw(canvas: Canvas) -> None:
        panels = np.array(canvas.subplots(2, 3), dtype=object)
        # Both temperatures of a quantity are one above the other.
        for place, found in enumerate(errors):
            axes = panels[place % 2, place // 2]
            scatter(axes, found.reference, found.potential, STABLE)
            axes.set_title(f"{found.quantity.title}\n{found.quantity.unit}", fontsize=8.5)
            if len(found.pairs):
                axes.axline((found.reference[0],) * 2, slope=1, color=INK, linewidth=0.6)
                _say(axes, found.mae.value, "", found.r2.value, found.quantity.digits)
            axes.tick_params(labelsize=7)
        panels[0, 0].set_ylabel("potential")
        panels[1, 0].set_ylabel("potential")
        for axes in panels[1]:
            axes.set_xlabel("reference")

    return Figure(
        f"lee-xia-7-thermal{ending}",
        f"Thermal properties, {one.label}",
        "A_vib of an atom, C_V and S_vib of the primitive cell (Lee and Xia's Figures 4c, 4d and "
        "7).",
        data,
        draw,
        (7.0, 5.2),
    )


def _compositions(one: Measured, found: list[Polymorphs], ending: str) -> Figure:
    data = pandas.DataFrame(
        {
            "composition": [some.composition for some in found],
            "polymorphs": [len(some.phases) for some in found],
        }
    ).sort_values("polymorphs", ascending=False, kind="stable")

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        part = data.head(_MOST_COMPOSITIONS)
        axes.bar(np.arange(len(part)), part["polymorphs"], 0.7, color=STABLE)
        axes.set_xticks(np.arange(len(part)), part["composition"], rotation=90, fontsize=6.5)
        axes.set_ylabel("polymorphs")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))

    more = f"; the first {_MOST_COMPOSITIONS} of {len(data):,}" * (len(data) > _MOST_COMPOSITIONS)
    return Figure(
        f"lee-xia-5a-polymorphs{ending}",
        f"Polymorphs by composition, {one.label}",
        f"Compositions with two or more crystals{more} (Lee and Xia's Figure 5a).",
        data,
        draw,
        (7.0, 2.8),
    )


def _difference_table(found: list[Polymorphs]) -> pandas.DataFrame:
    parts = []
    for temperature in _TEMPERATURES:
        enthalpy, theirs, ours = vibrational_differences(found, temperature)
        parts.append(
            pandas.DataFrame(
                {
                    "temperature, K": temperature,
                    "dH, meV/atom": enthalpy,
                    "dA_vib reference": theirs,
                    "dA_vib potential": ours,
                }
            )
        )
    return pandas.concat(parts, ignore_index=True)


def _differences(one: Measured, found: list[Polymorphs], ending: str) -> Figure:
    data = _difference_table(found)

    def draw(canvas: Canvas) -> None:
        for axes, temperature in zip(canvas.subplots(1, 2), _TEMPERATURES, strict=True):
            part = data[data["temperature, K"] == temperature]
            scatter(axes, part["dA_vib reference"], part["dA_vib potential"], STABLE)
            axes.axline((0, 0), slope=1, color=INK, linewidth=0.6)
            axes.set_title(f"{temperature:g} K", fontsize=9)
            axes.set_xlabel("ΔA_vib, reference, meV/atom")
            mae, r2 = polymorph_errors(found, temperature)
            _say(axes, mae.value, "meV/atom", r2.value, 2)
        canvas.axes[0].set_ylabel("ΔA_vib, potential, meV/atom")

    return Figure(
        f"lee-xia-5b-differences{ending}",
        f"Differences between polymorphs, {one.label}",
        "Vibrational free energy against the polymorph of lowest H (Lee and Xia's Figures 5b and "
        "5c).",
        data,
        draw,
        (6.4, 3.2),
    )


def _transitions(one: Measured, found: list[Polymorphs], ending: str) -> Figure:
    data = _difference_table(found)
    both = {t: transitions(found, t).both for t in _TEMPERATURES}

    def draw(canvas: Canvas) -> None:
        panels = np.array(canvas.subplots(2, 2), dtype=object)
        for axes, temperature in zip(panels.T, _TEMPERATURES, strict=True):
            part = data[data["temperature, K"] == temperature]
            right = max(float(part["dH, meV/atom"].max()) if len(part) else 0.0, 1.0) * 1.05
            for panel, width in zip(axes, (right, min(right, _ZOOM)), strict=True):
                shown = part[part["dH, meV/atom"] <= width]
                _draw_transitions(panel, shown, _points(found, both[temperature], temperature))
                panel.set_xlim(0, width)
            axes[0].set_title(f"{temperature:g} K", fontsize=9)
            axes[1].set_xlabel("ΔH, meV/atom")
        for panel in panels[:, 0]:
            panel.set_ylabel("ΔA_vib, meV/atom")
        panels[0, 0].legend(frameon=False, fontsize=8)

    return Figure(
        f"lee-xia-6-transitions{ending}",
        f"Transitions between polymorphs, {one.label}",
        f"Below the dashed line a polymorph is more stable than the one of lowest H; blue: less "
        f"than {OFFSET:g} meV/atom above it. Filled: transitions that both predict. Below, the "
        f"same up to {_ZOOM:g} meV/atom (Lee and Xia's Figure 6).",
        data,
        draw,
        (6.4, 5.6),
    )


def _points(
    found: list[Polymorphs], both: list[tuple[str, str]], temperature: float
) -> list[tuple[float, float, float]]:
    """Return dH, and dA_vib by reference and potential, of transitions that both predict."""
    points = []
    for one in found:
        place = one.transition(one.potential[temperature])
        if place is not None and (one.composition, one.phases[place].name) in both:
            sides = one.reference[temperature], one.potential[temperature]
            points.append((one.enthalpy[place], *(float(side[place]) for side in sides)))
    return points


def _draw_transitions(
    axes: Axes, part: pandas.DataFrame, both: list[tuple[float, float, float]]
) -> None:
    x, theirs, ours = (
        part[name] for name in ("dH, meV/atom", "dA_vib reference", "dA_vib potential")
    )
    right = max(float(x.max()) if len(x) else 0.0, 1.0) * 1.05
    line = np.array([0.0, 2 * right])
    lowest = min((float(side.min()) for side in (theirs, ours) if len(side)), default=0.0)
    bottom = min(1.15 * lowest, -2 * OFFSET)
    axes.fill_between(line, -line, OFFSET - line, color=STABLE, alpha=0.15, linewidth=0)
    axes.fill_between(line, np.minimum(bottom, -line), -line, color=PUBLISHED, alpha=0.2,
                      linewidth=0)  # fmt: skip
    axes.plot(line, -line, "--", color=INK, linewidth=0.8)
    for marker, colour, side, values, size in (
        ("o", INK, "reference", theirs, 16),
        ("^", UNSTABLE, "potential", ours, 12),
    ):
        axes.scatter(x, values, s=size, marker=marker, facecolors="none", edgecolors=colour,
                     linewidths=0.8, label=side)  # fmt: skip
    for h, by_reference, by_potential in both:
        axes.plot(h, by_reference, "o", color=INK, markersize=4.5)
        axes.plot(h, by_potential, "^", color=UNSTABLE, markersize=4.5)
    axes.set_ylim(bottom=bottom)
    axes.grid(color=RULE, linewidth=0.5)
