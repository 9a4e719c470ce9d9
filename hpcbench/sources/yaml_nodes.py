"""Limits on the nodes of a YAML text, checked before any of them is made."""

from __future__ import annotations

from typing import Any

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits


def loader() -> Any:
    """Return the safe loader, in C if available."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_nodes(text: str, limits: Limits) -> None:
    """Compare the nodes of a YAML text with the limits, before any of them is made.

    An alias counts as many nodes as its anchor, which it becomes in an array.

    Parameters
    ----------
    text : str
        The text.
    limits : Limits
        Largest numbers of nodes and levels.

    Raises
    ------
    UnreadableError
        Kinds "too large", "syntax" (an alias that contains itself).
    yaml.YAMLError
        If it is not valid YAML.
    """
    import yaml

    sizes: dict[str, int] = {}
    # The anchor of each open node, and the number of nodes in it so far.
    levels: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=loader()):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(name == anchor for name, _ in levels):
                raise UnreadableError("syntax", f"the alias {anchor!r} holds itself")
            size = sizes.get(str(anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            levels.append((anchor, 1))
            limits.check("phonopy", "nesting", len(levels))
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = levels.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        else:
            continue
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        levels[-1] = (levels[-1][0], levels[-1][1] + size)
        limits.check("phonopy", "members", levels[-1][1])
