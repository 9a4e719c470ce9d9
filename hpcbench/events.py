"""The event log of each rank, and the progress of a run that is read from it.

A line of ``events/rank-00000.jsonl`` is one JSON object with ``time`` (Unix time), ``rank``,
``launch`` and ``event``: ``start``, ``ready``, ``crystal``, ``warning``, ``error``, ``commit``,
``stages`` (see ``account``) or ``end``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events of one rank to its file, each at once.

    The log tells people what happens; no result depends on it. So an event that cannot be
    written (a full disk) is let go.
    """

    def __init__(self, folder: Path, rank: int, launch: str, suffix: str = "") -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            path = folder / f"rank-{rank:05d}{suffix}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._common = {"rank": rank, "launch": launch}

    def write(self, event: str, **values: Any) -> None:
        """Write one event."""
        line = {"time": round(time.time(), 3), **self._common, "event": event, **values}
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._file, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events from a byte offset on, and the offset to go on from.

    A last line that is still being written is left for the next time, and a line torn by a
    kill is passed over.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    end = data.rfind(b"\n") + 1
    events = []
    for line in data[:end].splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events, offset + end


@dataclass
class Progress:
    """How far a launch has come.

    Attributes
    ----------
    launch : str
        The launch that the numbers are of: the latest one.
    total : int
        Crystals in the list, those that could not be read included.
    before : int
        Crystals that were finished before the launch.
    done, failed, stable : int
        Crystals finished in the launch, by outcome; a stable one is also done.
    ranks, ended : int
        Ranks that started, and ranks that ended.
    started, latest : float
        Unix times of the start and of the latest event.
    """

    launch: str = ""
    total: int = 0
    before: int = 0
    done: int = 0
    failed: int = 0
    stable: int = 0
    ranks: int = 0
    ended: int = 0
    started: float = 0.0
    latest: float = 0.0
    seen: set[str] = field(default_factory=set)

    @property
    def finished(self) -> int:
        """Crystals that need no more work."""
        return self.before + self.done + self.failed

    @property
    def rate(self) -> float:
        """Crystals a second in this launch; 0 where it cannot be said yet."""
        elapsed = self.latest - self.started
        return (self.done + self.failed) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; ``None`` where there is none yet."""
        left = self.total - self.finished
        return left / self.rate if self.rate > 0 else None

    def add(self, event: dict[str, Any]) -> None:
        """Count one event of this launch in."""
        self.latest = max(self.latest, event["time"])
        match event["event"]:
            case "start":
                self.ranks += 1
                self.total = event["total"]
                self.before = event["before"]
                self.started = min(self.started or event["time"], event["time"])
            case "crystal" if event["id"] not in self.seen:
                self.seen.add(event["id"])
                self.done += event["status"] == "done"
                self.failed += event["status"] != "done"
                self.stable += event.get("verdict") == "stable"
            case "end":
                self.ended += 1

    def line(self) -> str:
        """One line for people."""
        text = f"{self.finished}/{self.total} crystals, {self.stable} stable"
        if self.failed:
            text += f", {self.failed} failed"
        if self.rate > 0:
            text += f", {self.rate * 3600:.0f} an hour"
        left = self.seconds_left
        if left is not None and self.finished < self.total:
            text += f", {duration(left)} left"
        return text


class ProgressReader:
    """Follows the event logs of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._progress = Progress()

    def read(self) -> Progress:
        """The progress as the logs have it now."""
        for path in sorted(self._folder.glob("rank-*.jsonl")):
            events, self._offsets[path] = read_events(path, self._offsets.get(path, 0))
            for event in events:
                launch = event.get("launch", "")
                if launch > self._progress.launch:
                    self._progress = Progress(launch=launch)
                if launch == self._progress.launch:
                    self._progress.add(event)
        return self._progress


def duration(seconds: float) -> str:
    """A time for people: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"
