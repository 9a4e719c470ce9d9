"""Define the fields of a table, and blocks of rows in memory.

A table has columns (one value of a fixed shape a row) and ragged arrays (any number of values a
row). In a file they lie by their kind: ``crystals/<name>`` for scalars, ``arrays/<name>`` for
other columns, ``ragged/<name>``; see docs/store.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import StoreError

# A block is what is read, written and summed at a time: it bounds the memory of consolidation.
BLOCK_ROWS = 256
BLOCK_BYTES = 32 * 2**20

Row = Mapping[str, Any]
"""One row: values by field name; a field that is not in it has its missing value."""


class Origin(Enum):
    """Name the source of a field's values, from which its repair and reanalysis follow.

    A merge takes rows as they are, fields of any origin.
    """

    GIVEN = "given"
    """With the crystal, or from the list of the run. Kept by a reanalysis, lost with its block."""
    COMPUTED = "computed"
    """With the potential, or noted while that was done. Treated as given: nobody has it twice."""
    DERIVED = "derived"
    """From cells and force constants: computed again by a repair and by a reanalysis."""
    NOISE = "noise"
    """From what rounding and the length of displacements do to forces: computed again by a
    reanalysis where the displacements are known, else kept; lost with its block."""


@dataclass(frozen=True)
class Field:
    """One column, or one ragged array, of a table.

    Attributes
    ----------
    name : str
        Its name in the file.
    dtype : str
        ``str``, ``category`` (texts that repeat), or a numpy dtype.
    shape : tuple of int
        Shape of one value.
    unit : str
        Empty for a pure number or a text.
    meaning : str
        What it is, in a few words.
    origin : Origin
        Where its values come from.
    is_essential : bool
        Whether a row without it is no result: a repair drops rows whose value is damaged.
    stays_behind : bool
        Whether a reanalysis leaves its values in the store that it is of.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    meaning: str = ""
    _: KW_ONLY
    origin: Origin
    is_essential: bool = False
    stays_behind: bool = False

    @property
    def is_text(self) -> bool:
        """Tell whether its values are texts."""
        return self.dtype in ("str", "category")

    @property
    def missing(self) -> Any:
        """Return the value of a row that has none."""
        if self.is_text:
            return ""
        if np.dtype(self.dtype).kind == "f":
            return np.full(self.shape, np.nan)
        return np.zeros(self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class Schema:
    """The fields of a table."""

    columns: tuple[Field, ...]
    ragged: tuple[Field, ...]

    def by_path(self) -> dict[str, Field]:
        """Return all fields by their path in a file."""
        return {column_path(f): f for f in self.columns} | {ragged_path(f): f for f in self.ragged}

    def union(self, other: Schema) -> Schema:
        """Return these fields and those that only the other has, in the wider of both dtypes.

        Raises
        ------
        StoreError
            If a field is not of one kind in both.
        """
        return Schema(_union(self.columns, other.columns), _union(self.ragged, other.ragged))


def column_path(field: Field) -> str:
    """Return where a column lies in a file."""
    return f"arrays/{field.name}" if field.shape else f"crystals/{field.name}"


def ragged_path(field: Field) -> str:
    """Return where a ragged array lies in a file."""
    return f"ragged/{field.name}"


def _union(ours: Sequence[Field], theirs: Sequence[Field]) -> tuple[Field, ...]:
    fields = {field.name: field for field in ours}
    for field in theirs:
        here = fields.setdefault(field.name, field)
        if (here.shape, here.is_text) != (field.shape, field.is_text):
            raise StoreError(f"{field.name}: {_kind(here)} in one file, {_kind(field)} in another")
        if here.dtype != field.dtype and not here.is_text:
            fields[field.name] = replace(here, dtype=np.promote_types(here.dtype, field.dtype).str)
    return tuple(fields.values())


def _kind(field: Field) -> str:
    return "text" if field.is_text else f"numbers of shape {field.shape}"


@dataclass(frozen=True, eq=False)
class Ragged:
    """Ragged values of some rows.

    Attributes
    ----------
    counts : ndarray, shape (nrows,)
        How many values each row has.
    values : ndarray, shape (sum of counts, ...)
        The values of all rows, one after the other.
    """

    counts: NDArray[np.int64]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> NDArray[Any]:
        end = int(self.counts[: index + 1].sum())
        return self.values[end - int(self.counts[index]) : end]

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the values of some rows, in that order."""
        parts = np.split(self.values, np.cumsum(self.counts)[:-1]) if len(self) else []
        taken = [parts[row] for row in rows]
        return Ragged(self.counts[rows], np.concatenate(taken) if taken else self.values[:0])


Values = NDArray[Any] | Ragged


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a table, by field.

    Attributes
    ----------
    length : int
        Number of rows.
    values : dict
        By path. Columns are arrays (nrows, ...), texts of dtype object; others ``Ragged``.
    """

    length: int
    values: dict[str, Values]

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Return about how many bytes of memory it takes."""
        return sum((v.values if isinstance(v, Ragged) else v).nbytes for v in self.values.values())

    def column(self, name: str) -> NDArray[Any]:
        """Return a scalar column by its name, shape (nrows,)."""
        values = self.values[f"crystals/{name}"]
        assert not isinstance(values, Ragged), "columns are arrays"
        return values

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Block:
        """Return some of the rows, in that order."""
        wanted = np.asarray(rows, dtype=np.int64)
        return Block(
            len(wanted),
            {
                path: values.take(wanted) if isinstance(values, Ragged) else values[wanted]
                for path, values in self.values.items()
            },
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield its rows, as dictionaries by field name."""
        names = [(path.rpartition("/")[2], values) for path, values in self.values.items()]
        ragged = {
            name: np.split(values.values, np.cumsum(values.counts)[:-1])
            for name, values in names
            if isinstance(values, Ragged)
        }
        for row in range(self.length):
            yield {
                name: ragged[name][row] if isinstance(values, Ragged) else values[row]
                for name, values in names
            }


def block_of(rows: Sequence[Row], schema: Schema) -> Block:
    """Return rows by field.

    Parameters
    ----------
    rows : sequence of mapping
        By field name.
    schema : Schema
        Fields and dtypes of the block.
    """
    values: dict[str, Values] = {}
    for field in schema.columns:
        given = [row.get(field.name, field.missing) for row in rows]
        values[column_path(field)] = (
            _texts(given)
            if field.is_text
            else np.asarray(given, dtype=field.dtype).reshape(len(rows), *field.shape)
        )
    for field in schema.ragged:
        parts = [
            np.asarray(row.get(field.name, ()), dtype=field.dtype).reshape(-1, *field.shape)
            for row in rows
        ]
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        values[ragged_path(field)] = Ragged(
            counts, np.concatenate(parts) if parts else missing_values(field, 0).values
        )
    return Block(len(rows), values)


def _texts(values: Iterable[Any]) -> NDArray[Any]:
    texts = [_storable(str(value)) for value in values]
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _storable(text: str) -> str:
    """Return the text without what HDF5 cannot hold: NUL, and halves of characters."""
    if text.isascii() and "\0" not in text:
        return text
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\0", "\ufffd")


def missing_values(field: Field, length: int) -> Ragged:
    """Return a ragged array of rows that have no values.

    Parameters
    ----------
    field : Field
        The array.
    length : int
        Number of rows.
    """
    return Ragged(np.zeros(length, dtype=np.int64), np.zeros((0, *field.shape), dtype=field.dtype))


def missing_column(field: Field, length: int) -> NDArray[Any]:
    """Return a column of rows that have no value.

    Parameters
    ----------
    field : Field
        The column.
    length : int
        Number of rows.
    """
    if field.is_text:
        return _texts([""] * length)
    return np.array([field.missing] * length, dtype=field.dtype).reshape(length, *field.shape)


def conform(block: Block, schema: Schema) -> Block:
    """Return the block with exactly the fields of a schema.

    Parameters
    ----------
    block : Block
        Some rows.
    schema : Schema
        Fields and dtypes; a field that the block lacks gets missing values.
    """
    values: dict[str, Values] = {}
    for path, field in schema.by_path().items():
        there = block.values.get(path)
        if isinstance(there, Ragged):
            values[path] = Ragged(there.counts, there.values.astype(field.dtype, copy=False))
        elif there is not None:
            values[path] = there if field.is_text else there.astype(field.dtype, copy=False)
        elif path.startswith("ragged/"):
            values[path] = missing_values(field, block.length)
        else:
            values[path] = missing_column(field, block.length)
    return Block(block.length, values)


def join(blocks: Sequence[Block]) -> Block:
    """Join blocks of the same fields, one after the other."""
    if len(blocks) == 1:
        return blocks[0]
    values: dict[str, Values] = {}
    for path in blocks[0].values:
        parts = [block.values[path] for block in blocks]
        ragged = [part for part in parts if isinstance(part, Ragged)]
        columns = [part for part in parts if not isinstance(part, Ragged)]
        values[path] = (
            Ragged(
                np.concatenate([part.counts for part in ragged]),
                np.concatenate([part.values for part in ragged]),
            )
            if ragged
            else np.concatenate(columns)
        )
    return Block(sum(len(block) for block in blocks), values)


def of_good_size(blocks: Iterable[Block], schema: Schema) -> Iterator[Block]:
    """Yield the same rows in blocks as large as a block may be, or little smaller.

    A block that is too large already, of one huge crystal, stays as it is.

    Parameters
    ----------
    blocks : iterable of Block
        Blocks of any size.
    schema : Schema
        Fields and dtypes of the new ones.
    """
    waiting: list[Block] = []
    for block in (conform(block, schema) for block in blocks):
        rows, size = sum(map(len, waiting)), sum(b.nbytes for b in waiting)
        if waiting and (rows + len(block) > BLOCK_ROWS or size + block.nbytes > BLOCK_BYTES):
            yield join(waiting)
            waiting = []
        waiting.append(block)
    if waiting:
        yield join(waiting)


def blocks_of(rows: Iterable[Row], schema: Schema) -> Iterator[Block]:
    """Yield rows in blocks as large as a block may be.

    Parameters
    ----------
    rows : iterable of mapping
        By field name.
    schema : Schema
        Fields and dtypes of the blocks.
    """
    waiting: list[Row] = []
    size = 0
    for row in rows:
        more = sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))
        if waiting and (len(waiting) == BLOCK_ROWS or size + more > BLOCK_BYTES):
            yield block_of(waiting, schema)
            waiting, size = [], 0
        waiting.append(row)
        size += more
    if waiting:
        yield block_of(waiting, schema)
