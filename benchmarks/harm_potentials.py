"""Use potentials that lie, end their process, hang, or are none."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from harm_case import Case, CaseKind, cases
from harm_judge import Bad, FileKind, alloy, kinds
from harm_lies import DEEDS, LIES, NAMES

LATTICE = {"Al": 4.05, "Ni": 3.52, "Ag": 4.09, "Au": 4.08, "Pt": 3.92, "Pd": 3.89, "Cu": 3.61,
           "C": 3.3, "O": 3.4}  # fmt: skip


def _alloy(pair: tuple[str, str]) -> str:
    """Return CsCl's structure of two elements, with the volume of an atom as they have it alone."""
    a = (sum(LATTICE[element] ** 3 for element in pair) / 4) ** (1 / 3)
    return alloy(" ".join(pair), round(a, 3))


def _formula(pair: tuple[str, str]) -> str:
    # Hill's order has carbon first.
    return "".join(sorted(pair, key=lambda element: (element != "C", element)))


LYING: list[FileKind] = kinds(
    {
        f"potential: {name}": [
            Bad("a.vasp", _alloy(pair), may=(_formula(pair),), reason=LIES[name][1] is True,
                must=(_formula(pair),) if LIES[name][1] is False else ())
        ]
        for name, pair in NAMES.items()
    },
    area="potentials", model="harm_lies:Liar",
)  # fmt: skip


def _deed(name: str) -> Callable[[Case], None]:
    """Repeat a command until it has ended: good crystals are computed, gold has a reason."""

    def do(case: Case) -> None:
        (case.place.work / "good" / "Au.vasp").write_text(alloy("Au", 4.09))
        (case.place.work / "good" / "Al.vasp").write_text(alloy("Al", 4.02))
        before = len(case.tally.faults)
        case.tally.tried += 1
        case.place.watch(case.place.work / "good")
        for _ in range(6):
            ended = case.place.run("good", "--out", "s.h5", model=f"harm_lies:{name}")
            codes = (0, 1, 3, 75, -11, -6, -9, 139, 134, 137)
            case.check(ended, codes)
            if name == "Hog":  # the memory is the potential's own
                case.tally.faults = [f for f in case.tally.faults if not f.startswith("memory")]
            if ended.code in (0, 1) or ended.is_late:
                break
        else:
            case.fault("stopped", f"six times the same command, and {name} still ends it")
        case.has_good("s.h5")
        case.unchanged()
        gold = [row for row in case.place.rows("s.h5") if row["formula"] == "Au"]
        if not gold and not case.tally.faults[before:]:
            case.fault("silent", "the crystal of gold has no row")
        if len(case.tally.faults) == before:
            case.tally.told += gold[0]["status"] != "done"
            case.tally.right += gold[0]["status"] == "done"

    return do


def _hangs(name: str, number: signal.Signals) -> Callable[[Case], None]:
    """Hang a run: it ends within seconds when it is asked to, and others are computed."""

    def do(case: Case) -> None:
        (case.place.work / "good" / "Au.vasp").write_text(alloy("Au", 4.09))
        case.tally.tried += 1
        asked: list[float] = []

        def ask(pid: int) -> None:
            time.sleep(25)
            asked.append(time.monotonic())
            # The first Ctrl-C waits for the potential, which may be at a large crystal.
            for _ in range(2 if number == signal.SIGINT else 1):
                if os.path.exists(f"/proc/{pid}"):
                    os.kill(pid, number)
                time.sleep(3)

        ended = case.place.run(
            "good", "--out", "s.h5", model=f"harm_lies:{name}",
            beside=lambda pid: threading.Thread(target=ask, args=(pid,), daemon=True).start(),
        )  # fmt: skip
        found = len(case.tally.faults)
        case.check(ended, (75, 3, 1, 0, -number, 128 + number))
        if asked and time.monotonic() - asked[0] > 30:
            case.fault("time", f"{number.name} did not end a run that hangs within 30 s")
        if number != signal.SIGINT:
            # A second Ctrl-C ends it at once, in the pass that the good crystals share.
            case.has_good("s.h5")
        case.tally.told += len(case.tally.faults) == found

    return do


def _none(case: Case) -> None:
    (case.place.work / "broken.py").write_text("def make(:\n")
    (case.place.work / "leaves.py").write_text("raise SystemExit(0)\n")
    path = f"{case.place.python_path}:{case.place.work}"
    for model in ("raises", "exits", "number", "nothing", "wants", "crash"):
        ended = case.place.run("good", "--out", "s.h5", model=f"harm_lies:{model}")
        case.refused(ended, (2, 3))
    for model in ("broken:make", "leaves:make", "broken"):
        ended = case.place.run("good", "--out", "s.h5", model=model, env={"PYTHONPATH": path})
        case.refused(ended, (2, 3))


POTENTIALS: list[CaseKind] = cases(
    "potentials",
    {
        **{f"potential: {name}": _deed(name) for name in DEEDS if name not in ("Hang", "Spin")},
        "potential: hangs, SIGTERM": _hangs("Hang", signal.SIGTERM),
        "potential: spins, SIGINT": _hangs("Spin", signal.SIGINT),
        "potential: none": _none,
    },
)
