"""Figures: band structures for papers, and light SVG drawings for the HTML report.

The SVG drawings are written here and not by matplotlib: a twentieth of the size, they take their
colours from the page they stand in (light or dark), and their text is text.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import SetupError, StoreError, UsageError
from hpcbench.phonons.stability import Criterion

if TYPE_CHECKING:
    from hpcbench.store.reader import Bands

Array = NDArray[np.float64]

FORMATS = ("png", "svg", "pdf")
LINE, WARNING = "#1f4e79", "#c0392b"
GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Of one drawing, in bytes: a report with 200 of them can still be sent by mail.
MOST_BYTES = 40_000
# Drawings of the report, in CSS pixels; paths have ten steps a pixel, so that they are integers.
WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP = 42, 10, 8
ROW = 14
STEPS = 10


def point_label(name: str) -> str:
    """A q-point's name as it is printed: ``GAMMA`` is Γ, ``S_0`` is S₀."""
    head, _, index = name.partition("_")
    return (GREEK.get(head, head) + index.translate(SUBSCRIPTS)).replace("'", "′")


def path_points(bands: Bands) -> list[tuple[float, str]]:
    """Distances in 1/A and names of the path's special points; a break is named ``U|K``."""
    points = [(float(bands.distances[0][0]), point_label(bands.labels[0][0]))]
    for i, (distances, (_, last)) in enumerate(zip(bands.distances, bands.labels, strict=True)):
        after = bands.labels[i + 1][0] if i + 1 < len(bands.labels) else last
        name = point_label(last)
        if after != last:
            name += f"|{point_label(after)}"
        points.append((float(distances[-1]), name))
    return points


def _rows(positions: Sequence[float], names: Sequence[str], letter: float) -> list[int]:
    """The row of each label, such that labels ``letter`` wide a character do not overlap."""
    ends: list[float] = []
    rows = []
    for position, name in zip(positions, names, strict=True):
        half = letter * (len(name) + 0.7) / 2
        row = next((i for i, end in enumerate(ends) if position - half >= end), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = position + half
        rows.append(row)
    return rows


def _runs(x: Array, y: Array) -> Iterator[tuple[bool, Array, Array]]:
    """A line cut where it crosses zero: (whether it is below, x, y) of each run."""
    crossing = np.flatnonzero((y[:-1] < 0) != (y[1:] < 0))
    share = y[crossing] / (y[crossing] - y[crossing + 1])
    at = x[crossing] + share * (x[crossing + 1] - x[crossing])
    x, y = np.insert(x, crossing + 1, at), np.insert(y, crossing + 1, 0.0)
    cuts = crossing + 1 + np.arange(len(crossing))
    for start, end in zip([0, *cuts], [*cuts, len(x) - 1], strict=True):
        yield bool(y[start : end + 1].min() < 0), x[start : end + 1], y[start : end + 1]


def _limits(bands: Bands) -> tuple[float, float]:
    """The frequency axis in THz: from zero, or from below the lowest imaginary mode."""
    low = min(float(f.min()) for f in bands.frequencies)
    high = max(max(float(f.max()) for f in bands.frequencies), 0.0)
    room = 0.04 * max(high - low, 0.1)
    # Noise of the acoustic modes at Gamma is no reason to open the axis downwards.
    return (low - room if low < -room / 2 else -room / 4), high + room


# For papers ------------------------------------------------------------------------------------


def save_bands(bands: Bands, path: Path, *, title: str = "") -> Path:
    """Draw a band structure into a file.

    Frequencies are in THz; imaginary ones are drawn below zero, in red.

    Parameters
    ----------
    bands : Bands
        As ``Store.bands`` gives them.
    path : Path
        The file; its ending decides: ``.png``, ``.svg`` or ``.pdf``.
    title : str
        Printed above.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        If the ending is another.
    SetupError
        If matplotlib is not installed, or (``StoreError``) the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(f"{path}: the file's ending has to be .png, .svg or .pdf")
    figure = _figure(bands, title)

    def write(temporary: Path) -> None:
        with warnings.catch_warnings():
            # A title may have letters that the font lacks: boxes then, and no noise.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(temporary, format=kind, dpi=200)

    replace_file(path, write)
    return path


def _figure(bands: Bands, title: str) -> Any:
    try:
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError(f"{error}: pip install 'hpcbench[report]'") from error

    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    below: dict[bool, list[Array]] = {False: [], True: []}
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        for branch in frequencies.T:
            for imaginary, x, y in _runs(distances, branch):
                below[imaginary].append(np.column_stack([x, y]))
    for imaginary, color in ((False, LINE), (True, WARNING)):
        axes.add_collection(
            LineCollection(below[imaginary], colors=color, linewidths=1.0, capstyle="round")
        )
    points = path_points(bands)
    for position, _ in points[1:-1]:
        axes.axvline(position, color="0.6", linewidth=0.6, zorder=0)
    axes.axhline(0.0, color="0.2", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    start, end = points[0][0], points[-1][0]
    axes.set_xlim(start, end)
    axes.set_ylim(_limits(bands))
    # About 90 letters of this size go into the width.
    rows = _rows([p for p, _ in points], [n for _, n in points], (end - start) / 62)
    axes.set_xticks(
        [position for position, _ in points],
        ["\n" * row + name for row, (_, name) in zip(rows, points, strict=True)],
    )
    axes.tick_params(axis="x", length=0, labelsize=10)
    axes.tick_params(axis="y", direction="in", right=True, labelsize=9)
    axes.set_ylabel("Frequency (THz)", fontsize=10)
    if title:
        # A name from a stranger's file may have dollar signs, which would begin a formula.
        axes.set_title(" ".join(title.split())[:80], fontsize=10, parse_math=False)
    return figure


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name beside it, then give it its name.

    Raises
    ------
    StoreError
        If it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


# For the report --------------------------------------------------------------------------------


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
        """Round values, about so many."""
        step = _round_up((self.high - self.low) / about)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * (1 - 1e-9))


def number(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def plain(value: float) -> str:
    """A number with as many digits as it has, and true minus signs; 1e-05 is 10⁻⁵."""
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
    """The fewest points of a line from which it deviates by at most ``tolerance`` in y."""
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
    """A line as SVG path data, in whole steps of a tenth of a pixel."""
    points = np.rint(np.column_stack([x, y]) * STEPS).astype(int)
    moves = np.diff(points, axis=0)
    moves = moves[moves.any(axis=1)]
    # "l5 3-2 1": a minus sign parts numbers as well as a blank does.
    steps = re.sub(" -", "-", " ".join(map(str, moves.ravel().tolist())))
    return f"M{points[0, 0]} {points[0, 1]}l{steps}" if steps else ""


def bands_svg(bands: Bands) -> str:
    """A band structure as an inline ``<svg>`` of at most about 40 kB.

    Colours are CSS variables with defaults: ``--line``, ``--unstable`` (imaginary), ``--grid``.

    Parameters
    ----------
    bands : Bands
        As ``Store.bands`` gives them; frequencies in THz.
    """
    points = path_points(bands)
    x = _Scale(points[0][0], points[-1][0], LEFT, WIDTH - RIGHT)
    places = [x(position) for position, _ in points]
    rows = _rows(places, [name for _, name in points], 8.0)
    bottom = HEIGHT - 8 - ROW * (1 + max(rows))
    y = _Scale(*_limits(bands), bottom, TOP)
    ticks = y.ticks(6)
    # A tolerance of a third of a pixel cannot be seen; crowded spectra bear more.
    lines: list[str] = []
    for tolerance in (0.3, 0.6, 1.2, 2.4):
        lines = _lines(bands, x, y, tolerance)
        if sum(map(len, lines)) < MOST_BYTES:
            break
    style = "fill:none;stroke-linejoin:round;stroke-linecap:round;stroke-width:13"
    parts = [
        _grid([_line(place, TOP, place, bottom) for place in places[1:-1]]),
        _line(
            LEFT, y(0.0), WIDTH - RIGHT, y(0.0), ' style="stroke:currentColor;stroke-dasharray:4 3"'
        ),
        f'<g transform="scale({1 / STEPS})" style="{style}">',
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
    """Path data of the real and of the imaginary part."""
    data: dict[bool, list[str]] = {False: [], True: []}
    zero = y(0.0)
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        across, up = x(distances), zero - y(frequencies)
        for branch in up.T:
            for imaginary, xs, heights in _runs(*_simplified(across, branch, tolerance)):
                data[imaginary].append(_path_data(xs, zero - heights))
    return ["".join(data[False]), "".join(data[True])]


def share_svg(lowest: Mapping[str, Array], criteria: Sequence[Criterion], chosen: str = "") -> str:
    """The stable share as a function of the threshold, as an inline ``<svg>``.

    Parameters
    ----------
    lowest : mapping of str to ndarray
        Lowest frequency of each crystal in THz, by place; the first is drawn as a full line,
        others are dashed.
    criteria : sequence of Criterion
        Those whose thresholds (THz) are marked; zero or positive ones cannot be.
    chosen : str
        The criterion that is printed in bold.
    """
    marked = sorted((c for c in criteria if c.threshold < 0), key=lambda c: -c.threshold)
    top = TOP + ROW * len(marked) + 4
    bottom = HEIGHT - 40
    deepest = max(float((-values).max()) for values in lowest.values())
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
        _axis_name((top + bottom) / 2, "Share of done (%)"),
    ]
    return _svg(HEIGHT, "Stable share as a function of the threshold", parts)


def _steps(depths: Array, x: _Scale, y: _Scale) -> str:
    """The cumulative share of sorted depths, as stairs, resolved to half a pixel."""
    powers = np.linspace(x.low, x.high, 2 * (WIDTH - LEFT - RIGHT))
    shares = 100.0 * np.searchsorted(depths, 10.0**powers, side="right") / len(depths)
    across = np.rint(x(powers) * STEPS).astype(int)
    up = np.rint(y(shares) * STEPS).astype(int)
    data = [f"M{across[0]} {up[0]}"]
    data += [f"H{across[i]}V{up[i]}" for i in np.flatnonzero(np.diff(up)) + 1]
    return "".join(data) + f"H{across[-1]}"


def histogram_svg(lowest: Array, stable: NDArray[np.bool_]) -> str:
    """Histogram of lowest frequencies, stacked by verdict, as an inline ``<svg>``.

    Parameters
    ----------
    lowest : ndarray, shape (n,)
        Lowest frequency of each crystal in THz.
    stable : ndarray of bool, shape (n,)
        The verdicts.
    """
    # One crystal that has fallen apart should not squeeze all others into one bar.
    low = float(np.quantile(lowest, 0.02)) if len(lowest) >= 100 else float(lowest.min())
    low, high = min(low, -0.1), max(float(lowest.max()), 0.1)
    width = _round_up((high - low) / 50)
    # Zero is in the middle of a bar: noise of the acoustic modes at Gamma has both signs.
    first, last = round(low / width) - 1, round(high / width) + 1
    bins = np.clip(np.rint(lowest / width).astype(int), first, last) - first
    counts = [np.bincount(bins[mask], minlength=last - first + 1) for mask in (stable, ~stable)]
    bottom = HEIGHT - 40
    x = _Scale((first - 0.5) * width, (last + 0.5) * width, LEFT, WIDTH - RIGHT)
    y = _Scale(0, 1.06 * float((counts[0] + counts[1]).max()), bottom, TOP)
    ticks = [tick for tick in y.ticks(5) if tick == round(tick)]
    parts = [_grid([_line(LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in ticks[1:]], 0.7)]
    names = ("stable", "unstable")
    for i in range(last - first + 1):
        base = 0
        for name, color, values in zip(names, (LINE, WARNING), counts, strict=True):
            if count := int(values[i]):
                left, right = x((first + i - 0.5) * width), x((first + i + 0.5) * width)
                floor, ceiling = y(base), y(base + count)
                below = "at most " if i == 0 else ""
                about = f"{below}{plain(round((first + i) * width, 9))} THz: {count} {name}"
                parts.append(
                    f'<rect x="{left + 0.5:.1f}" y="{ceiling:.1f}" width="{right - left - 1:.1f}" '
                    f'height="{floor - ceiling:.1f}" style="fill:var(--{name},{color})">'
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
