"""The periodic table as a map of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hpcbench.report.figure import INK, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_periodic_table(
    axes: Axes, values: Mapping[str, float], norm: Any, text: Callable[[float], str]
) -> None:
    """Draw the elements, those with a value in its colour and with the value below the symbol.

    Parameters
    ----------
    axes : Axes
        Empty.
    values : mapping of str to float
        By symbol.
    norm : matplotlib norm
        From values to the scale of colours.
    text : callable
        Formats a value.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle
    from pymatgen.core import Element

    colours = colormaps["viridis_r"]
    for element in map(Element.from_Z, range(1, 119)):
        column, row = float(element.group), float(element.row)
        if element.is_lanthanoid or element.is_actinoid:
            column, row = element.Z - (57 if element.is_lanthanoid else 89) + 3, row + 2.4
        known = element.symbol in values
        value = values.get(element.symbol, 0.0)
        face = colours(float(norm(value))) if known else (0.0, 0.0, 0.0, 0.0)
        axes.add_patch(Rectangle((column, -row), 0.94, 0.94, facecolor=face, edgecolor=RULE))
        is_dark = sum(face[:3]) < 1.4
        ink = INK if not known else "#ffffff" if is_dark else "#000000"
        axes.text(column + 0.47, -row + 0.56, element.symbol, ha="center", va="center",
                  fontsize=7.5, color=ink)  # fmt: skip
        if known:
            axes.text(column + 0.47, -row + 0.2, text(value), ha="center", va="center",
                      fontsize=5, color=ink)  # fmt: skip
    axes.set_xlim(0.9, 19.1)
    axes.set_ylim(-9.5, 0.1)
    axes.set_aspect("equal")
    axes.axis("off")
