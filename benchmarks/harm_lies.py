"""Define potentials that lie: ASE's EMT, but for crystals of some elements together.

Each of ``LIES`` is told about the crystals of two elements, ``PAIRS`` says which.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase.calculators.emt import EMT

Lie = Callable[[Any, Any], None]


def _set(name: str, value: Callable[[np.ndarray], Any]) -> Lie:
    def lie(calculator: Any, atoms: Any) -> None:
        calculator.results[name] = value(calculator.results[name])

    return lie


def _raise(error: Callable[[], BaseException]) -> Lie:
    def lie(calculator: Any, atoms: Any) -> None:
        raise error()

    return lie


def _recurse(calculator: Any, atoms: Any) -> None:
    _recurse(calculator, atoms)


def _strain(calculator: Any, atoms: Any) -> None:
    atoms.set_cell(atoms.cell * 1.05)


def _print(calculator: Any, atoms: Any) -> None:
    print("DONE BEGUN ASKED")
    sys.stdout.flush()
    os.write(1, b"done\nbegun\n" * 20)
    os.write(2, b"Warning: all is well\n")


def _random(calculator: Any, atoms: Any) -> None:
    calculator.results["forces"] = np.random.default_rng().normal(size=(len(atoms), 3))


def _without(name: str) -> Lie:
    return lambda calculator, atoms: calculator.results.pop(name) and None


# Of one crystal each: it gets a reason (True), is computed as if nothing were (False), or either.
LIES: dict[str, tuple[Lie, bool | None]] = {
    "forces are NaN": (_set("forces", lambda f: f * np.nan), True),
    "energy is NaN": (_set("energy", lambda e: np.nan), True),
    "stress is infinite": (_set("stress", lambda s: s * np.inf), True),
    "forces have two columns": (_set("forces", lambda f: f[:, :2]), True),
    "forces of one atom for all": (_set("forces", lambda f: np.zeros((1, 3))), True),
    "forces of twice the atoms": (_set("forces", lambda f: np.vstack([f, f])), True),
    "forces of no atoms": (_set("forces", lambda f: f[:0]), True),
    "forces are texts": (_set("forces", lambda f: np.full(f.shape, "a")), True),
    "forces are complex": (_set("forces", lambda f: f + 1j), True),
    "forces are None": (_set("forces", lambda f: None), True),
    "forces are huge": (_set("forces", lambda f: f * 1e300 + 1e300), True),
    "forces are random": (_random, None),
    "stress has five numbers": (_set("stress", lambda s: s[:5]), True),
    "energy is an array": (_set("energy", lambda e: np.array([e, e])), True),
    "forces are missing": (_without("forces"), True),
    "ValueError with control characters": (
        _raise(lambda: ValueError("<script>\n\x1b]0;x\x07\x1b[31m" * 50_000)), True),
    "KeyError": (_raise(lambda: KeyError("x")), True),
    "MemoryError": (_raise(lambda: MemoryError("all of it")), True),
    "RecursionError": (_recurse, True),
    "a full disk": (_raise(lambda: OSError(28, "No space left on device")), True),
    "StopIteration": (_raise(StopIteration), True),
    "a text that is no UTF-8": (_raise(lambda: ValueError("\udcff")), True),
    "SystemExit with 0": (_raise(lambda: SystemExit(0)), True),
    "SystemExit with a text": (_raise(lambda: SystemExit("bye")), True),
    "forces in float32": (_set("forces", lambda f: f.astype(np.float32)), False),
    "forces as lists": (_set("forces", lambda f: f.tolist()), False),
    "it prints": (_print, False),
    "it strains its atoms": (_strain, False),
}  # fmt: skip
_METALS = ("Al", "Ni", "Ag", "Au", "Pt", "Pd", "Cu", "C", "O")
# Copper with palladium is what good crystals are of.
PAIRS = [pair for pair in itertools.combinations(_METALS, 2) if set(pair) != {"Cu", "Pd"}]
NAMES = dict(zip(LIES, PAIRS, strict=False))
_OF_PAIR = {frozenset(pair): LIES[name][0] for name, pair in NAMES.items()}


class Liar(EMT):
    """Lie about pairs of elements."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions", "cell")):  # type: ignore[no-untyped-def]
        changes = ["positions", "numbers", "cell", "pbc"]
        super().calculate(atoms, ["energy", "forces", "stress"], changes)
        lie = _OF_PAIR.get(frozenset(self.atoms.get_chemical_symbols()))
        if lie:
            lie(self, self.atoms)


def _hog() -> None:
    held = []
    for _ in range(60):
        held.append(np.ones(2**24))  # 128 MB
        time.sleep(0.01)


def _no_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


def _child() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"])


# Of the whole process, at crystals of gold.
DEEDS: dict[str, Callable[[], object]] = {
    "Exit": lambda: os._exit(0),
    "Crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "Abort": os.abort,
    "Hang": lambda: time.sleep(10**6),
    "Spin": lambda: all(True for _ in iter(int, 1)),
    "Move": lambda: os.chdir("/"),
    "Close": lambda: os.closerange(3, 64),
    "CloseOutput": lambda: os.closerange(0, 3),
    "Hog": _hog,
    "NoHandlers": _no_handlers,
    "Child": _child,
    "Interrupt": lambda: _interrupt(),
    "Environment": os.environ.clear,
}


def _interrupt() -> None:
    raise KeyboardInterrupt


def _doer(name: str, deed: Callable[[], object]) -> type[EMT]:
    class Doer(EMT):
        def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):  # type: ignore[no-untyped-def]
            changes = ["positions", "numbers", "cell", "pbc"]
            super().calculate(atoms, ["energy", "forces", "stress"], changes)
            if 79 in self.atoms.numbers:
                deed()

    Doer.__name__ = Doer.__qualname__ = name
    return Doer


for _name, _deed in DEEDS.items():
    globals()[_name] = _doer(_name, _deed)


def raises() -> EMT:
    """Raise, in the place of a calculator."""
    raise RuntimeError("no\x1b[31m")


def exits() -> EMT:
    """Exit, in the place of a calculator."""
    sys.exit(0)


def number() -> int:
    """Return a number, which is no calculator."""
    return 5


def nothing() -> None:
    """Return nothing, which is no calculator."""


def wants(more: object) -> EMT:
    """Make a calculator that wants more."""
    return EMT()


def crash() -> EMT:
    """End the process, in the place of a calculator."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return EMT()
