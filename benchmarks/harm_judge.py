"""Run bad inputs in one folder with good ones, and judge what is said of each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harm_place import EMT, Ended, Limits, Place, Row, faults_of, is_said


@dataclass
class Tally:
    """Hold what became of a kind of bad inputs or accidents.

    Attributes
    ----------
    tried : int
        How many there were.
    told : int
        Of these, those with a reason: a row's, a line that names the file, or a refusal with a
        sentence.
    right : int
        Those that need none, as they were read or ended as they should.
    faults : list of str
        What went wrong, each beginning with its class and a colon.
    seconds : float
        Wall time of all commands.
    peak : int
        Most memory of a command, bytes.
    """

    area: str
    name: str
    tried: int = 0
    told: int = 0
    right: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class Bad:
    """Describe a bad input.

    Attributes
    ----------
    name : str or bytes
        Of its file, in a folder of its own.
    content : bytes, str or callable
        What is in the file, or a function that makes something at this path.
    may : tuple of str
        Hill formulas that its rows may have.
    must : tuple of str
        Hill formulas that must be computed from it.
    read : tuple of str
        Hill formulas that must be read from it, and may be computed.
    reason : bool
        Something must be said about it.
    words : tuple of str
        Words in the output that also count as that.
    unstable : bool
        It may have no verdict of "stable".
    """

    name: str | bytes
    content: bytes | str | Callable[[Path], None]
    may: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    reason: bool = True
    words: tuple[str, ...] = ()
    unstable: bool = False


@dataclass(frozen=True)
class FileKind:
    """Describe a kind of bad inputs, all given in one folder with good crystals.

    Attributes
    ----------
    name : str
        For people.
    bad : tuple of Bad
        The inputs.
    area : str
        Of the table.
    model : str
        The potential.
    """

    name: str
    bad: tuple[Bad, ...]
    area: str = "files"
    model: str = EMT


def kinds(table: dict[str, Sequence[Bad]], **options: Any) -> list[FileKind]:
    """Make kinds of a table of them."""
    return [FileKind(name, tuple(bad), **options) for name, bad in table.items()]


def alloy(symbols: str, a: float, b: float | None = None) -> str:
    """Return the text of a POSCAR: fcc of one element, or CsCl's structure of two.

    Parameters
    ----------
    symbols : str
        One or two, with a blank between.
    a, b : float
        Lattice parameters in A; without ``b`` the cell is cubic.
    """
    names = symbols.split()
    if len(names) == 1:
        h = a / 2
        lattice, places = f"0 {h} {h}\n{h} 0 {h}\n{h} {h} 0", "0 0 0\n"
    else:
        lattice, places = f"{a} 0 0\n0 {a} 0\n0 0 {b or a}", "0 0 0\n.5 .5 .5\n"
    counts = " ".join("1" for _ in names)
    return f"{'-'.join(names)}\n1.0\n{lattice}\n{' '.join(names)}\n{counts}\nDirect\n{places}"


# A line counts by kind what it leaves out of a folder.
LEFT_OUT = {
    "csv": "CSV tables without structures",
    "json": "JSON files without structures",
    "yaml": "YAML files without a crystal",
    "db": "databases without crystals",
    "pt": "torch files without crystals",
}
NO_FORMAT, DEVICES = ("files of no format",), ("pipes and devices",)
# With Hill formulas: those that a good run must have.
GOOD = {"Cu.vasp": ("Cu", alloy("Cu", 3.61)), "CuPd.vasp": ("CuPd", alloy("Cu Pd", 2.99))}


def write_good(folder: Path) -> None:
    """Write the good crystals."""
    folder.mkdir()
    for name, (_, text) in GOOD.items():
        (folder / name).write_text(text)


def write_bad(folder: Path, bad: Bad) -> None:
    """Write one bad input into a folder of its own.

    Parameters
    ----------
    folder : Path
        A new folder.
    bad : Bad
        The input.
    """
    folder.mkdir(parents=True)
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(bad.name))))
    if callable(bad.content):
        bad.content(path)
    elif isinstance(bad.content, str):
        path.write_text(bad.content, newline="")
    else:
        path.write_bytes(bad.content)


def judge(
    group: Sequence[FileKind], folder: Path, limits: Limits, report: Callable[[str], None]
) -> list[Tally]:
    """Run kinds together with good crystals; apart, where they stop the run.

    Parameters
    ----------
    group : sequence of FileKind
        Kinds with the same potential.
    folder : Path
        A new folder.
    limits : Limits
        Of each command.
    report : callable
        Told when kinds are run apart.
    """
    place = Place(folder, limits)
    tallies = [Tally(kind.area, kind.name, len(kind.bad)) for kind in group]
    write_good(place.work / "good")
    tokens: dict[str, Bad] = {}
    for number, kind in enumerate(group):
        for place_of, bad in enumerate(kind.bad):
            token = f"case{number}-{place_of}-"
            write_bad(place.work / "bad" / token, bad)
            tokens[token] = bad
    place.watch(place.work)
    arguments = ["good", "bad", "--out", "../out.h5"]
    # Many of the bad ones are crystals that have to be computed.
    patience = limits.seconds * (1 + len(tokens) / 20)
    ended = place.run(*arguments, model=group[0].model, seconds=patience)
    faults = faults_of(ended, (0, 1), limits)
    rows = place.rows("../out.h5")
    faults += _good_faults(rows)
    changed = [os.path.relpath(path, place.folder) for path in place.changes()]
    # Of no input: which of the kinds did it is found by running them apart.
    faults += [f"changed: {path}" for path in changed if not path.startswith("work/bad/")]
    if faults and len(group) > 1:
        half = len(group) // 2
        report(f"{len(group)} kinds in one run: {faults[0]}; in two")
        return judge(group[:half], folder.with_name(folder.name + "a"), limits, report) + judge(
            group[half:], folder.with_name(folder.name + "b"), limits, report
        )
    for number, (kind, tally) in enumerate(zip(group, tallies, strict=True)):
        tally.seconds, tally.peak = ended.seconds / len(group), ended.peak
        tally.faults += faults
        for place_of, bad in enumerate(kind.bad):
            token = f"case{number}-{place_of}-"
            if rows or not faults:
                _tell(tally, bad, token, rows, ended)
            tally.faults += [f"changed: {path}" for path in changed if token in path]
    return tallies


def _good_faults(rows: list[Row]) -> list[str]:
    done = {row["formula"] for row in rows if row["status"] == "done" and row["verdict"]}
    lost = [formula for formula, _ in GOOD.values() if formula not in done]
    return [f"lost: good crystals have no verdict ({', '.join(lost)})"] if lost else []


def _tell(tally: Tally, bad: Bad, token: str, rows: list[Row], ended: Ended) -> None:
    mine = [row for row in rows if token in json.dumps(row["origins"])]
    label = f"{tally.name}, {bad.name!r}"
    before = len(tally.faults)
    allowed = {*bad.may, *bad.must, *bad.read, ""}
    for row in mine:
        if row["formula"] not in allowed:
            tally.faults.append(f"read wrongly: {label} as {row['formula']}, {row['status']}")
        if bad.unstable and row["verdict"] == "stable":
            tally.faults.append(f"read wrongly: {label} is said to be stable")
    done = {row["formula"] for row in mine if row["status"] == "done"}
    read = {row["formula"] for row in mine}
    if lost := sorted(set(bad.must) - done | set(bad.read) - read):
        reasons = "; ".join(str(row["reason"]) for row in mine) or "no row"
        tally.faults.append(f"lost: {label}: {', '.join(lost)} not computed ({reasons[:160]})")
    told = any(map(is_said, mine)) or any(w in ended.text for w in (token, *bad.words))
    if bad.reason and not told:
        what = "no row" if not mine else "no reason in its row"
        tally.faults.append(f"silent: {label}: {what}, no line")
    if len(tally.faults) == before:
        tally.told += told
        tally.right += not told


def groups_of(kinds: Iterable[FileKind], size: int) -> list[list[FileKind]]:
    """Put kinds with the same potential together.

    Parameters
    ----------
    kinds : iterable of FileKind
        All kinds.
    size : int
        Most kinds in a group.
    """
    groups: list[list[FileKind]] = []
    for kind in kinds:
        if not groups or groups[-1][0].model != kind.model or len(groups[-1]) >= size:
            groups.append([])
        groups[-1].append(kind)
    return groups
