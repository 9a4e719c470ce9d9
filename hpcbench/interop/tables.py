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


def write_table(kind: str, store: Store, path: Path) -> int:
    """Write the table as a file; return the number of rows.

    Parameters
    ----------
    kind : str
        ``csv``, ``json`` or ``parquet``.
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.

    Raises
    ------
    SetupError
        If pyarrow, needed for Parquet, is not installed.
    """
    if kind != "parquet":
        path.write_text(table_text(store, kind))
        return len(store.table)
    table = store.table.copy(deep=False)
    table.attrs.update(ATTRIBUTES)
    try:
        table.to_parquet(path, index=False, engine="pyarrow")
    except ImportError as error:
        raise SetupError("for Parquet files, pip install pyarrow") from error
    return len(table)
