"""Columns of a store whose rows are in several files, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.store.fields import Field, Schema, column_path, missing_column
from hpcbench.store.files import Files
from hpcbench.store.list_rows import LISTED, columns_set_aside
from hpcbench.store.schema import EARLIER_LIST

if TYPE_CHECKING:
    import pandas


def schema_of(files: Files) -> Schema:
    """Return the fields of all files; to be used within :meth:`Files.steadily`."""
    schema = Schema((), ())
    known: set[tuple[str, ...]] = set()
    for part in files.parts:
        reader = files.reader(part)
        # Reading what all fields of a thousand segments are takes a minute.
        if (paths := reader.paths()) not in known:
            known.add(paths)
            schema = schema.union(reader.schema)
    return schema


def columns_of(
    files: Files, where: Mapping[str, tuple[Path, int]], fields: Sequence[Field]
) -> dict[str, NDArray[Any]]:
    """Return columns of all files, with missing values where a file does not have one.

    To be used within :meth:`Files.steadily`.

    Parameters
    ----------
    files : Files
        The files.
    where : mapping
        By id, the file and the row in it, of the crystals that are wanted.
    fields : sequence of Field
        The columns.
    """
    rows: dict[Path, list[int]] = {part: [] for part in files.parts}
    for part, index in where.values():
        rows[part].append(index)
    parts = [_columns_of_part(files, part, np.array(at), fields) for part, at in rows.items()]
    if len(parts) == 1:
        return parts[0]
    return {
        field.name: np.concatenate(
            [missing_column(field, 0), *(part[field.name] for part in parts)]
        )
        for field in fields
    }


def _columns_of_part(
    files: Files, part: Path, rows: NDArray[np.int64], fields: Sequence[Field]
) -> dict[str, NDArray[Any]]:
    reader = files.reader(part)
    is_all = len(rows) == len(reader) and (np.diff(rows) == 1).all()
    columns = {}
    for field in fields:
        if column_path(field) not in reader.paths() or not len(rows):
            columns[field.name] = missing_column(field, len(rows))
        else:
            column = reader.column(field.name)
            columns[field.name] = column if is_all else column[rows]
    return columns


def table_of(
    files: Files, where: Mapping[str, tuple[Path, int]], *, with_set_aside: bool
) -> pandas.DataFrame:
    """Return all scalar columns; to be used within :meth:`Files.steadily`.

    Parameters
    ----------
    files : Files
        The files.
    where : mapping
        As :func:`columns_of` takes it.
    with_set_aside : bool
        Whether crystals that were set aside before the run have their row from the start.
    """
    import pandas

    scalars = [field for field in schema_of(files).columns if not field.shape] or LISTED
    columns = columns_of(files, where, scalars)
    if with_set_aside:
        aside = columns_set_aside(files.folder, files.where)
        for field in scalars if aside else ():
            there = aside.get(field.name)
            if there is None:
                there = missing_column(field, len(aside["id"]))
            columns[field.name] = np.concatenate([columns[field.name], there])
    if EARLIER_LIST in columns:
        # A list that was written since the store was says more.
        columns[EARLIER_LIST] = np.array(
            [key in files.earlier for key in columns["id"]], dtype=bool
        )
    table = pandas.DataFrame(columns, index=columns["id"])
    # A name of its own would be ambiguous beside the column.
    table.index.name = None
    return table
