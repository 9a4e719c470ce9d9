"""Watch calls of the potential: what it is at, and whether it will ever come back."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hpcbench.crystal import Crystal

# A call that takes longer than this, and so many times what was predicted for all of the crystals
# in it, is worth a word; again whenever that has doubled.
LONGEST_SILENCE = 60.0
TIMES_PREDICTED = 20.0
# Seconds that a call may still take when the run was asked to stop: clusters kill after 30.
PATIENCE = 8.0
MOST_NAMED = 3


@dataclass
class Watchdog:
    """Tell what the potential computes, since when, and that it takes too long.

    The thread that calls the potential says what it does; another one looks.

    Attributes
    ----------
    predicted : callable
        Seconds that a crystal was predicted to take in all, by its id.
    tell : callable
        Told a sentence.
    """

    predicted: Callable[[str], float] = lambda key: 0.0
    tell: Callable[[str], None] = lambda text: print(
        f"hpcbench: {text}", file=sys.stderr, flush=True
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _crystals: Sequence[Crystal] = field(default=(), init=False)
    _potential: Any = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)
    _told: float = field(default=0.0, init=False)

    def begin(self, crystals: Sequence[Crystal], potential: Any) -> None:
        """Say that the potential is about to be called for some of these crystals.

        Parameters
        ----------
        crystals : sequence of Crystal
            Those that it may be called for.
        potential : Any
            It; ``at`` is the structure that it computes, where it says so.
        """
        with self._lock:
            self._crystals, self._potential = crystals, potential
            self._since, self._told = time.monotonic(), 0.0

    def end(self) -> None:
        """Say that it has come back."""
        with self._lock:
            self._crystals, self._potential = (), None

    @property
    def seconds(self) -> float:
        """Return how long it has been at what it is at; 0 between two calls."""
        with self._lock:
            return time.monotonic() - self._since if self._potential is not None else 0.0

    def crystals(self) -> list[Crystal]:
        """Return those that it may be at."""
        with self._lock:
            candidates, at = list(self._crystals), getattr(self._potential, "at", None)
        if at is None:
            return candidates
        there = composition(at.numbers)
        return [one for one in candidates if composition(one.numbers) == there] or candidates

    def is_overdue(self) -> bool:
        """Tell whether it has been at it for longer than can be believed."""
        return self.seconds > self._limit()

    def look(self) -> None:
        """Say so where it takes too long."""
        seconds = self.seconds
        if seconds > max(self._limit(), 2 * self._told):
            self._told = seconds
            predicted = sum(self.predicted(one.id) for one in self.crystals())
            self.tell(
                f"the potential has been at {names(self.crystals())} for {seconds:.0f} s; "
                f"{predicted:.2g} s were predicted. If it does not come back, stop the run: the "
                f"same command then computes the others first"
            )

    def _limit(self) -> float:
        predicted = sum(self.predicted(one.id) for one in self.crystals())
        return max(LONGEST_SILENCE, TIMES_PREDICTED * predicted)


def composition(numbers: Any) -> dict[int, Fraction]:
    """Return shares of the elements: the same for a crystal and its supercells."""
    counted = Counter(int(z) for z in numbers)
    return {z: Fraction(count, counted.total()) for z, count in counted.items()}


def names(crystals: Sequence[Crystal]) -> str:
    """Name some crystals, for people."""
    if not crystals:
        return "a crystal"
    shown = ", ".join(one.name or one.id for one in crystals[:MOST_NAMED])
    more = len(crystals) - MOST_NAMED
    return f"{shown} or {more} more" if more > 0 else shown
