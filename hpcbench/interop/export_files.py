"""Files and names that exports have in common."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

# File systems take 255 bytes, and an id and an ending follow.
_LONGEST_NAME = 80


def safe_name(name: str) -> str:
    """Return a text as the name of a file, or a part of one: it leads out of no folder."""
    # What begins with a dot is hidden, with a dash an option of the next command.
    name = re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[:_LONGEST_NAME]
    return re.sub(r"^[.+-]", "_", name)


def file_name(row: Mapping[str, Any]) -> str:
    """Name and id of a crystal: the id keeps apart crystals of one name."""
    # Of an earlier computation there is a colon in it, by which scp and others know a host.
    return f"{safe_name(row['name'])}-{safe_name(row['id'])}"


def file_names(store: Store) -> dict[str, str]:
    """Return the names of the files of a store's crystals, by id, all of them different."""
    table = store.table
    rows = ({"id": key, "name": name} for key, name in zip(table["id"], table["name"], strict=True))
    return each_its_own({str(row["id"]): file_name(row) for row in rows})


def each_its_own(names: Mapping[str, str]) -> dict[str, str]:
    """Return names of files by id, with numbers where file systems would take two for one.

    Many do not tell capitals from small letters.
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
    """Rows of the crystals that have phonons, with all fields or those of these names.

    Reads as it goes: memory is bounded by a block of rows.
    """
    paths = None
    if names is not None:
        wanted = {"id", "name", "status", *names}
        paths = [path for path, field in store.schema.by_path().items() if field.name in wanted]
    for row in store.rows(paths):
        if row["status"] == DONE:
            yield row
