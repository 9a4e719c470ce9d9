"""The store of a command, and the progress of its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.config_loading import DEFAULT_FILE, load_config

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

AGAIN = "the same hpcbench run computes what is missing"


def store_path(given: str | None) -> str:
    """Return the path of a command's store: as given, else that of the settings."""
    if given is not None:
        return given
    file = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else None
    return load_config({}, file).out


def exit_code(path: str) -> int:
    """Return 0 if all crystals are done, 1 if all are finished but some failed, else 75."""
    from hpcbench.store.reader import Store

    store = Store(path)
    unfinished, failed, _ = counts(store)
    folder = store.folder
    # A run killed before it wrote its list is not finished either.
    if unfinished or not (folder.crystals.exists() or folder.store.exists()):
        return 75
    return 1 if failed else 0


def counts(store: Store) -> tuple[int, int, int]:
    """Count crystals that are unfinished, that failed or are unreadable, and that are stable."""
    from hpcbench.store.schema import FAILED, UNREADABLE

    table = store.table
    failed = int(table["status"].isin([FAILED, UNREADABLE]).sum())
    stable = int((table["verdict"] == "stable").sum()) if "verdict" in table else 0
    return len(store.unfinished_ids()), failed, stable
