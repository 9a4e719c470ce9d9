"""Tables that are the same in a terminal, on a page, and in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpcbench.analysis.accuracy.statistics import Estimate
from hpcbench.analysis.rates import Rate
from hpcbench.report.drawings import number
from hpcbench.report.wording import DASH


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and a second line such as an interval."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table; a published one is marked."""

    cells: Sequence[Cell]
    is_published: bool = False


@dataclass(frozen=True)
class ErrorTable:
    """A table.

    Attributes
    ----------
    key : str
        Its name on the page.
    title, caption : str
        For people.
    columns : sequence of (str, str)
        Titles and units.
    lines : sequence of Line
        Rows.
    texts : int
        Number of first columns that hold text; the others hold numbers.
    notes : sequence of str
        What is left out, and why.
    """

    key: str
    title: str
    caption: str
    columns: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    texts: int = 1
    notes: Sequence[str] = field(default_factory=tuple)


def words(text: str) -> Cell:
    """Return a cell of text."""
    return Cell(text or DASH)


def whole(count: int | None) -> Cell:
    """Return a cell of a whole number; a dash if it is not known."""
    return Cell(DASH if count is None else f"{count:,}")


def value(found: float | None, digits: int) -> Cell:
    """Return a cell of a number; a dash if it is not known.

    Parameters
    ----------
    found : float or None
        The number.
    digits : int
        Decimals.
    """
    unknown = found is None or not math.isfinite(found)
    return Cell(DASH) if unknown else Cell(_decimals(float(found or 0.0), digits))


def estimated(found: Estimate, digits: int) -> Cell:
    """Return a cell of a statistic with its interval below; a dash if it is not known.

    Parameters
    ----------
    found : Estimate
        The statistic.
    digits : int
        Decimals.
    """
    if not math.isfinite(found.value):
        return Cell(DASH)
    # One material says nothing of others.
    if found.count < 2 or not math.isfinite(found.low):
        return value(found.value, digits)
    return Cell(
        _decimals(found.value, digits),
        f"{_decimals(found.low, digits)} to {_decimals(found.high, digits)}",
    )


def share(rate: Rate, digits: int = 1) -> Cell:
    """Return a cell of a share in percent with Wilson's interval below.

    Parameters
    ----------
    rate : Rate
        The share.
    digits : int
        Decimals.
    """
    if not rate.of:
        return Cell(DASH)
    low, high = rate.interval
    return Cell(
        _decimals(100 * rate.share, digits),
        f"{_decimals(100 * low, digits)} to {_decimals(100 * high, digits)}",
    )


def rest(rate: Rate, digits: int = 1) -> Cell:
    """Return a cell of what a share leaves of a hundred percent.

    Parameters
    ----------
    rate : Rate
        The share.
    digits : int
        Decimals.
    """
    return share(Rate(rate.of - rate.count, rate.of), digits)


def _decimals(found: float, digits: int) -> str:
    # Rounded, no number is minus zero.
    return number(round(found, digits) + 0.0, digits)


def counted_reasons(reasons: dict[str, int], what: str) -> str:
    """Return a note of crystals that are left out; empty if none are.

    Parameters
    ----------
    reasons : dict
        Number of crystals by reason.
    what : str
        Of what they are left out.
    """
    if not reasons:
        return ""
    return f"{what}: left out " + ", ".join(f"{n:,} {why}" for why, n in reasons.items())
