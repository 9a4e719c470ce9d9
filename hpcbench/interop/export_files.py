"""Rows and file names that all exports share."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcbench.store.physics import phonopy_of
from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from phonopy import Phonopy

    from hpcbench.store.reader import Store

# File systems allow 255 bytes, and an id and an ending follow.
_LONGEST_NAME = 80


def safe_name(name: str) -> str:
    """Return a text as a file name, or a part of one, that cannot lead into another folder."""
    # A leading dot hides a file; a leading dash makes it an option of a command.
    name = re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[:_LONGEST_NAME]
    return re.sub(r"^[.+-]", "_", name)


def file_name(row: Mapping[str, Any]) -> str:
    """Return name and id of a crystal; the id distinguishes crystals of the same name."""
    # The id of an earlier computation has a colon, after which scp and others expect a path on
    # another host.
    return f"{safe_name(row['name'])}-{safe_name(row['id'])}"


def file_names(store: Store) -> dict[str, str]:
    """Return different file names for all crystals of a store, by id."""
    table = store.table
    rows = ({"id": key, "name": name} for key, name in zip(table["id"], table["name"], strict=True))
    return each_its_own({str(row["id"]): file_name(row) for row in rows})


def each_its_own(names: Mapping[str, str]) -> dict[str, str]:
    """Add numbers to file names that a file system might take for the same; return them by id.

    Many file systems ignore case.
    """
    taken: set[str] = set()
    own = {}
    for key, name in names.items():
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = (one for one in itertools.chain([name], numbered) if one.casefold() not in taken)
        own[key] = next(free)
        taken.add(own[key].casefold())
    return own


def done_rows(store: Store, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of crystals with phonons, one after the other.

    Memory is bounded by a block of rows.

    Parameters
    ----------
    store : Store
        The store.
    names : sequence of str, optional
        Names of the fields to read; all by default.
    """
    paths = None
    if names is not None:
        wanted = {"id", "name", "status", *names}
        paths = [path for path, field in store.schema.by_path().items() if field.name in wanted]
    for row in store.rows(paths):
        if row["status"] == DONE:
            yield row


def named_phonons(store: Store) -> Iterator[tuple[str, dict[str, Any], Phonopy]]:
    """Yield a file name, the row and phonopy's object of each crystal with phonons."""
    names, symprec = file_names(store), store.settings["symprec"]
    for row in done_rows(store):
        yield names[row["id"]], row, phonopy_of(row, symprec)
