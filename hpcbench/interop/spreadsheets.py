"""Guard texts in the cells of CSV files: spreadsheets take what looks like a formula for one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

# Also as they are in East Asian fonts, and behind blanks, which spreadsheets cut off.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARK = "'"


def as_cell(text: str) -> str:
    """Give a text that no spreadsheet takes for a formula: with an apostrophe before it.

    Numbers stay as they are, as they are no harm.
    """
    return _MARK + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(text: str) -> str:
    """Give back what :func:`as_cell` was given."""
    return text[1:] if text[:1] == _MARK and as_cell(text[1:]) != text[1:] else text


def harmless(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table as it goes into a CSV file: texts, names of columns and an index of texts."""
    marked = table.rename(columns=lambda name: as_cell(str(name)))
    for place, dtype in enumerate(table.dtypes):
        if dtype.kind not in "biuf":
            cells = table.iloc[:, place]
            marked.isetitem(place, [as_cell(x) if isinstance(x, str) else x for x in cells])
    marked.index = table.index.map(lambda key: as_cell(str(key)))
    return marked
