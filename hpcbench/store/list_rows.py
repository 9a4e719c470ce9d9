"""Read from a run's list the crystals that have no row in the store."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS, SHARED
from hpcbench.store.table_reader import TableReader

LISTED = tuple(field for field in CRYSTALS.columns if field.name in SHARED)
"""Columns of the table where nothing has a result yet."""


def unfinished_ids(folder: RunFolder, finished: Container[str]) -> list[str]:
    """Return the ids of listed crystals that are to be computed, without those that are finished.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    finished : container of str
        Ids of crystals that have a result.
    """
    if not folder.crystals.exists():
        return []
    with TableReader(folder.crystals) as reader:
        listed = zip(reader.column("id"), reader.column("reason"), strict=True)
        return [key for key, reason in listed if not reason and key not in finished]


def columns_set_aside(folder: RunFolder, stored: Container[str]) -> dict[str, NDArray[Any]]:
    """Return the columns of listed crystals that were set aside before the run; none if none were.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    stored : container of str
        Ids that have a row in the store: they are left out.
    """
    if not folder.crystals.exists():
        return {}
    with TableReader(folder.crystals) as reader:
        columns = {field.name: reader.column(field.name) for field in LISTED}
    rows = [
        row
        for row, (key, reason) in enumerate(zip(columns["id"], columns["reason"], strict=True))
        if reason and key not in stored
    ]
    return {name: column[rows] for name, column in columns.items()} if rows else {}


def listed_row(folder: RunFolder, key: str) -> dict[str, Any] | None:
    """Return the row of a crystal in the list; ``None`` if it is not there.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    key : str
        Id of the crystal.
    """
    if folder.crystals.exists():
        with TableReader(folder.crystals) as reader:
            found = np.flatnonzero(reader.column("id") == key)
            if len(found):
                return reader.row(int(found[0]))
    return None
