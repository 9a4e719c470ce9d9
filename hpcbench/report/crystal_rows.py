"""The rows of the report's table, one for each crystal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hpcbench.criteria import PLACES
from hpcbench.report.drawings import number
from hpcbench.report.wording import DASH, formula_html, group_html, text_of
from hpcbench.store.schema import DONE, UNDETERMINED
from hpcbench.texts import one_line, shown_reason

if TYPE_CHECKING:
    from hpcbench.store.reader import Store


@dataclass(frozen=True)
class Cell:
    """A number in the table: as printed, in full (title attribute), and as a key for sorting."""

    text: str = DASH
    title: str = ""
    value: str = ""


@dataclass(frozen=True)
class CrystalRow:
    """One crystal, as it is printed."""

    anchor: str
    name: str
    formula: Markup
    group: Markup
    natoms: Cell
    steps: Cell
    lowest: tuple[Cell, ...]
    highest: Cell
    verdict: str
    style: str
    reason: str
    search: str


def lowest_q_of(store: Store) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the q of the lowest frequencies by place, then by id, in reduced coordinates."""
    # The table has scalars only, and reading thousands of single rows takes seconds.
    ids = store.ids
    return {place: dict(zip(ids, store.column(f"min_q_{place}"), strict=True)) for place in PLACES}


def _frequency(value: Any, q: NDArray[np.float64] | None = None) -> Cell:
    """Format a frequency with two decimals, and with four and its q in the title."""
    if not isinstance(value, float) or not math.isfinite(value):
        return Cell()
    # Two decimals: noise around zero has no sign, a mode just below zero keeps it.
    text = number(value if abs(value) >= 5e-4 else 0.0, 2)
    title = f"{number(value, 4)} THz"
    if q is not None and np.isfinite(q).all():
        # Adding zero takes the sign from a zero.
        title += f" at q = ({', '.join(number(float(x), 4) for x in np.round(q, 4) + 0.0)})"
    return Cell(text, title, f"{value:.6g}")


def _whole(value: Any) -> Cell:
    """Format a whole number; rows without one have NaN or nothing."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return Cell()
    return Cell(f"{value:.0f}", "", f"{value:.0f}")


def crystal_row(
    record: Mapping[str, Any],
    lowest_q: Mapping[str, Mapping[str, NDArray[np.float64]]],
    drawn: bool,
) -> CrystalRow:
    """Return a row of the table.

    Parameters
    ----------
    record : mapping
        A row of ``Store.table``.
    lowest_q : mapping
        From :func:`lowest_q_of`.
    drawn : bool
        Whether its bands are on the page, so that the row links to them.
    """
    key, status = str(record["id"]), text_of(record["status"])
    is_done = status == DONE
    verdict = text_of(record.get("verdict")) if is_done else status
    formula, name = (one_line(text_of(record.get(k))) for k in ("formula", "name"))
    said = (text_of(record.get(k)) for k in ("reason", "cause", "notes"))
    reason = "; ".join(shown_reason(text) for text in said if text)
    group = group_html(record)
    return CrystalRow(
        anchor=f"c-{key}" if drawn else "",
        name=name,
        formula=formula_html(formula) or Markup(DASH),
        group=group,
        natoms=_whole(record.get("natoms")) if formula else Cell(),
        steps=_whole(record.get("relaxation_steps")) if is_done else Cell(),
        lowest=tuple(
            _frequency(record.get(f"min_frequency_{place}"), lowest_q[place].get(key))
            for place in PLACES
        ),
        highest=_frequency(record.get("max_frequency")),
        verdict=verdict or UNDETERMINED,
        style=verdict if verdict in ("stable", "unstable") else "open",
        reason=reason,
        # The space group also as it is typed, without subscripts.
        search=" ".join(
            [name, formula, text_of(record.get("spacegroup")), group.striptags(), reason]
        ).lower(),
    )
