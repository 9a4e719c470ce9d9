"""Files and names that exports have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

# File systems take 255 bytes, and an id and an ending follow.
_LONGEST_NAME = 80


def safe_name(name: str) -> str:
    """A crystal's name as the name of a file."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[:_LONGEST_NAME]


def file_name(row: Mapping[str, Any]) -> str:
    """Name and id of a crystal: the id keeps apart crystals of one name."""
    # Of an earlier computation there is a colon in it, by which scp and others know a host.
    return f"{safe_name(row['name'])}-{safe_name(row['id'])}"


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
