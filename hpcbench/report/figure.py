"""Figures with their numbers: in a page, and as files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from hpcbench.outputs import PICTURE, folder_to_write, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

STABLE, UNSTABLE, OPEN, PUBLISHED = "#1f5a96", "#b8391f", "#7a5a00", "#8a929b"
INK, RULE = "#1d2126", "#d5d9de"
# The page's own colours, which follow the reader's choice of light or dark.
_OF_THE_PAGE = {
    STABLE: "var(--stable)",
    UNSTABLE: "var(--unstable)",
    OPEN: "var(--open)",
    PUBLISHED: "var(--soft)",
    INK: "var(--ink)",
    RULE: "var(--grid)",
}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    # Dollar signs in names of generators must not begin formulas.
    "text.parse_math": False,
    # The same drawing must give the same file.
    "svg.hashsalt": "hpcbench",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Figure:
    """A figure and its numbers.

    Attributes
    ----------
    name : str
        Of its files.
    title, caption : str
        For people.
    data : pandas.DataFrame
        The numbers.
    draw : callable
        Draws it on an empty canvas.
    size : tuple of float
        Width and height in inches.
    """

    name: str
    title: str
    caption: str
    data: pandas.DataFrame
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (5.2, 3.2)


def figure_svg(figure: Figure) -> str:
    """Render a figure for a page, in the page's own colours."""
    text = _rendered(figure, "svg").decode()
    text = text[text.index("<svg") :]
    # The page sets the size; the names of parts must be unique in a page.
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r'(\bid="|href="#|url\(#)(?=\w)', rf"\g<1>{figure.name}-", text)
    for colour, variable in _OF_THE_PAGE.items():
        text = text.replace(colour, variable)
    return re.sub(r"\n\s*", "\n", text)


def save_figures(
    figures: Sequence[Figure], path: Path, settings: str, *, force: bool = False
) -> list[Path]:
    """Write each figure as PNG and SVG, and its numbers as CSV.

    Parameters
    ----------
    figures : sequence of Figure
        The figures.
    path : Path
        The folder.
    settings : str
        The store's settings, which are written into the folder.
    force : bool
        Whether to write into a folder that is not hpcbench's.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    UsageError
        If the folder must not be written into.
    StoreError
        If a file cannot be written.
    """
    written = []
    with folder_to_write(path, settings, force=force) as folder:
        for figure in figures:
            for ending in ("png", "svg", "csv"):
                data = (
                    figure.data.to_csv(index=False).encode("utf-8", errors="replace")
                    if ending == "csv"
                    else _rendered(figure, ending)
                )
                written.append(folder / f"{figure.name}.{ending}")
                with written_whole(written[-1]) as temporary:
                    temporary.write_bytes(data)
    return written


def _rendered(figure: Figure, ending: str) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        stream = io.BytesIO()
        more: dict[str, Any] = {"transparent": True} if ending == "svg" else {"dpi": 200}
        canvas.savefig(stream, format=ending, metadata=PICTURE[ending], **more)
    return stream.getvalue()
