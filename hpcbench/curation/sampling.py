"""Random samples of a list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def sample(ids: Iterable[str], number: int, seed: int) -> set[str]:
    """Return a random sample of ids, or all of them if there are no more.

    It depends neither on their order nor on the number of ranks that read them. A larger sample of
    the same seed contains the smaller one, so that a run can be extended.

    Parameters
    ----------
    ids : iterable of str
        The ids to choose from.
    number : int
        Size of the sample.
    seed : int
        Different seeds give different samples.
    """
    return set(in_random_order(ids, seed)[:number])


def in_random_order(ids: Iterable[str], seed: int) -> list[str]:
    """Sort ids in a random order that depends on the seed alone.

    Parameters
    ----------
    ids : iterable of str
        The ids.
    seed : int
        Different seeds give different orders.
    """
    return sorted(ids, key=lambda key: _number(key, seed))


def _number(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
