"""The event log of each rank, and the progress of a run that is read from it.

A line of ``events/rank-00000.jsonl`` is one JSON object with ``time`` (Unix time), ``rank``,
``launch`` and ``event``: ``start``, ``ready``, ``lease``, ``crystal``, ``warning``, ``error``,
``death`` (of an isolated worker), ``commit``, ``stages`` (see ``timing``) or ``end``.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.counting import counted
from hpcbench.errors import StoreError
from hpcbench.json_text import json_of

# Results of crystals are buffered before they are written, for this share of the time since the
# start, but at most for so many seconds. So a short run shows each one at once, and a long one of
# many ranks does not overload the file system.
SHARE_KEPT, LONGEST_KEPT = 0.02, 5.0


class EventLog:
    """The event log of one rank, for writing; used by several threads.

    The log informs people; no result depends on it. An event that cannot be written (a full disk)
    is dropped. Results of crystals are buffered for some seconds, so that many are written at once.
    """

    def __init__(self, folder: Path, rank: int, launch: str, suffix: str = "") -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            path = folder / f"rank-{rank:05d}{suffix}.jsonl"
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._common = {"rank": rank, "launch": launch}
        self._lock = threading.Lock()
        self._lines: list[str] = []
        if self._file is not None and _is_torn(self._file):
            self._lines.append("\n")
        self._started = self._flushed = time.monotonic()

    def write(self, event: str, **values: Any) -> None:
        """Write one event.

        Parameters
        ----------
        event : str
            Its kind.
        **values
            Its data, of JSON types.
        """
        line = {"time": round(time.time(), 3), **self._common, "event": event, **values}
        with self._lock:
            self._lines.append(json.dumps(line) + "\n")
        if event == "crystal":
            self.flush_old()
        else:
            self.flush()

    def flush_old(self) -> None:
        """Write buffered events, if they have waited long enough."""
        now = time.monotonic()
        if now - self._flushed >= min(LONGEST_KEPT, SHARE_KEPT * (now - self._started)):
            self.flush()

    def flush(self) -> None:
        """Write buffered events."""
        with self._lock:
            lines, self._lines = self._lines, []
            self._flushed = time.monotonic()
            if self._file is not None and lines:
                with contextlib.suppress(OSError):
                    os.write(self._file, "".join(lines).encode())

    def close(self) -> None:
        """Close the file."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _is_torn(file: int) -> bool:
    """Tell whether the last line has no end."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the events from a byte offset on, and the offset to continue from.

    A last line that is still being written is left for the next call, and a line torn by a kill is
    skipped.

    Parameters
    ----------
    path : Path
        The log.
    offset : int
        In bytes.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    end = data.rfind(b"\n") + 1
    events = []
    for line in data[:end].splitlines():
        try:
            events.append(json_of(line.decode(), f"{path}: an event"))
        except (ValueError, StoreError):
            continue
    return events, offset + end


@dataclass
class RankProgress:
    """The progress of one rank of a launch.

    Attributes
    ----------
    rank : int
        Its number.
    host, pid : str, int
        Host and id of its process.
    device : str
        Device of its potential; empty until that is ready.
    started, latest : float
        Unix times, by its own clock, of its start and of its latest event.
    done, failed : int
        Crystals that it has finished.
    leased : int
        Crystals that it has taken, also from dead ranks.
    wall : float
        Seconds from the moment when its potential was ready to the end of its work; 0 before that.
    ended : bool
        Whether it has ended normally.
    """

    rank: int
    host: str = ""
    pid: int = 0
    device: str = ""
    started: float = 0.0
    latest: float = 0.0
    done: int = 0
    failed: int = 0
    leased: int = 0
    wall: float = 0.0
    ended: bool = False

    @property
    def under_way(self) -> int:
        """Crystals that it has taken and not finished."""
        return max(0, self.leased - self.done - self.failed)

    @property
    def rate(self) -> float:
        """Crystals per second since its start; 0 if that is unknown."""
        elapsed = self.latest - self.started
        return (self.done + self.failed) / elapsed if elapsed > 0 else 0.0

    def add(self, event: Mapping[str, Any]) -> None:
        """Count one event of this rank."""
        self.latest = max(self.latest, event["time"])
        match event["event"]:
            case "start":
                self.host, self.pid = event.get("host", ""), event.get("pid", 0)
                self.started = event["time"]
            case "ready":
                self.device = event["device"]
            case "lease":
                self.leased += event["crystals"]
            case "crystal":
                self.done += event["status"] == "done"
                self.failed += event["status"] != "done"
            case "stages":
                self.wall += event["wall"]
            case "end":
                self.ended = True


@dataclass
class Progress:
    """The progress of a launch.

    Attributes
    ----------
    launch : str
        The launch that the numbers are about: the latest one.
    total : int
        Crystals in the list, including those that could not be read.
    before : int
        Crystals that were finished before the launch.
    done, failed, stable : int
        Crystals finished in the launch, by outcome; a stable one is also done.
    started, latest : float
        Unix times of the start and of the latest event.
    by_rank : dict
        The progress of each rank, by its number.
    costs : mapping
        Predicted seconds by id of all crystals to be computed, from which the remaining time is
        estimated. Expensive crystals come first, so their number alone would mislead.
    seen : set of str
        Ids of the crystals finished in the launch.
    """

    launch: str = ""
    total: int = 0
    before: int = 0
    done: int = 0
    failed: int = 0
    stable: int = 0
    started: float = 0.0
    latest: float = 0.0
    by_rank: dict[int, RankProgress] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    _cost: float = 0.0

    @property
    def ranks(self) -> int:
        """Ranks that started."""
        return len(self.by_rank)

    @property
    def ended(self) -> int:
        """Ranks that have ended normally."""
        return sum(rank.ended for rank in self.by_rank.values())

    @property
    def finished(self) -> int:
        """Crystals that need no more work."""
        return self.before + self.done + self.failed

    @property
    def under_way(self) -> int:
        """Crystals that ranks have taken and not finished, except ranks that have ended."""
        return sum(rank.under_way for rank in self.by_rank.values() if not rank.ended)

    @property
    def rate(self) -> float:
        """Crystals per second in this launch; 0 if that is unknown."""
        elapsed = self.latest - self.started
        return (self.done + self.failed) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds at the present pace; ``None`` if that is unknown."""
        elapsed = self.latest - self.started
        left = self.total - self.finished
        if elapsed <= 0 or not self.seen:
            return None
        if self._cost > 0:
            cost_left = sum(cost for key, cost in self.costs.items() if key not in self.seen)
            return elapsed * cost_left / self._cost
        return left / self.rate

    def add(self, event: Mapping[str, Any]) -> None:
        """Count one event of this launch."""
        self.latest = max(self.latest, event["time"])
        number = event.get("rank", 0)
        rank = self.by_rank.setdefault(number, RankProgress(number))
        rank.add(event)
        match event["event"]:
            case "start":
                self.total = event["total"]
                self.before = event["before"]
                self.started = min(self.started or event["time"], event["time"])
            case "crystal" if event["id"] not in self.seen:
                self.seen.add(event["id"])
                self.done += event["status"] == "done"
                self.failed += event["status"] != "done"
                self.stable += event.get("verdict") == "stable"
                self._cost += self.costs.get(event["id"], 0.0)

    def line(self) -> str:
        """Return the progress in one line for people."""
        text = f"{self.finished}/{counted(self.total, 'crystal')}, {self.stable} stable"
        if self.failed:
            text += f", {self.failed} failed"
        if self.under_way:
            text += f", {self.under_way} under way"
        if self.rate > 0:
            text += f", {self.rate * 3600:.0f} an hour"
        left = self.seconds_left
        if left is not None and self.finished < self.total:
            text += f", {duration(left)} left"
        return text


class ProgressReader:
    """Follows the event logs of a run.

    Parameters
    ----------
    folder : Path
        Where the logs are.
    costs : mapping, optional
        As in :class:`Progress`.
    """

    def __init__(self, folder: Path, costs: Mapping[str, float] | None = None) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._costs = costs or {}
        self._progress = Progress(costs=self._costs)

    def read(self) -> Progress:
        """Return the present progress according to the logs."""
        for path in sorted(self._folder.glob("rank-*.jsonl")):
            events, self._offsets[path] = read_events(path, self._offsets.get(path, 0))
            for event in events:
                launch = event.get("launch", "")
                if launch > self._progress.launch:
                    self._progress = Progress(launch=launch, costs=self._costs)
                if launch == self._progress.launch:
                    self._progress.add(event)
        return self._progress


def duration(seconds: float) -> str:
    """Format a time for people: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"
