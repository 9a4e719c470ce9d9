"""Stores that commands are about, and how far their runs have come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.config_loading import DEFAULT_FILE, load_config

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

AGAIN = "the same hpcbench run computes what is missing"


def store_path(given: str | None) -> str:
    """The store that a command is about."""
    if given is not None:
        return given
    file = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else None
    return load_config({}, file).out


def exit_code(path: str) -> int:
    """0 if all crystals are done, 1 if all are finished but some failed, 75 otherwise."""
    from hpcbench.store.reader import Store

    store = Store(path)
    unfinished, failed, _ = counts(store)
    folder = store.folder
    # Killed before the list was written: nobody knows yet what there is to do.
    if unfinished or not (folder.crystals.exists() or folder.store.exists()):
        return 75
    return 1 if failed else 0


def counts(store: Store) -> tuple[int, int, int]:
    """Crystals that want computing, that failed or could not be read, and that are stable."""
    from hpcbench.store.schema import FAILED, UNREADABLE

    table = store.table
    failed = int(table["status"].isin([FAILED, UNREADABLE]).sum())
    stable = int((table["verdict"] == "stable").sum()) if "verdict" in table else 0
    return len(store.unfinished_ids()), failed, stable
