"""Members of an archive: those to read, and those that are left out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.sources import archives, contents, formats
from hpcbench.sources.archives import Member

LINKS = "links and devices in archives"


class Known(NamedTuple):
    """A member of an archive: name, size, function that opens it, and kind if it is left out."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    kind: str


def known_members(path: str, limits: Limits = DEFAULT) -> Iterator[Known]:
    """Yield members of an archive in its order, without hidden files.

    Parameters
    ----------
    path : str
        The archive.
    limits : Limits
        How much of a member is examined.

    Raises
    ------
    UnreadableError
        As :func:`archives.members`.
    """
    layouts: dict[tuple[str, str], str] = {}
    names: list[str] | None = None
    for member in archives.members(path, limits):
        if formats.is_hidden(member.name):
            continue
        parts = member.name.replace("\\", "/").split("/")
        kind = ""
        for depth, part in enumerate(parts):
            if not contents.is_of_layout(part):
                continue
            folder = "".join(f"{above}/" for above in parts[:depth])
            if (folder, part) not in layouts:
                # Members in the same folder may come later.
                names = _names(path, limits) if names is None else names
                beside = {n[len(folder) :].split("/")[0] for n in names if n.startswith(folder)}
                layouts[folder, part] = contents.layout_of(part, beside)
            kind = kind or layouts[folder, part]
        if member.open is None:
            yield Known(member.name, 0, io.BytesIO, LINKS)
            continue
        if not kind and not _is_above(member, limits):
            kind = contents.kind_left_out(member.name, member.open, limits)
        yield Known(member.name, member.size, member.open, kind)


def _is_above(member: Member, limits: Limits) -> bool:
    """Tell whether a member is larger than its format allows; the reader will report it."""
    kind = formats.format_of(member.name)
    return formats.holds_crystals(member.name) and member.size > limits.of(kind, "bytes")


def _names(path: str, limits: Limits) -> list[str]:
    names: list[str] = []
    try:
        for member in archives.members(path, limits):
            names.append(member.name.replace("\\", "/"))
    except UnreadableError:
        pass  # reading its content will report this
    return names
