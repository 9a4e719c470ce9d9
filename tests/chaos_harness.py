"""A run that is harmed, brought to its end, and compared with the one that nobody disturbed."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.io import write
from chaos import Kind, Launch, LaunchSetup, Span, send, strike

import hpcbench
from hpcbench.scheduler.journal import read_journal
from hpcbench.scheduler.suspicious import SET_ASIDE
from hpcbench.store.table_reader import TableReader

# Of a launch that nobody disturbs, several times over: the machine may be busy.
PATIENCE = 600.0
# After a kill one more launch must do; a second one shows that it did not.
MOST_LAUNCHES = 4
# Who computed it, when, how fast and with what; and which of several equal minima was found.
NOT_COMPARED = {"rank", "host", "finished", "provenance", "attempts"}
NOT_COMPARED_BEGINNINGS = ("seconds_", "peak_", "min_q_", "mode_q", "mode_eigen")
# At Gamma, acoustic frequencies are square roots of rounding, and EMT rounds by what it has
# computed before. The rest follows from them.
LOOSE = (
    "frequenc",
    "gamma_acoustic",
    "noise_",
    "modes_left_out",
    "mesh_change",
    "free_energy",
    "entropy",
    "heat_capacity",
)
TOLERANCE, LOOSE_TOLERANCE = 1e-9, 1e-6


@dataclass(frozen=True, eq=False)
class Reference:
    """The run that nobody disturbed: its rows by id, and how long it took."""

    rows: dict[str, dict[str, Any]]
    span: Span
    ranks: int

    @property
    def seconds_a_crystal(self) -> float:
        """Of one rank, about."""
        return self.span.work * self.ranks / len(self.rows)


def metals(path: Path, number: int) -> Path:
    """Crystals that ASE's EMT can compute in no time, written to a file."""
    lattices = (("Cu", 3.6), ("Al", 4.0), ("Ni", 3.5), ("Ag", 4.1), ("Pd", 3.9), ("Au", 4.1))
    frames = [
        bulk(symbol, "fcc", a=a + 0.004 * (place // len(lattices)))
        for place, (symbol, a) in zip(range(number), itertools.cycle(lattices), strict=False)
    ]
    write(path, frames)
    return path


def make_reference(setup: LaunchSetup, folder: Path) -> Reference:
    """Let a run come to its end undisturbed."""
    out = folder / "reference.h5"
    with launched(setup, out, folder / "reference.log") as launch:
        assert launch.wait(PATIENCE), f"it does not end: {folder / 'reference.log'}"
        start = min(event["time"] for event in launch.events("start"))
        end = max(event["time"] for event in launch.events("end"))
        span = Span(launch.age - (end - start), end - start)
    store = hpcbench.open(out)
    assert store.unfinished_ids() == [], f"see {folder / 'reference.log'}"
    return Reference({key: store.row(key) for key in store.ids}, span, setup.ranks)


@dataclass
class Tale:
    """What became of a run that was harmed.

    Attributes
    ----------
    kind : str
        Of the harm.
    seed : int
        It happens again with it, as far as the machine's pace allows.
    struck : int
        Processes that got the signal; none if the run was over before the moment came.
    after : float
        Seconds after the start of the launch.
    launches : int
        How often the command was given.
    survivors_finished : bool
        The launch that was harmed came to the end of the list by itself.
    codes : list of int
        Of the launcher, by launch.
    held : int
        Crystals that were leased and not committed by those who died, gave back what they had,
        or were stopped for a while: so many may be computed twice.
    begun_again, finished_again : int
        How many times a crystal was begun, or brought to its end, that had been before.
    set_aside : int
        Crystals that were set aside, though none of them has killed anything.
    problems : list of str
        What must not be.
    left : list of str
        Files and processes that nobody needs any more.
    """

    kind: str
    seed: int
    struck: int = 0
    after: float = 0.0
    launches: int = 0
    survivors_finished: bool = False
    codes: list[int] = field(default_factory=list)
    held: int = 0
    begun_again: int = 0
    finished_again: int = 0
    set_aside: int = 0
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


@contextlib.contextmanager
def launched(setup: LaunchSetup, out: Path, log: Path) -> Iterator[Launch]:
    """A launch of which nothing is left afterwards."""
    launch = Launch(setup, out, log)
    try:
        yield launch
    finally:
        launch.destroy()


def harm(kind: Kind, setup: LaunchSetup, reference: Reference, folder: Path, seed: int) -> Tale:
    """Start a run, harm it, give its command until it is finished, and look what it is worth."""
    rng = random.Random(seed)
    tale = Tale(kind.name, seed)
    out, log = folder / "s.h5", folder / "log"
    setup = replace(setup, arguments=(*setup.arguments, "--workers", str(kind.workers)))
    begun: list[dict[tuple[str, str], Counter[str]]] = []
    if kind.again:
        with launched(setup, out, log) as launch:
            _strike_before(launch, rng, reference.span)
            begun.append(_begun(launch))
            tale.held += sum(_held(launch).values())
    harmed = False
    while tale.launches < MOST_LAUNCHES and not (harmed and _is_finished(out)):
        with launched(setup, out, log) as launch:
            if not harmed:
                _do_harm(kind, launch, rng, reference.span, tale)
            if not launch.wait(PATIENCE):
                tale.problems.append(f"launch {tale.launches + 1} does not end")
            else:
                tale.codes.append(launch.process.returncode)
                processes = [" ".join(process.words) for process in launch.leftovers()]
                tale.left += [f"process after launch {tale.launches + 1}: {p}" for p in processes]
            begun.append(_begun(launch))
            tale.held += sum(_held(launch).values())
        tale.launches += 1
        if not harmed:
            harmed = True
            tale.survivors_finished = _is_finished(out)
    tale.begun_again = _repeated(begun)
    tale.finished_again = _finished_again(out)
    tale.set_aside = _set_aside(out)
    tale.problems += differences(out, reference)
    tale.left += leftovers(out)
    return tale


def _strike_before(launch: Launch, rng: random.Random, span: Span) -> None:
    """Have something to take stock of: all ranks die at work."""
    while not launch.events("lease") and not launch.is_over:
        launch.wait(0.05)
    launch.wait(rng.uniform(0.0, span.work / 2))
    for pid in launch.ranks().values():
        send(pid, signal.SIGKILL)
    launch.wait(PATIENCE)


def _do_harm(kind: Kind, launch: Launch, rng: random.Random, span: Span, tale: Tale) -> None:
    pids = kind.aim(launch, rng, span)
    if not pids or launch.is_over:
        return
    ranks = {pid: rank for rank, pid in launch.ranks().items()}
    tale.held += sum(pid in launch.isolated_workers() for pid in pids)
    tale.struck = len(pids)
    tale.after = round(launch.age, 3)
    if kind.number == signal.SIGSTOP:
        # They will commit what they hold, and so will others.
        held = _held(launch)
        tale.held += sum(held[ranks[pid]] for pid in pids if pid in ranks)
    strike(pids, kind.number, launch.setup.silence)


def _held(launch: Launch) -> Counter[int]:
    """Crystals that each rank has leased and not committed."""
    held: Counter[int] = Counter()
    for event in launch.events("lease", "commit"):
        held[event["rank"]] += event.get("crystals", 0) - event.get("rows", 0)
    return held


def _begun(launch: Launch) -> dict[tuple[str, str], Counter[str]]:
    """The crystals that each process of a launch says it began."""
    folder = launch.journals()
    paths = [] if folder is None else folder.glob("journal/*")
    return {(launch._mark, path.name): Counter(list(read_journal(path).begun)) for path in paths}


def _repeated(launches: list[dict[tuple[str, str], Counter[str]]]) -> int:
    total = sum((begun for launch in launches for begun in launch.values()), Counter[str]())
    return sum(total.values()) - len(total)


def _finished_again(out: Path) -> int:
    """Results that nobody needed, from the event logs of all launches."""
    folder = out.with_name(out.name + ".run") / "events"
    ended: Counter[str] = Counter()
    for path in folder.glob("rank-*.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["event"] == "crystal":
                    ended[event["id"]] += 1
    return sum(ended.values()) - len(ended)


def _set_aside(out: Path) -> int:
    table = hpcbench.open(out).table
    return int(table["reason"].str.startswith(SET_ASIDE).sum())


def _is_finished(out: Path) -> bool:
    """Whether the one file has it all."""
    with contextlib.suppress(hpcbench.HpcbenchError):
        store = hpcbench.open(out)
        return out.exists() and not store.unfinished_ids() and not store.folder.segment_paths()
    return False


def differences(out: Path, reference: Reference) -> list[str]:
    """What distinguishes a store from the undisturbed one, and should not."""
    try:
        with TableReader(out) as reader:
            ids = list(reader.column("id"))
    except (OSError, hpcbench.HpcbenchError) as error:
        return [f"the store cannot be read: {error}"]
    problems = []
    if lost := reference.rows.keys() - set(ids):
        problems.append(f"{len(lost)} crystals are lost")
    if extra := set(ids) - reference.rows.keys():
        problems.append(f"{len(extra)} crystals came from nowhere")
    if len(ids) != len(set(ids)):
        problems.append(f"{len(ids) - len(set(ids))} rows are double")
    store = hpcbench.open(out)
    for key, row in reference.rows.items():
        if key not in ids:
            continue
        there = store.row(key)
        names = [name for name in row if not _is_equal(name, row[name], there.get(name))]
        if names:
            problems.append(f"{key}: {', '.join(names)} differ")
    return problems


def _is_equal(name: str, one: Any, other: Any) -> bool:
    if name in NOT_COMPARED or name.startswith(NOT_COMPARED_BEGINNINGS):
        return True
    if np.asarray(one).dtype.kind != "f":
        return bool(np.array_equal(one, other))
    if name == "band_frequencies":
        # Rounded: noise may tip one over to the next step.
        return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, atol=1e-5))
    tolerance = LOOSE_TOLERANCE if any(word in name for word in LOOSE) else TOLERANCE
    return np.shape(one) == np.shape(other) and bool(
        np.allclose(one, other, atol=tolerance, rtol=0.0, equal_nan=True)
    )


def leftovers(out: Path) -> list[str]:
    """Files that a finished run has no use for, beside its list, logs and the last launch."""
    folder = out.with_name(out.name + ".run")
    files = [*out.parent.glob(".*"), *folder.rglob(".*"), *folder.glob("segments/*")]
    past = sorted(folder.glob("launches/*"))[:-1]
    return sorted({str(path.relative_to(out.parent)) for path in (*files, *past)})
