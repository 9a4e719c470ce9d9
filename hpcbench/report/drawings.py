"""Small SVG drawings for the HTML report.

They are written here and not by matplotlib: they have a twentieth of the size, take their colours
from the page (light or dark), and keep text as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.criteria import Criterion
from hpcbench.report.band_plots import (
    LINE,
    WARNING,
    Array,
    frequency_limits,
    label_rows,
    path_points,
    runs_below_zero,
)

if TYPE_CHECKING:
    from hpcbench.store.stored_bands import Bands

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
OPEN, BEHIND = "#7a5a00", "#b3bac2"
# Largest size of one drawing in bytes: a report with 200 of them can still be sent by mail.
MOST_BYTES = 40_000
# In CSS pixels; paths have ten steps a pixel, so that they are integers.
WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP = 42, 10, 8
ROW = 14
STEPS = 10


@dataclass(frozen=True)
class _Scale:
    """A linear axis: values from ``low`` to ``high`` at pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: Any) -> Any:
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Return round values, about as many as given."""
        step = _round_up((self.high - self.low) / about)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * (1 - 1e-9))


def number(value: float, digits: int) -> str:
    """Format a number with a true minus sign.

    Parameters
    ----------
    value : float
        The number.
    digits : int
        Decimals.
    """
    return f"{value:.{digits}f}".replace("-", "−")


def plain(value: float) -> str:
    """Format a number with at most six digits and true minus signs; 1e-05 is 10⁻⁵."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    if exponent:
        power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
        mantissa = power if mantissa == "1" else f"{mantissa} × {power}"
    return mantissa.replace("-", "−")


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:.0f}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}/>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg" '
        'style="font:12px system-ui,sans-serif;fill:currentColor;stroke:none">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _grid(lines: Sequence[str], width: float = 1.0) -> str:
    return f'<g style="stroke:var(--grid,#bbb);stroke-width:{width}">{"".join(lines)}</g>'


def _frame(bottom: float, top: float = TOP) -> str:
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:.1f}" '
        'style="fill:none;stroke:currentColor;stroke-opacity:.55"/>'
    )


def _axis_name(y: float, text: str) -> str:
    return _text(0, 0, text, more=f' transform="translate(11 {y:.1f}) rotate(-90)"')


def _simplified(x: Array, y: Array, tolerance: float) -> tuple[Array, Array]:
    """Return the fewest points of a line that deviate from it by at most ``tolerance`` in y."""
    keep = np.zeros(len(x), dtype=bool)
    keep[[0, -1]] = True
    parts = [(0, len(x) - 1)]
    while parts:
        a, b = parts.pop()
        if b - a < 2:
            continue
        slope = (y[b] - y[a]) / max(x[b] - x[a], 1e-12)
        away = np.abs(y[a + 1 : b] - y[a] - slope * (x[a + 1 : b] - x[a]))
        furthest = int(away.argmax())
        if away[furthest] > tolerance:
            middle = a + 1 + furthest
            keep[middle] = True
            parts += [(a, middle), (middle, b)]
    return x[keep], y[keep]


def _path_data(x: Array, y: Array) -> str:
    """Return a line as SVG path data, in whole steps of a tenth of a pixel."""
    points = np.rint(np.column_stack([x, y]) * STEPS).astype(int)
    moves = np.diff(points, axis=0)
    moves = moves[moves.any(axis=1)]
    # "l5 3-2 1": a minus sign separates numbers as a blank does.
    steps = re.sub(" -", "-", " ".join(map(str, moves.ravel().tolist())))
    return f"M{points[0, 0]} {points[0, 1]}l{steps}" if steps else ""


def bands_svg(bands: Bands, behind: Bands | None = None) -> str:
    """Draw a band structure as an inline ``<svg>`` of at most about 40 kB.

    Colours are CSS variables with defaults: ``--line``, ``--unstable`` (imaginary), ``--grid``, and
    ``--behind`` for the bands behind.

    Parameters
    ----------
    bands : Bands
        From ``Store.bands``; frequencies in THz.
    behind : Bands, optional
        Other bands at the same q, which are drawn behind: a reference's.
    """
    points = path_points(bands)
    x = _Scale(points[0][0], points[-1][0], LEFT, WIDTH - RIGHT)
    places = [x(position) for position, _ in points]
    rows = label_rows(places, [name for _, name in points], 8.0)
    bottom = HEIGHT - 8 - ROW * (1 + max(rows))
    limits = [frequency_limits(one) for one in (bands, behind) if one is not None]
    y = _Scale(min(low for low, _ in limits), max(high for _, high in limits), bottom, TOP)
    ticks = y.ticks(6)
    # A tolerance of a third of a pixel is invisible; crowded spectra get a larger one.
    lines: list[str] = []
    for tolerance in (0.3, 0.6, 1.2, 2.4):
        lines = _lines(bands, x, y, tolerance)
        if sum(map(len, lines)) < MOST_BYTES:
            break
    style = "fill:none;stroke-linejoin:round;stroke-linecap:round;stroke-width:13"
    others = "" if behind is None else "".join(_lines(behind, x, y, 0.6))
    parts = [
        _grid([_line(place, TOP, place, bottom) for place in places[1:-1]]),
        _line(
            LEFT, y(0.0), WIDTH - RIGHT, y(0.0), ' style="stroke:currentColor;stroke-dasharray:4 3"'
        ),
        f'<g transform="scale({1 / STEPS})" style="{style}">',
        *[f'<path d="{others}" style="stroke:var(--behind,{BEHIND});stroke-width:18"/>']
        * bool(others),
        *(
            f'<path d="{data}" style="stroke:var({color})"/>'
            for data, color in zip(lines, (f"--line,{LINE}", f"--unstable,{WARNING}"), strict=True)
            if data
        ),
        "</g>",
        _frame(bottom),
        *(_text(LEFT - 5, y(tick) + 4, plain(tick), "end") for tick in ticks),
        *(
            _text(place, bottom + ROW * (1 + row), name)
            for place, row, (_, name) in zip(places, rows, points, strict=True)
        ),
        _axis_name((TOP + bottom) / 2, "Frequency (THz)"),
    ]
    return _svg(HEIGHT, "Phonon band structure", parts)


def _lines(bands: Bands, x: _Scale, y: _Scale, tolerance: float) -> list[str]:
    """Return path data of the real and of the imaginary part."""
    data: dict[bool, list[str]] = {False: [], True: []}
    zero = y(0.0)
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        across, up = x(distances), zero - y(frequencies)
        for branch in up.T:
            for imaginary, xs, heights in runs_below_zero(*_simplified(across, branch, tolerance)):
                data[imaginary].append(_path_data(xs, zero - heights))
    return ["".join(data[False]), "".join(data[True])]


def share_svg(lowest: Mapping[str, Array], criteria: Sequence[Criterion], chosen: str = "") -> str:
    """Draw the stable share as a function of the threshold, as an inline ``<svg>``.

    Parameters
    ----------
    lowest : mapping of str to ndarray
        Lowest frequency of each crystal in THz, by place; minus infinity for one that is stable at
        no threshold. The first is a full line, others are dashed.
    criteria : sequence of Criterion
        Their negative thresholds (THz) are marked; others have no place on the axis.
    chosen : str
        The criterion in bold.
    """
    marked = sorted((c for c in criteria if c.threshold < 0), key=lambda c: -c.threshold)
    top = TOP + ROW * len(marked) + 4
    bottom = HEIGHT - 40
    finite = [values[np.isfinite(values)] for values in lowest.values()]
    deepest = max(float((-values).max(initial=0.0)) for values in finite)
    decades = 1 if deepest <= 10 else 2
    # The axis is the logarithm of minus the threshold: strict on the left, lenient on the right.
    x = _Scale(-4, decades, LEFT, WIDTH - RIGHT)
    y = _Scale(0, 100, bottom, top)
    parts = [_grid([_line(LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in (25, 50, 75)], 0.7)]
    for i, criterion in enumerate(marked):
        # The leftmost line is the shortest, so that no line runs through another's name.
        height = top - 6 - ROW * i
        at = x(math.log10(-criterion.threshold))
        name = f"{criterion.name} {plain(criterion.threshold)}"
        room = 7.2 * len(name) < at - 4
        bold = ' style="font-weight:650"' if criterion.name == chosen else ""
        parts += [
            _line(at, height - 9, at, bottom, ' style="stroke:currentColor;stroke-opacity:.5"'),
            _text(at - 4 if room else at + 4, height, name, "end" if room else "start", bold),
        ]
    for i, values in enumerate(lowest.values()):
        dash = ";stroke-dasharray:50 35" if i else ""
        parts.append(
            f'<path transform="scale({1 / STEPS})" d="{_steps(np.sort(-values), x, y)}" '
            f'style="fill:none;stroke:var(--line,{LINE});stroke-width:{14 if i else 20}{dash}"/>'
        )
    ticks = [(x(power), plain(-(10.0**power))) for power in range(-4, decades + 1)]
    parts += [
        _frame(bottom, top),
        *(_text(min(at, WIDTH - 5 * len(name)), bottom + ROW, name) for at, name in ticks),
        *(_text(LEFT - 5, y(tick) + 4, f"{tick}", "end") for tick in (0, 25, 50, 75, 100)),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "Threshold (THz)"),
        _axis_name((top + bottom) / 2, "Share (%)"),
    ]
    return _svg(HEIGHT, "Stable share as a function of the threshold", parts)


def _steps(depths: Array, x: _Scale, y: _Scale) -> str:
    """Return the cumulative share of sorted depths as stairs, resolved to half a pixel."""
    powers = np.linspace(x.low, x.high, 2 * (WIDTH - LEFT - RIGHT))
    shares = 100.0 * np.searchsorted(depths, 10.0**powers, side="right") / len(depths)
    across = np.rint(x(powers) * STEPS).astype(int)
    up = np.rint(y(shares) * STEPS).astype(int)
    data = [f"M{across[0]} {up[0]}"]
    data += [f"H{across[i]}V{up[i]}" for i in np.flatnonzero(np.diff(up)) + 1]
    return "".join(data) + f"H{across[-1]}"


def histogram_svg(lowest: Array, verdicts: Sequence[str]) -> str:
    """Draw a histogram of lowest frequencies, stacked by verdict, as an inline ``<svg>``.

    Parameters
    ----------
    lowest : ndarray, shape (n,)
        Lowest frequency of each crystal in THz.
    verdicts : sequence of str
        Of each crystal: ``stable`` or ``unstable``; anything else counts as undetermined.
    """
    said = np.array(verdicts)
    kinds = {
        "stable": (said == "stable", f"--stable,{LINE}"),
        "undetermined": (~np.isin(said, ("stable", "unstable")), f"--open,{OPEN}"),
        "unstable": (said == "unstable", f"--unstable,{WARNING}"),
    }
    # One crystal that has fallen apart should not squeeze all others into one bar.
    low = float(np.quantile(lowest, 0.02)) if len(lowest) >= 100 else float(lowest.min())
    low, high = min(low, -0.1), max(float(lowest.max()), 0.1)
    width = _round_up((high - low) / 50)
    # Zero is in the middle of a bar: noise of the acoustic modes at Gamma has both signs.
    first, last = round(low / width) - 1, round(high / width) + 1
    bins = np.clip(np.rint(lowest / width).astype(int), first, last) - first
    counts = {
        name: np.bincount(bins[mask], minlength=last - first + 1)
        for name, (mask, _) in kinds.items()
    }
    bottom = HEIGHT - 40
    x = _Scale((first - 0.5) * width, (last + 0.5) * width, LEFT, WIDTH - RIGHT)
    y = _Scale(0, 1.06 * float(np.sum(list(counts.values()), axis=0).max()), bottom, TOP)
    ticks = [tick for tick in y.ticks(5) if tick == round(tick)]
    parts = [_grid([_line(LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in ticks[1:]], 0.7)]
    for i in range(last - first + 1):
        base = 0
        for name, (_, color) in kinds.items():
            if count := int(counts[name][i]):
                left, right = x((first + i - 0.5) * width), x((first + i + 0.5) * width)
                floor, ceiling = y(base), y(base + count)
                below = "at most " if i == 0 else ""
                about = f"{below}{plain(round((first + i) * width, 9))} THz: {count} {name}"
                parts.append(
                    f'<rect x="{left + 0.5:.1f}" y="{ceiling:.1f}" width="{right - left - 1:.1f}" '
                    f'height="{floor - ceiling:.1f}" style="fill:var({color})">'
                    f"<title>{about}</title></rect>"
                )
                base += count
    parts += [
        _frame(bottom),
        *(_text(x(t), bottom + ROW, plain(round(t, 9))) for t in x.ticks(6)),
        *(_text(LEFT - 5, y(tick) + 4, _count(tick), "end") for tick in ticks),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "Lowest frequency on the band path (THz)"),
        _axis_name((TOP + bottom) / 2, "Crystals"),
    ]
    return _svg(HEIGHT, "Histogram of lowest frequencies on the band path", parts)
