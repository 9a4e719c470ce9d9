"""Times of a rank by stage, and the share of time in which its potential works."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcbench.events import duration, read_events

EVENT = "stages"
"""Name of the event that holds the times of a rank."""

RELAXATION, FORCES, PREPARING, WAITING = "relaxation", "forces", "preparing", "waiting"
READING, WRITING = "reading", "writing"
PASSES = (RELAXATION, FORCES)


class Timing:
    """Seconds of one rank by stage, from the moment its potential was ready.

    The main thread's stages (relaxation and force passes, preparing supercells for the
    potential, waiting) are wall time and exclude each other. Reading and writing are wall time of
    other threads; symmetry, displacements and analysis are processor time.
    """

    def __init__(self) -> None:
        # Each stage is written by one thread only.
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._start = time.monotonic()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of a ``with`` block to a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage.

        Parameters
        ----------
        stage : str
            Name of the stage.
        seconds : float
            Wall time or processor time.
        """
        self.seconds[stage] += seconds

    def event(self) -> dict[str, float | dict[str, float]]:
        """Return the content of the event: ``wall``, and ``seconds`` by stage."""
        return {
            "wall": round(time.monotonic() - self._start, 3),
            "seconds": {stage: round(value, 3) for stage, value in sorted(self.seconds.items())},
        }


@dataclass(frozen=True)
class Stages:
    """Times of all ranks of a launch, summed.

    Attributes
    ----------
    wall : float
        Seconds from the moment each rank's potential was ready to the rank's end.
    seconds : defaultdict
        Seconds by stage.
    """

    wall: float
    seconds: defaultdict[str, float]

    @property
    def passes(self) -> float:
        """Return the share of the wall time in relaxation steps and force passes.

        It includes the neighbour lists, the optimiser's steps and the transfer of forces.
        """
        return sum(self.seconds[stage] for stage in PASSES) / self.wall if self.wall else 0.0

    def lines(self) -> str:
        """Return a summary of two lines."""
        seconds = self.seconds
        main = {stage: seconds[stage] for stage in (RELAXATION, FORCES, PREPARING, WAITING)}
        cores = {
            "phonopy": seconds["displacements"] + seconds["analysis"],
            "symmetry": seconds["symmetry"],
        }
        files = {stage: seconds[stage] for stage in (READING, WRITING)}
        return (
            f"relaxation steps and force passes under way {100 * self.passes:.0f} % of the time: "
            f"{_listed(main)}\n"
            f"processor time: {_listed(cores)} · files: {_listed(files)}"
        )


def _listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())


def read_stages(folder: Path) -> Stages | None:
    """Return the times of the latest launch from its event logs; ``None`` if there are none."""
    accounts = [
        event
        for path in sorted(folder.glob("rank-*.jsonl"))
        for event in read_events(path)[0]
        if event["event"] in (EVENT, "start")
    ]
    latest = max((event["launch"] for event in accounts), default="")
    accounts = [a for a in accounts if a["launch"] == latest and a["event"] == EVENT]
    if not accounts:
        return None
    seconds: defaultdict[str, float] = defaultdict(float)
    for account in accounts:
        for stage, value in account["seconds"].items():
            seconds[stage] += value
    return Stages(sum(account["wall"] for account in accounts), seconds)
