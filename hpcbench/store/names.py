"""Names of crystals and of rows that belong to them, and the ids that they stand for."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from hpcbench.store.schema import AGAIN, BESIDE, REFERENCE, WITHOUT_NAC

if TYPE_CHECKING:
    import pandas


def ids_of(table: pandas.DataFrame, words: str) -> list[str]:
    """Return the ids of crystals by a name, or by the beginning of an id.

    Parameters
    ----------
    table : DataFrame
        Of a store, with the column ``name``, by id.
    words : str
        The name, or at least four characters of an id.
    """
    return list(table.index[table["name"] == words]) or [
        key for key in table.index if len(words) >= 4 and key.startswith(words)
    ]


def hint_of(table: pandas.DataFrame, words: str) -> str:
    """Return what a message says to whoever has named a crystal that is not there.

    Parameters
    ----------
    table : DataFrame
        As :func:`ids_of` takes it.
    words : str
        The name that was given.
    """
    names = list(dict.fromkeys(table["name"]))
    near = [name for name in names if name.startswith(words)][:3]
    near = near or difflib.get_close_matches(words, names[:10_000], 3)
    return f"; did you mean {' or '.join(near)}?" if near else ": give an id or a name"


def is_history(key: str) -> bool:
    """Tell whether a row that belongs to a crystal is of a computation before the last one."""
    return not key.endswith(tuple(f"{AGAIN}{kind}" for kind in (BESIDE, WITHOUT_NAC, REFERENCE)))


def is_beside(key: str) -> bool:
    """Tell whether a row that belongs to a crystal is of the protocol beside."""
    return key.endswith(f"{AGAIN}{BESIDE}")


def is_reference(key: str) -> bool:
    """Tell whether a row that belongs to a crystal is of what it was validated against."""
    return key.endswith(f"{AGAIN}{REFERENCE}")
