# ruff: noqa: E501  (a table: a line is a case)
"""Do accidents to a run: signals, two at once, files that move away, and odd surroundings."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harm_case import Case, CaseKind, cases
from harm_judge import alloy
from harm_place import Row

METALS = {
    symbols: alloy(symbols, a)
    for symbols, a in (
        ("Al", 4.03), ("Ni", 3.5), ("Ag", 4.1), ("Pd", 3.9), ("Au Cu", 3.15), ("Ag Pd", 3.2),
    )
}  # fmt: skip
COMMAND = ("good", "--out", "s.h5", "--config", "often.toml")


def _metals(case: Case) -> int:
    """Write more good crystals, so that there is time for harm; return how many there are then."""
    folder = case.place.work / "good"
    for symbols, text in METALS.items():
        (folder / f"{symbols.replace(' ', '')}.vasp").write_text(text)
    (case.place.work / "often.toml").write_text("commit_interval = 1\n")
    return len(list(folder.iterdir()))


def _later(pid: int, seconds: float, do: Callable[[], None]) -> None:
    """Do something after so many seconds, if the process still lives."""

    def wait() -> None:
        time.sleep(seconds)
        if os.path.exists(f"/proc/{pid}"):
            do()

    threading.Thread(target=wait, daemon=True).start()


def _in_the_midst(case: Case, seconds: float, do: Callable[[int], None]) -> Callable[[int], None]:
    """Do something so long after the run folder appeared."""
    run_folder = case.place.work / "s.h5.run"

    def watch(pid: int) -> None:
        until = time.monotonic() + 60
        while not run_folder.exists() and time.monotonic() < until:
            if not os.path.exists(f"/proc/{pid}"):
                return
            time.sleep(0.02)
        _later(pid, seconds, lambda: do(pid))

    return lambda pid: threading.Thread(target=watch, args=(pid,), daemon=True).start()


def _done(rows: list[Row]) -> dict[str, object]:
    return {row["id"]: row["finished"] for row in rows if row["status"] == "done"}


def _again(case: Case, number: int) -> None:
    """Check that the same command comes to its end, and that what was done before stays."""
    before = _done(case.place.rows("s.h5"))
    found = len(case.tally.faults)
    case.tally.tried += 1
    again = case.check(case.place.run(*COMMAND), (0,))
    after = _done(case.place.rows("s.h5"))
    if lost := [key for key, when in before.items() if after.get(key) != when]:
        case.fault("lost", f"{len(lost)} of {len(before)} crystals were computed again or are gone")
    if len(after) != number:
        case.fault(
            "lost", f"{number - len(after)} of {number} have no result after {again.command}"
        )
    if len(case.tally.faults) == found:
        case.tally.right += 1


def _signal(number: signal.Signals, codes: tuple[int, ...]) -> Callable[[Case], None]:
    def do(case: Case) -> None:
        crystals = _metals(case)
        rng = random.Random(int(number))
        for beside in (
            lambda pid: _later(pid, rng.uniform(0.1, 1.0), lambda: os.kill(pid, number)),
            _in_the_midst(case, rng.uniform(0.1, 1.5), lambda pid: os.kill(pid, number)),
        ):
            ended = case.check(case.place.run(*COMMAND, beside=beside), range(-64, 256))
            early = not (case.place.work / "s.h5.run").exists()
            dead = (-number, 128 + number) if early or number == signal.SIGKILL else ()
            case.tally.tried += 1
            if ended.code not in (*codes, *dead):
                case.fault("exit code", f"{number.name} ends a run with {ended.code}")
            else:
                case.tally.right += 1
        _again(case, crystals)

    return do


def twice_at_once(case: Case) -> None:
    """Give the same command twice: one computes, the other waits or is refused."""
    number = _metals(case)
    others: list[subprocess.Popen[str]] = []

    def second(pid: int) -> None:
        words = [sys.executable, "-m", "hpcbench", "run", *COMMAND, "--model",
                 "ase.calculators.emt:EMT", "--dtype", "float64", "--mesh", "4", "4", "4",
                 "--supercell", "2", "2", "2", "--device", "cpu", "--no-report"]  # fmt: skip
        others.append(subprocess.Popen(
            words, cwd=case.place.work, env=case.place.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ))  # fmt: skip

    ended = case.check(case.place.run(*COMMAND, beside=second), (0, 2, 3, 75))
    text = others[0].communicate(timeout=case.place.limits.seconds)[0]
    if "Traceback" in text:
        case.fault("traceback", "the second of two runs")
    if sorted((ended.code == 0, others[0].returncode == 0)) == [False, False]:
        case.fault("stopped", f"both of two runs: {ended.code}, {others[0].returncode}")
    _again(case, number)


def _while_running(
    do: Callable[[Path], None], undo: Callable[[Path], None]
) -> Callable[[Case], None]:
    """Do something to the store or the inputs in the midst of a run."""

    def accident(case: Case) -> None:
        number = _metals(case)
        work = case.place.work
        beside = _in_the_midst(case, 0.7, lambda _: do(work))
        case.check(case.place.run(*COMMAND, beside=beside), (0, 1, 2, 3, 75))
        undo(work)
        if (work / "copy.h5").exists() or (work / "copy.h5.run").exists():
            for words in (["status", "copy.h5"], ["export", "copy.h5", "-o", "-"]):
                case.check(case.place.hpcbench(*words))
        _again(case, number)

    return accident


def _copy(work: Path) -> None:
    # Files of a run come and go meanwhile, as they do for `cp -r`.
    with contextlib.suppress(shutil.Error):
        shutil.copytree(work / "s.h5.run", work / "copy.h5.run", dirs_exist_ok=True)
    if (work / "s.h5").exists():
        shutil.copy(work / "s.h5", work / "copy.h5")


def _move(work: Path) -> None:
    (work / "s.h5.run").rename(work / "away")


def _move_back(work: Path) -> None:
    if (work / "away").exists():
        shutil.rmtree(work / "s.h5.run", ignore_errors=True)
        (work / "away").rename(work / "s.h5.run")


def _delete(work: Path) -> None:
    shutil.rmtree(work / "s.h5.run", ignore_errors=True)


def _take_inputs(work: Path) -> None:
    (work / "good").rename(work / "taken")


def _give_inputs(work: Path) -> None:
    if (work / "taken").exists():
        (work / "taken").rename(work / "good")


def _nothing(work: Path) -> None:
    pass


def truncated_run_folder(case: Case) -> None:
    """Cut off files of the run folder after a kill, as a power failure leaves them."""
    number = _metals(case)
    kill = _in_the_midst(case, 1.5, lambda pid: os.kill(pid, signal.SIGKILL))
    ended = case.place.run(*COMMAND, beside=kill)
    rng = random.Random(3)
    for path in sorted((case.place.work / "s.h5.run").rglob("*")):
        if path.is_file() and path.stat().st_size > 10 and rng.random() < 0.5:
            os.truncate(path, path.stat().st_size * 2 // 3)
    case.tally.tried += 1
    before = len(case.tally.faults)
    case.check(ended, (0, -9))
    again = case.check(case.place.run(*COMMAND), (0, 2, 3))
    if again.code == 0 and len(_done(case.place.rows("s.h5"))) != number:
        case.fault("lost", "crystals have no result after the same command")
    if len(case.tally.faults) == before:
        case.tally.told += again.code != 0
        case.tally.right += again.code == 0


def _surroundings(
    changes: dict[str, str | None], *, words: tuple[str, ...] = (), refuse: bool = False,
    before: Callable[[], None] = lambda: None, ready: Callable[[Path], None] = _nothing,
    codes: tuple[int, ...] = (0,), store: bool = True,
) -> Callable[[Case], None]:  # fmt: skip
    """Run in odd surroundings: the run is whole, or refused with one of these words."""

    def do(case: Case) -> None:
        ready(case.place.work)
        here = {k: v and v.replace("WORK", str(case.place.work)) for k, v in changes.items()}
        case.place.watch()
        ended = case.place.run("good", "--out", "s.h5", env=here, before=before)
        if refuse or (words and ended.code in (2, 3)):
            case.refused(ended, (2, 3), *words)
        elif store:
            case.tally.tried += 1
            found = len(case.tally.faults)
            case.check(ended, codes)
            case.has_good("s.h5")
            case.tally.right += len(case.tally.faults) == found
        case.unchanged()

    return do


def _shadows(work: Path) -> None:
    """Write modules into the working folder that have the names of packages."""
    for name in ("h5py", "ase", "torch", "phonopy", "yaml", "random", "colorsys"):
        (work / f"{name}.py").write_text(
            "import os\nopen(os.environ['MARKER'], 'a').close()\nraise SystemExit('shadowed')\n"
        )


def _unicode(work: Path) -> None:
    (work / "good" / "Ag-жü.vasp").write_text(alloy("Ag", 4.12))


def _locked(work: Path) -> None:
    (work / "locked").mkdir(mode=0o555)


def _limit(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, value))


def _closed(*descriptors: int) -> Callable[[], None]:
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


def _full(descriptor: int) -> Callable[[], None]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor) and None


def _broken_pipe() -> None:
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)


_SLURM = {"SLURM_JOB_ID": "12345", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1",
          "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0"}  # fmt: skip
ACCIDENTS: list[CaseKind] = cases(
    "accidents",
    {
        "SIGKILL": _signal(signal.SIGKILL, (0,)),
        "SIGTERM": _signal(signal.SIGTERM, (0, 75)),
        "SIGINT": _signal(signal.SIGINT, (0, 75)),
        "SIGHUP": _signal(signal.SIGHUP, (0, 75)),
        "SIGUSR2": _signal(signal.SIGUSR2, (0, 75)),
        "SIGQUIT": _signal(signal.SIGQUIT, (0, 75, -3, 131)),
        "the same command twice at once": twice_at_once,
        "the store is copied in the midst": _while_running(_copy, _nothing),
        "the run folder moves away in the midst": _while_running(_move, _move_back),
        "the run folder is deleted in the midst": _while_running(_delete, _nothing),
        "the inputs are taken in the midst": _while_running(_take_inputs, _give_inputs),
        "a power failure cuts files off": truncated_run_folder,
    },
)
ENVIRONMENT: list[CaseKind] = cases(
    "environment",
    {
        "left over from Slurm": _surroundings(_SLURM, words=("slurm",)),
        "left over from a larger Slurm job": _surroundings(
            _SLURM | {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, words=("slurm",)),
        "left over from PMI": _surroundings(
            {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "17"}, words=("pmi",)),
        "left over from PMIx": _surroundings(
            {"PMIX_RANK": "1", "PMIX_NAMESPACE": "x", "PMIX_SERVER_URI2": "pmix-server.1;tcp4://127.0.0.1:9"},
            words=("pmi",)),
        "left over from Open MPI": _surroundings(
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, words=("ompi", "open mpi")),
        "SLURM_JOB_END_TIME in the past": _surroundings(
            {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "1000000000"}, words=("SLURM_JOB_END_TIME",)),
        "SLURM_JOB_END_TIME is nonsense": _surroundings(
            {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "soon"}, words=("SLURM_JOB_END_TIME",)),
        "ASCII only": _surroundings(
            {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LANG": "C",
             "PYTHONCOERCECLOCALE": "0"}, ready=_unicode),
        "Latin-1": _surroundings({"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}, ready=_unicode),
        "a terminal of no width": _surroundings({"COLUMNS": "0"}),
        "a terminal of one column": _surroundings({"COLUMNS": "1", "TERM": "dumb"}),
        "no HOME": _surroundings({"HOME": None, "XDG_CACHE_HOME": None}),
        "a HOME that is not there": _surroundings({"HOME": "/nonexistent", "XDG_CACHE_HOME": None}),
        "a cache that may not be written": _surroundings({"XDG_CACHE_HOME": "WORK/locked"}, ready=_locked),
        "no folder for temporary files": _surroundings({"TMPDIR": "/nonexistent"}),
        "threads that are no number": _surroundings({"OMP_NUM_THREADS": "many"}),
        "modules of the working folder": _surroundings({}, ready=_shadows),
        "settings in the environment": _surroundings({"HPCBENCH_FMAX": "small"}, words=("fmax",), refuse=True),
        "a GPU that is not there": _surroundings({"CUDA_VISIBLE_DEVICES": "7,x"}),
        "Python's optimisation": _surroundings({"PYTHONOPTIMIZE": "2"}),
        "warnings as errors": _surroundings({"PYTHONWARNINGS": "error"}, words=("warning",)),
        "standard output is closed": _surroundings({}, before=_closed(1), codes=(0, 3)),
        "standard error is closed": _surroundings({}, before=_closed(2), codes=(0, 3)),
        "all three are closed": _surroundings({}, before=_closed(0, 1, 2), codes=(0, 3)),
        "standard output is full": _surroundings({}, before=_full(1), codes=(0, 3)),
        "standard error is full": _surroundings({}, before=_full(2), codes=(0, 3)),
        "nobody reads the output": _surroundings({}, before=_broken_pipe, codes=(0, 3)),
        "few open files": _surroundings({}, before=_limit(resource.RLIMIT_NOFILE, 40), words=("file", "open")),
        "fewer open files": _surroundings({}, before=_limit(resource.RLIMIT_NOFILE, 12), words=("file", "open")),
        "little memory": _surroundings({}, before=_limit(resource.RLIMIT_AS, 900 * 2**20), words=("memory",)),
        "outputs that nobody may read": _surroundings({}, before=lambda: os.umask(0o077) and None),
    },
)  # fmt: skip
