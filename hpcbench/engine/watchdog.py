"""Watch over calls of the potential that take too long."""

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

# A call is reported that takes longer than this, and so many times the time predicted for all of
# its crystals; and again whenever its time has doubled.
LONGEST_SILENCE = 60.0
TIMES_PREDICTED = 20.0
# Seconds that a call may still take after the run was asked to stop: clusters kill after 30.
PATIENCE = 8.0
MOST_NAMED = 3


@dataclass
class Watchdog:
    """Report calls of the potential that take too long.

    The thread that calls the potential announces each call; another thread checks its time.

    Attributes
    ----------
    predicted : callable
        Returns the predicted seconds of a crystal, by its id.
    tell : callable
        Is called with a sentence to show.
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
        """Announce a call of the potential for some of these crystals.

        Parameters
        ----------
        crystals : sequence of Crystal
            Crystals that may be in the call.
        potential : Any
            The potential; its ``at``, if any, is the structure that it computes.
        """
        with self._lock:
            self._crystals, self._potential = crystals, potential
            self._since, self._told = time.monotonic(), 0.0

    def end(self) -> None:
        """Announce the end of the call."""
        with self._lock:
            self._crystals, self._potential = (), None

    @property
    def seconds(self) -> float:
        """Return the seconds since the call began; 0 between two calls."""
        with self._lock:
            return time.monotonic() - self._since if self._potential is not None else 0.0

    def crystals(self) -> list[Crystal]:
        """Return the crystals that may be computed now."""
        with self._lock:
            candidates, at = list(self._crystals), getattr(self._potential, "at", None)
        if at is None:
            return candidates
        there = composition(at.numbers)
        return [one for one in candidates if composition(one.numbers) == there] or candidates

    def is_overdue(self) -> bool:
        """Tell whether the call takes much longer than predicted."""
        return self.seconds > self._limit()

    def look(self) -> None:
        """Report the call if it takes too long."""
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
    """Return the fractions of elements, which are the same for a crystal and its supercells."""
    counted = Counter(int(z) for z in numbers)
    return {z: Fraction(count, counted.total()) for z, count in counted.items()}


def names(crystals: Sequence[Crystal]) -> str:
    """Return the names of crystals as text, at most three of them."""
    if not crystals:
        return "a crystal"
    shown = ", ".join(one.name or one.id for one in crystals[:MOST_NAMED])
    more = len(crystals) - MOST_NAMED
    return f"{shown} or {more} more" if more > 0 else shown
