"""Say what a store's ids, settings and fields look like, no matter who wrote it."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpcbench.criteria import column_of, criteria_of
from hpcbench.errors import StoreError
from hpcbench.json_text import json_of
from hpcbench.store.fields import Field, Origin
from hpcbench.store.schema import CRYSTALS, result_schema

_LONGEST_ID = 100
_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.:+-]{{0,{_LONGEST_ID - 1}}}")
_LETTERS = (string.ascii_letters + string.digits + "_.:+-\n").encode()
_BEGINS_BADLY = re.compile(rb"\n[.:+\n-]")


def wrong_id(ids: Iterable[str]) -> str | None:
    """Return the first text that cannot be an id: ids become parts of files' names."""
    ids = list(ids)
    # All at once: opening a store of very many crystals waits for this.
    together = "\n".join(ids)
    if together.isascii():
        data = b"\n" + together.encode() + b"\n"
        if (
            not data.translate(None, _LETTERS)
            and data.count(b"\n") == len(ids) + 1
            and not _BEGINS_BADLY.search(data)
            and max(map(len, ids), default=0) <= _LONGEST_ID
        ):
            return None
    return next((key for key in ids if not _ID.fullmatch(key)), None)


@functools.cache
def known_fields() -> dict[str, Field]:
    """Return the fields of lists and results that this version knows, by name."""
    schemas = (CRYSTALS, result_schema(1, ()))
    return {field.name: field for one in schemas for field in (*one.columns, *one.ragged)}


def origin_of(name: str) -> Origin:
    """Return where the values of a field come from, by its name.

    Answers of all criteria are derived, also those of a user's own. What a later version has added
    nobody here can compute again.
    """
    if name in known_fields():
        return known_fields()[name].origin
    return Origin.DERIVED if name.startswith(column_of("")) else Origin.COMPUTED


class Settings(dict[str, Any]):
    """Hold what decided the results of a store; one that is missing is an error for people."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self._where = where

    def __missing__(self, name: str) -> Any:
        raise StoreError(f"{self._where}: its settings do not say {name!r}: it is no whole store")


def settings_of(text: str, where: str) -> Settings:
    """Read settings from JSON.

    Parameters
    ----------
    text : str
        The text.
    where : str
        Names the file in errors.

    Raises
    ------
    StoreError
        If they are no settings.
    """
    values = json_of(text, f"{where}: its settings")
    if not isinstance(values, dict):
        raise StoreError(f"{where}: its settings are no table")
    for name, is_one in _KINDS.items():
        if name in values and not is_one(values[name]):
            raise StoreError(f"{where}: its settings have a {name} that is none")
    try:
        names = {criterion.name for criterion in criteria_of(values)}
    except ValueError as error:
        raise StoreError(f"{where}: its settings have criteria that are none: {error}") from error
    if values.get("criterion", next(iter(names))) not in names:
        raise StoreError(f"{where}: its settings have a criterion that is not among its criteria")
    return Settings(values, where)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("criterion", "dtype", "hash", "model", "protocol", "relax", "weights_sha256"), _is_text
    ),
    **dict.fromkeys(
        (
            "band_points", "cutoff_frequency", "displacement", "fmax", "q_checks",
            "q_denominator", "symmetry_tolerance", "symprec",
        ),
        _is_number,
    ),
    **dict.fromkeys(("mesh", "temperatures"), _are_numbers),
    # Not a path: a file of whoever opens the store is not read.
    "criteria": lambda value: isinstance(value, list),
}  # fmt: skip
"""Checks of the settings that commands read, by name."""
