"""Band structures: parts that all drawings share, and pictures for papers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import SetupError, UsageError
from hpcbench.outputs import PICTURE, file_to_write, replacing

if TYPE_CHECKING:
    from hpcbench.store.stored_bands import Bands

Array = NDArray[np.float64]

FORMATS = ("png", "svg", "pdf")
LINE, WARNING = "#1f4e79", "#c0392b"
GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def point_label(name: str) -> str:
    """Return a q-point's name as it is printed: ``GAMMA`` is Γ, ``S_0`` is S₀."""
    head, _, index = name.partition("_")
    return (GREEK.get(head, head) + index.translate(SUBSCRIPTS)).replace("'", "′")


def path_points(bands: Bands) -> list[tuple[float, str]]:
    """Return positions in 1/A and names of the path's special points; ``U|K`` is a break."""
    points = [(float(bands.distances[0][0]), point_label(bands.labels[0][0]))]
    for i, (distances, (_, last)) in enumerate(zip(bands.distances, bands.labels, strict=True)):
        after = bands.labels[i + 1][0] if i + 1 < len(bands.labels) else last
        name = point_label(last)
        if after != last:
            name += f"|{point_label(after)}"
        points.append((float(distances[-1]), name))
    return points


def label_rows(positions: Sequence[float], names: Sequence[str], letter: float) -> list[int]:
    """Return the row of each label, such that labels do not overlap.

    Parameters
    ----------
    positions : sequence of float
        Centres of the labels, ascending.
    names : sequence of str
        Their texts.
    letter : float
        Width of a character, in the unit of the positions.
    """
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


def runs_below_zero(x: Array, y: Array) -> Iterator[tuple[bool, Array, Array]]:
    """Cut a line where it crosses zero.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Points of the line.

    Yields
    ------
    bool, ndarray, ndarray
        Whether the run is below zero, and its points.
    """
    crossing = np.flatnonzero((y[:-1] < 0) != (y[1:] < 0))
    share = y[crossing] / (y[crossing] - y[crossing + 1])
    at = x[crossing] + share * (x[crossing + 1] - x[crossing])
    x, y = np.insert(x, crossing + 1, at), np.insert(y, crossing + 1, 0.0)
    cuts = crossing + 1 + np.arange(len(crossing))
    for start, end in zip([0, *cuts], [*cuts, len(x) - 1], strict=True):
        yield bool(y[start : end + 1].min() < 0), x[start : end + 1], y[start : end + 1]


def frequency_limits(bands: Bands) -> tuple[float, float]:
    """Return the limits of the frequency axis in THz: zero or below the lowest imaginary mode."""
    low = min(float(f.min()) for f in bands.frequencies)
    high = max(max(float(f.max()) for f in bands.frequencies), 0.0)
    room = 0.04 * max(high - low, 0.1)
    # Noise of the acoustic modes at Gamma should not extend the axis below zero.
    return (low - room if low < -room / 2 else -room / 4), high + room


def save_bands(bands: Bands, path: Path, *, title: str = "", force: bool = False) -> Path:
    """Draw a band structure into a file.

    Frequencies are in THz; imaginary ones are drawn below zero, in red.

    Parameters
    ----------
    bands : Bands
        From ``Store.bands``.
    path : Path
        The file; its ending chooses the format: ``.png``, ``.svg`` or ``.pdf``.
    title : str
        Printed above.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        If the ending is another, or there is something that must not be replaced.
    SetupError
        If matplotlib is not installed.
    StoreError
        If the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(f"{path}: the file's ending has to be .png, .svg or .pdf")
    file_to_write(path, force=force)
    figure = _figure(bands, title)
    with replacing(path, force=force) as temporary, warnings.catch_warnings():
        # Letters of a title that the font lacks become boxes, without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format=kind, dpi=200, metadata=PICTURE[kind])
    return path


def _figure(bands: Bands, title: str) -> Any:
    try:
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError(f"{error}: pip install 'hpcbench-phonons[report]'") from error

    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    below: dict[bool, list[Array]] = {False: [], True: []}
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        for branch in frequencies.T:
            for imaginary, x, y in runs_below_zero(distances, branch):
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
    axes.set_ylim(frequency_limits(bands))
    # The width holds about 90 letters of this size.
    rows = label_rows([p for p, _ in points], [n for _, n in points], (end - start) / 62)
    axes.set_xticks(
        [position for position, _ in points],
        ["\n" * row + name for row, (_, name) in zip(rows, points, strict=True)],
    )
    axes.tick_params(axis="x", length=0, labelsize=10)
    axes.tick_params(axis="y", direction="in", right=True, labelsize=9)
    axes.set_ylabel("Frequency (THz)", fontsize=10)
    if title:
        # A name may have dollar signs, which would begin a formula.
        axes.set_title(" ".join(title.split())[:80], fontsize=10, parse_math=False)
    return figure
