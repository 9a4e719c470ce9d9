"""Protection of texts in CSV files, which spreadsheets might take for formulas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

# Also the full-width characters of East Asian fonts, and after blanks, which spreadsheets strip.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARK = "'"


def as_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: with an apostrophe if needed.

    Numbers stay as they are.
    """
    return _MARK + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(text: str) -> str:
    """Return the text that :func:`as_cell` was given."""
    return text[1:] if text[:1] == _MARK and as_cell(text[1:]) != text[1:] else text


def harmless(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table for a CSV file, with its texts, column names and index protected."""
    marked = table.rename(columns=lambda name: as_cell(str(name)))
    for place, dtype in enumerate(table.dtypes):
        if dtype.kind not in "biuf":
            cells = table.iloc[:, place]
            marked.isetitem(place, [as_cell(x) if isinstance(x, str) else x for x in cells])
    marked.index = table.index.map(lambda key: as_cell(str(key)))
    return marked
