"""Potentials that lie, end the process, or do not come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write
from launching import in_file

import hpcbench
from hpcbench.engine import watchdog as watching
from hpcbench.engine.watchdog import Watchdog
from hpcbench.errors import AnswerError, EvaluationError, PotentialError
from hpcbench.potentials.ase_calculator import from_calculator
from hpcbench.potentials.boundary import Surroundings, answering, files_below, numbers_of
from hpcbench.potentials.selftest import self_test
from hpcbench.scheduler.journal import Journal, read_journal
from hpcbench.scheduler.suspicious import Suspicion, suspects_of
from hpcbench.texts import shown_reason

TINY = {"mesh": (4, 4, 4), "supercell": (2, 2, 2), "workers": 0}


def crystal(symbol: str) -> Atoms:
    """Face-centred, at the distance that the potential wants."""
    a = 3.9
    return Atoms(symbol, cell=[[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], pbc=True)


def _raise(error: BaseException) -> Any:
    raise error


def recurse(results: dict[str, Any]) -> None:
    recurse(results)


def scale(results: dict[str, Any], factor: float) -> None:
    results["forces"] = results["forces"] + factor


# By element: what is done with the results, and what the reason says.
FAULTS: dict[str, tuple[Any, str]] = {
    "Sc": (lambda r: r.update(forces=np.zeros((1, 3))), "forces of shape (1, 3), where (2, 3)"),
    "Ti": (lambda r: r.update(forces=r["forces"][:, :2]), "forces of shape (2, 2)"),
    "V": (lambda r: r.update(forces=np.vstack([r["forces"]] * 2)), "forces of shape (4, 3)"),
    "Cr": (lambda r: r.update(forces=np.zeros(3)), "forces of shape (3,)"),
    "Mn": (lambda r: r.update(forces=[["a", "b", "c"]] * 2), "where real numbers were wanted"),
    "Fe": (lambda r: r.update(forces=r["forces"] + 1j), "of type complex128"),
    "Co": (lambda r: r.update(forces=r["forces"] * np.nan), "not finite"),
    "Ni": (lambda r: r.update(energy=np.inf), "not finite"),
    "Cu": (lambda r: r.update(stress=np.full(6, np.nan)), "not finite"),
    "Zn": (lambda r: r.update(stress=np.zeros(5)), "potential: "),
    "Zr": (lambda r: r.update(energy=np.zeros(2)), "an energy of shape (2,)"),
    "Nb": (lambda r: r.update(energy="low"), "an energy of type"),
    "Mo": (lambda r: sys.exit(0), "potential: SystemExit: 0"),
    "Tc": (lambda r: sys.exit("bye"), "potential: SystemExit: bye"),
    "Ru": (recurse, "potential: RecursionError"),
    "Rh": (lambda r: _raise(MemoryError("x")), "potential: MemoryError: x"),
    "Pd": (lambda r: _raise(OSError(28, "No space left on device")), "No space left"),
    "Ag": (lambda r: _raise(ValueError("<b>\n\x1b[31m" * 100_000)), "potential: ValueError: <b>"),
    "Cd": (lambda r: r.clear(), "potential: "),
    "Hf": (lambda r: scale(r, 1e300), "forces on displaced atoms of up to 1e+300 eV/A"),
    "Ta": (lambda r: r.update(forces=None), "potential: "),
    "W": (lambda r: r.update(forces=[[1.0, 2.0, 3.0], [1.0]]), "forces that are no array"),
}
# What is changed around it does no harm.
CHANGES = {
    "Re": lambda: os.chdir("/"),
    "Os": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "Ir": lambda: setattr(sys, "stdout", None),
    "Pt": lambda: np.seterr(all="raise"),
    "Au": lambda: print("DONE BEGUN \x1b[31m"),
}


class Liar(LennardJones):
    """Computes well, and lies of some elements."""

    def __init__(self, least_atoms: int = 1) -> None:
        super().__init__(sigma=2.45, epsilon=0.3, rc=5.0, smooth=True)
        self.least_atoms = least_atoms

    def calculate(self, atoms: Any = None, *arguments: Any, **keywords: Any) -> None:
        super().calculate(atoms, *arguments, **keywords)
        symbol = self.atoms.get_chemical_symbols()[0]
        if len(self.atoms) >= self.least_atoms and symbol in FAULTS:
            FAULTS[symbol][0](self.results)
        if symbol in CHANGES:
            CHANGES[symbol]()


def test_what_a_potential_does_is_its_crystals_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    stream, floating = sys.stdout, np.geterr()
    # Two atoms a cell: one row would be spread over both.
    faulty = [crystal(symbol).repeat((2, 1, 1)) for symbol in FAULTS]
    sound = [crystal(symbol) for symbol in (*CHANGES, "Al")]
    for atoms in (*faulty, *sound):
        atoms.info["name"] = atoms.get_chemical_symbols()[0]
    result = hpcbench.run([*faulty, *sound], model=Liar(), out="s.h5", primitive=False, **TINY)
    assert Path.cwd() == tmp_path
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (sys.stdout, np.geterr()) == (stream, floating)
    table = result.table.set_index("name")
    for symbol, (_, reason) in FAULTS.items():
        said = table.loc[symbol, "reason"]
        assert table.loc[symbol, "status"] == "failed", symbol
        assert reason in said or ("not finite" in reason and said.startswith("nan: ")), said
        assert len(said) <= 500
        assert said.isprintable()
    for symbol in (*CHANGES, "Al"):
        assert table.loc[symbol, "status"] == "done", table.loc[symbol, "reason"]


def test_a_potential_that_fails_in_displaced_supercells_only(tmp_path: Path) -> None:
    symbols = ["Sc", "Co", "Mo", "Fe", "Al"]
    frames = [crystal(symbol) for symbol in symbols]
    table = hpcbench.run(frames, model=Liar(least_atoms=3), relax="none", **TINY).table
    assert list(table["status"]) == ["failed"] * 4 + ["done"]
    words = ["forces of shape", "not finite", "SystemExit", "complex128"]
    assert all(word in said for word, said in zip(words, table["reason"], strict=False))


class Mover(LennardJones):
    """Changes the atoms that it was given; or wraps them only."""

    def __init__(self, change: Any) -> None:
        super().__init__(sigma=2.45, rc=5.0)
        self.change = change

    def get_forces(self, atoms: Any = None) -> Any:
        forces = super().get_forces(atoms)
        self.change(atoms)
        return forces


def test_a_potential_that_changes_what_it_computes_is_refused() -> None:
    atoms = crystal("Al").repeat((2, 1, 1))
    atoms.positions += 50.0
    before = atoms.copy()
    for change in (
        lambda a: a.positions.__iadd__(0.05),
        lambda a: a.set_cell(a.cell * 1.1),
        lambda a: a.numbers.__setitem__(0, 14),
        lambda a: a.append("Al"),
    ):
        with pytest.raises((AnswerError, EvaluationError)):
            from_calculator(Mover(change)).evaluate([atoms])
        assert atoms == before
    from_calculator(Mover(lambda a: a.wrap())).evaluate([atoms])


@pytest.mark.parametrize("error", [SystemExit(0), RuntimeError("x"), RecursionError(), OSError(28)])
def test_whatever_is_raised_is_the_potentials_error(error: BaseException) -> None:
    with pytest.raises(EvaluationError, match=type(error).__name__), answering():
        raise error


def test_ctrl_c_is_the_programs_own_unless_its_signals_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), answering():
        raise KeyboardInterrupt
    monkeypatch.setattr(signal, "getsignal", lambda number: print)
    with pytest.raises(EvaluationError, match="KeyboardInterrupt"), answering():
        raise KeyboardInterrupt


def test_answers_are_arrays_of_their_own() -> None:
    given = np.ones((2, 3), dtype=np.float32)
    taken = numbers_of(given, (2, 3), "forces")
    given[:] = 0.0
    assert taken.dtype == np.float64
    assert taken.sum() == 6.0
    for wrong in (np.ones((3, 2)), np.ones((2, 3), dtype=complex), [[1, 2, 3], [1]], None, "x"):
        with pytest.raises(AnswerError):
            numbers_of(wrong, (2, 3), "forces")


def test_a_self_test_refuses_answers_of_another_shape() -> None:
    class Flat(LennardJones):
        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            super().calculate(*arguments, **keywords)
            self.results["forces"] = np.zeros((1, 3))

    with pytest.raises(PotentialError, match=r"self-test of .* failed: it gave forces of shape"):
        self_test(from_calculator(Flat(rc=3.0)))


def test_closed_files_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "rank-00000"
    path.parent.mkdir()
    lost = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    # What other threads of ours have open just then: a folder, and a file that they read.
    with os.scandir(tmp_path), path.open():
        around = Surroundings(files_below(tmp_path), lambda: lost.append(1))
    assert around.files.keys() == {1, 2, descriptor}
    around.restore()
    assert not lost
    os.close(descriptor)
    around.restore()
    assert lost
    # The number is given to another file.
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    assert other == descriptor
    around.restore()
    assert len(lost) == 2
    os.close(other)


def test_what_was_changed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    around = Surroundings()
    os.chdir("/")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        around.restore()
        around.restore()
    assert [str(one.message) for one in caught] == [
        "the potential changed the program's working folder; put back"
    ]
    assert Path.cwd() == tmp_path


def test_a_watch_tells_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now)
    told: list[str] = []
    salt = SimpleNamespace(id="1", name="salt", numbers=[11, 17])
    gold = SimpleNamespace(id="2", name="gold", numbers=[79])
    watch = Watchdog({"1": 1.0, "2": 20.0}.__getitem__, told.append)
    supercell = SimpleNamespace(numbers=[79] * 8)
    watch.begin([salt, gold], SimpleNamespace(at=supercell))  # type: ignore[list-item]
    assert watch.crystals() == [gold]
    for now, number in ((1059.0, 0), (1399.0, 0), (1401.0, 1), (1700.0, 1), (1810.0, 2)):
        watch.look()
        assert len(told) == number, now
    assert "has been at gold for 401 s; 20 s were predicted" in told[0]
    assert watch.is_overdue()
    watch.end()
    assert watch.seconds == 0.0
    watch.begin([salt, gold], SimpleNamespace())  # type: ignore[list-item]
    assert watch.crystals() == [salt, gold]


def test_what_hung_is_suspect_though_the_process_was_asked_to_stop(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rank-00000")
    journal.begin(["a", "b", "c"])
    journal.hung(["b", "c"])
    journal.stop()
    told = read_journal(tmp_path / "rank-00000")
    assert told.in_order
    assert suspects_of(told, {"c"}) == {"b": Suspicion()}


def test_messages_of_others_fit_into_a_line() -> None:
    assert shown_reason("two\nlines\x1b[31m") == "two lines"
    long = shown_reason("x" * 10**7)
    assert len(long) == 500
    assert long.endswith(" ...")


HARMFUL = """
import os, signal, sys, time
from ase.calculators.emt import EMT
class make(EMT):
    def calculate(self, atoms=None, *arguments, **keywords):
        super().calculate(atoms, *arguments, **keywords)
        if 'Au' in self.atoms.symbols:
            {harm}
"""


def start(folder: Path, harm: str) -> subprocess.Popen[str]:
    (folder / "harmful.py").write_text(HARMFUL.format(harm=harm))
    write(folder / "list.extxyz", [crystal("Cu"), crystal("Au")])
    command = [
        sys.executable, "-m", "hpcbench", "run", "list.extxyz", "--out", "s.h5", "--no-report",
        "--model", "harmful:make", "--workers", "0", "--mesh", "2", "2", "2", "--device", "cpu",
        "--supercell", "2", "2", "2", *in_file(commit_interval=0),
    ]  # fmt: skip
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Tests that nohup has started ignore SIGHUP, and so would the run.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        return subprocess.Popen(command, cwd=folder, text=True, **pipes)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        # By a signal: test_quarantine.
        ("os._exit(0)", "the process ended with exit code 0, without a message"),
        ("os.closerange(3, 64)", "closed files of the program while it was at list-1"),
        ("os.closerange(0, 3)", "closed files of the program while it was at list-1"),
    ],
)
def test_a_process_that_is_ended_ends_with_3(tmp_path: Path, harm: str, said: str) -> None:
    process = start(tmp_path, harm)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 3
    assert said in errors
    assert "Traceback" not in errors


def test_a_potential_that_does_not_come_back_ends_when_asked_to(tmp_path: Path) -> None:
    """It prints besides, changes folders, and takes our signals away; modules lie beside it."""
    for name in ("numpy", "h5py", "torch", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    harm = (
        "print('table'); os.write(1, b'table'); os.chdir('/');\n"
        "            signal.signal(signal.SIGUSR1, signal.SIG_DFL)\n"
        "            open(sys.path[-1] + '/hangs', 'w').close(); time.sleep(1e6)"
    )
    process = start(tmp_path, harm)
    deadline = time.monotonic() + 200
    while not (tmp_path / "hangs").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    asked = time.monotonic()
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    assert time.monotonic() - asked < 60
    assert "stopped while the potential was at list-1" in errors
    assert "table" not in output
    assert "the wrong module" not in errors


def test_a_stop_before_the_first_crystal_saves_nothing_and_says_so(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(1e6)")
    deadline = time.monotonic() + 100
    while not (tmp_path / "s.h5.run").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 75
    assert "begins anew" in errors or "stopped while" in errors
    assert "goes on from here" not in errors
    assert "0 done" not in output
