"""Export of the table of results: CSV, JSON, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.errors import SetupError
from hpcbench.interop.spreadsheets import harmless
from hpcbench.outputs import ATTRIBUTES

if TYPE_CHECKING:
    from hpcbench.store.reader import Store


def table_text(store: Store, kind: str) -> str:
    """Return the table as CSV, without cells that look like formulas, or JSON (a list of objects).

    Parameters
    ----------
    store : Store
        The store.
    kind : str
        "csv" or "json".
    """
    if kind == "csv":
        return str(harmless(store.table).to_csv(index=False))
    return str(store.table.to_json(orient="records", indent=1)) + "\n"


def write_csv(store: Store, path: Path) -> int:
    """Write the table as CSV; return the number of rows.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.
    """
    path.write_text(table_text(store, "csv"))
    return len(store.table)


def write_json(store: Store, path: Path) -> int:
    """Write the table as JSON; return the number of rows.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.
    """
    path.write_text(table_text(store, "json"))
    return len(store.table)


def write_parquet(store: Store, path: Path) -> int:
    """Write the table as Parquet; return the number of rows.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.

    Raises
    ------
    SetupError
        If pyarrow is not installed.
    """
    table = store.table.copy(deep=False)
    table.attrs.update(ATTRIBUTES)
    try:
        table.to_parquet(path, index=False, engine="pyarrow")
    except ImportError as error:
        raise SetupError("for Parquet files, pip install pyarrow") from error
    return len(table)
