"""A part of a list, chosen at random."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def sample(ids: Iterable[str], number: int, seed: int) -> set[str]:
    """So many of the ids, or all if there are no more.

    The choice does not depend on their order, nor on how many ranks have read them; a larger
    sample of the same seed holds a smaller one, so that a run can be extended.
    """
    return set(in_random_order(ids, seed)[:number])


def in_random_order(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in an order that depends on the seed alone."""
    return sorted(ids, key=lambda key: _number(key, seed))


def _number(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
