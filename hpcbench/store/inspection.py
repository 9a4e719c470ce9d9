"""Looking at every byte of files that may be damaged, in a process that may die of it.

The process (``python -m hpcbench.store.inspection``) says before each reading what it is, so that
whoever waits for it knows where it died or got stuck, and starts another one that leaves that out.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.child_processes import command, environment
from hpcbench.errors import DamageError, StoreError
from hpcbench.store.examiner import Examiner
from hpcbench.store.faults import NOT_FOUND, Damage, is_of_system, without_path
from hpcbench.store.known import known_fields
from hpcbench.store.physics import Deviation, check_physics

# Processes that may die of one file before the rest of it counts as damaged.
MOST_DEATHS = 50
PHYSICS = "physics"
READING = "reading it"
"""First words of a finding where a process died or got stuck."""
Place = tuple[str, int, int]
"""A field and the rows of a block of it."""


@dataclass
class Inspection:
    """Hold the outcome of an inspection of one file.

    Attributes
    ----------
    rows : int
        How many there are, or should be; -1 if the file does not even say that.
    damages : list of Damage
        In the order in which they were found.
    is_whole : bool
        Whether all of the file was looked at.
    computed : int
        Crystals whose physics was checked.
    deviations : list of Deviation
        Where it was not as it should be.
    """

    rows: int = -1
    damages: list[Damage] = field(default_factory=list)
    is_whole: bool = True
    computed: int = 0
    deviations: list[Deviation] = field(default_factory=list)

    @property
    def broken(self) -> str:
        """Say why not even blocks of values can be told apart in the file; empty if they can."""
        if self.rows < 0 or not self.is_whole:
            return str(self.damages[-1])
        known = known_fields()
        for damage in self.damages:
            name = damage.path.rpartition("/")[2]
            is_essential = name in known and known[name].is_essential
            ends_process = not damage.path and damage.what.startswith(READING)
            if ends_process or (is_essential and damage.what.startswith(NOT_FOUND)):
                return str(damage)
        return ""


def inspect(
    path: Path,
    sample: int,
    patience: float = 120.0,
    tell: Callable[[int, int], None] = lambda done, rows: None,
) -> Inspection:
    """Read every value of a file and check it, and the physics of some crystals.

    Parameters
    ----------
    path : Path
        A table in the store's format.
    sample : int
        How many crystals are computed again from their force constants.
    patience : float
        Seconds that reading one block of one field may take.
    tell : callable
        Told how many rows have been looked at, of how many.

    Raises
    ------
    StoreError
        If the file cannot be read, or is no table of this format: that is no damage.
    """
    found = Inspection()
    skip: list[Place] = []
    for _ in range(MOST_DEATHS):
        place, end = _watch(path, skip, sample, patience, found, tell)
        if end is None:
            return found
        if place is None:
            raise StoreError(f"{path}: the process that was to look at it could not: {end}")
        if place[0] == PHYSICS:
            found.deviations.append(Deviation("", f"row {place[1]}", f"its physics: {end}"))
            return found
        found.damages.append(Damage(*place, end))
        if place in skip:
            return found
        skip.append(place)
    found.damages.append(Damage("", 0, 0, "too many places end the process"))
    found.is_whole = False
    return found


def _watch(
    path: Path,
    skip: Sequence[Place],
    sample: int,
    patience: float,
    found: Inspection,
    tell: Callable[[int, int], None],
) -> tuple[Place | None, str | None]:
    """Run one process; where it was when it ended, and how, or ``None`` if all was read."""
    order = json.dumps({"path": str(path), "skip": skip, "sample": sample})
    place: Place | None = None
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command("hpcbench.store.inspection", order),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
        contextlib.ExitStack() as ending,
    ):
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        pump = threading.Thread(target=_pump, args=(process, lines), daemon=True)
        pump.start()
        # The pipe may be closed only when nobody reads from it any more.
        ending.callback(pump.join)
        ending.callback(process.kill)
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                return place, f"{READING} takes more than {patience:g} s"
            if not line:
                code = process.wait()
                how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
                if place is None:
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip().splitlines()
                    how = ": ".join([str(how), *said[-1:]])
                return place, f"{READING} ends the process ({how})"
            told = json.loads(line)
            if "reading" in told:
                place = tuple(told["reading"])
                tell(place[1], found.rows)
            elif "damage" in told:
                _add(found.damages, Damage(*told["damage"]))
            elif "deviation" in told:
                found.deviations.append(Deviation(*told["deviation"]))
            elif "rows" in told:
                found.rows = told["rows"]
            elif "error" in told:
                raise StoreError(told["error"])
            elif "computed" in told:
                found.computed = told["computed"]
                return place, None


def _add(damages: list[Damage], damage: Damage) -> None:
    # Another process has told of it already.
    if damage not in damages:
        damages.append(damage)


def _pump(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None, "it was started with one"
    for line in process.stdout:
        lines.put(line)
    lines.put(b"")


def main(order: Mapping[str, Any]) -> None:
    """Look at a file, and tell standard output of it: what the process does.

    ``order`` has the ``path``, the places to ``skip``, and the size of the ``sample``.
    """
    # Libraries that print must not be taken for what is told.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    say(reading=["", 0, 0])
    computed = 0
    try:
        with Examiner(Path(order["path"]), tolerant=True) as reader:
            computed = _look(reader, order, say)
    except DamageError as error:
        say(damage=["", 0, 0, without_path(error, Path(order["path"]))])
    except (StoreError, OSError, MemoryError) as error:
        say(error=str(error) or type(error).__name__)
    say(computed=computed)


def _look(reader: Examiner, order: Mapping[str, Any], say: Callable[..., None]) -> int:
    try:
        say(rows=reader.expected_rows())
    except Exception as error:  # a broken file fails in all kinds of ways
        if is_of_system(error):
            raise
        say(damage=["", 0, 0, f"{type(error).__name__}: {error}".splitlines()[0]])
        return 0
    skip = {tuple(place) for place in order["skip"]}
    sound = not skip
    for what in reader.damage(lambda place: say(reading=place), skip):
        sound = False
        say(damage=list(asdict(what).values()))
    computed = 0
    # Of a damaged file nothing is computed: what cannot be read would be blamed on physics.
    if sound and order["sample"]:
        for deviation in check_physics(
            reader, order["sample"], lambda row: say(reading=[PHYSICS, row, row + 1])
        ):
            if isinstance(deviation, Deviation):
                say(deviation=list(asdict(deviation).values()))
            else:
                computed = deviation
    return computed


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
