"""Set up where harm is done: folders, the program as a user starts it, what it may not do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EMT = "ase.calculators.emt:EMT"
QUICK = [
    "--dtype", "float64", "--mesh", "4", "4", "4", "--supercell", "2", "2", "2",
    "--device", "cpu", "--no-report", "--workers", "0",
]  # fmt: skip
MEMORY = 512 * 2**20
"""Bytes that a process may hold beyond those of a run of good crystals only."""
ADDRESSES = 8 * 2**30
"""Bytes of address space: a bomb ends its own process, not the machine."""
LARGEST_FILE = 2**30
"""Bytes that a process may write into one file."""
# What is said where the supercell is small, as it is in all runs here.
_USUAL_NOTE = re.compile(r"supercell only [\d.]+ A high")
FORK = threading.Lock()
"""Held while a process is started and while h5py is in use, which does not bear a fork."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Row = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """Describe a command that has ended.

    Attributes
    ----------
    code : int
        Its exit code, negative if a signal ended it.
    out, err : str
        What it printed.
    seconds : float
        Wall time.
    peak : int
        Most bytes in memory, of it and of those that it waited for.
    is_late : bool
        It had to be killed.
    left : tuple of str
        Processes that it left behind.
    command : str
        As a person would type it.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    is_late: bool
    left: tuple[str, ...]
    command: str

    @property
    def text(self) -> str:
        """Return all that it printed."""
        return self.out + self.err


@dataclass
class Limits:
    """Hold what a run of good crystals takes, and what others may."""

    seconds: float = 120.0
    peak: int = 2**40

    def of_good(self, ended: Ended) -> None:
        """Take the limits from a run of good crystals only."""
        self.seconds = max(60.0, 5 * ended.seconds)
        self.peak = ended.peak + MEMORY


@dataclass
class Place:
    """Keep a folder in which harm is done.

    Attributes
    ----------
    folder : Path
        The working folder of the commands.
    limits : Limits
        Of each command.
    python_path : str
        Where hpcbench is.
    peak : int
        Most memory of a command so far, bytes.
    """

    folder: Path
    limits: Limits
    python_path: str = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    peak: int = 0
    watched: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "outside").mkdir()
        (self.folder / "work").mkdir()

    @property
    def work(self) -> Path:
        """Return the working folder of the commands: inputs and outputs."""
        return self.folder / "work"

    @property
    def outside(self) -> Path:
        """Return a folder that nothing may be written to."""
        return self.folder / "outside"

    def environment(self, changes: Mapping[str, str | None] = {}) -> dict[str, str]:
        """Return that of the commands: this process's, without what a batch system left in it."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PMI", "HPCB"))}
        mine |= {
            "PYTHONPATH": self.python_path,
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "COLUMNS": "200",
            "MARKER": str(self.outside / "MARKER"),
        }
        for name, value in changes.items():
            mine.pop(name, None)
            if value is not None:
                mine[name] = value
        return mine

    def hpcbench(self, *words: str, **options: Any) -> Ended:
        """Give a command of hpcbench and wait for its end; options as :meth:`command` has."""
        return self.command([sys.executable, "-m", "hpcbench", *words], **options)

    def run(self, *words: str, model: str = EMT, **options: Any) -> Ended:
        """Give ``hpcbench run`` with quick settings."""
        return self.hpcbench("run", "--model", model, *QUICK, *words, **options)

    def command(
        self,
        words: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str | None] = {},
        seconds: float | None = None,
        within: Sequence[str] = (),
        before: Callable[[], None] = lambda: None,
        beside: Callable[[int], None] | None = None,
    ) -> Ended:
        """Give a command and wait for its end.

        Parameters
        ----------
        words : sequence of str
            The command.
        cwd : Path
            Its working folder, if that is another one.
        env : mapping
            Changes of its environment; ``None`` takes a variable away.
        seconds : float
            After which it is killed, if not those of the limits.
        within : sequence of str
            Words in front.
        before : callable
            Called in the new process.
        beside : callable
            Called with its process id as soon as it runs.
        """

        def confine() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
            resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
            before()

        patience = seconds or self.limits.seconds
        logs = [self.folder / f"log.{end}" for end in ("out", "err")]
        began = time.monotonic()
        with logs[0].open("wb") as out, logs[1].open("wb") as err:
            with FORK:
                process = subprocess.Popen(
                    [*within, *as_other_users(), *words], stdin=subprocess.DEVNULL, stdout=out,
                    stderr=err, cwd=cwd or self.work, env=self.environment(env),
                    start_new_session=True, preexec_fn=confine,
                )  # fmt: skip
            if beside:
                beside(process.pid)
            code, peak, is_late = _wait(process, began + patience)
        took = time.monotonic() - began
        self.peak = max(self.peak, peak)
        shown = " ".join("hpcbench" if w == sys.executable else w for w in words)
        return Ended(
            code, _text(logs[0]), _text(logs[1]), took, peak, is_late,
            _kill_session(process.pid), shown.replace("hpcbench -m hpcbench", "hpcbench"),
        )  # fmt: skip

    def rows(self, store: str, **options: Any) -> list[Row]:
        """Return the table of a store as ``hpcbench export`` writes it; empty if it writes none."""
        ended = self.hpcbench("export", store, "--format", "json", "-o", "-", **options)
        try:
            return list(json.loads(ended.out))
        except ValueError:
            return []

    def watch(self, *folders: Path) -> None:
        """Remember what is in these folders: none of it may change."""
        for folder in (self.outside, *folders):
            self.watched |= snapshot(folder)
        self._folders = (self.outside, *folders)

    def changes(self) -> list[str]:
        """Return what has changed since :meth:`watch`."""
        now: dict[str, str] = {}
        for folder in self._folders:
            now |= snapshot(folder)
        both = now.keys() | self.watched.keys()
        return sorted(key for key in both if now.get(key) != self.watched.get(key))


def as_other_users() -> tuple[str, ...]:
    """Return words in front that take from root the power to read and write everything."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    powers = "-dac_override,-dac_read_search"
    return ("setpriv", "--bounding-set", powers, "--inh-caps", powers)


def snapshot(folder: Path) -> dict[str, str]:
    """Return what is at each path below a folder: kind, rights, target or checksum."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            about = os.lstat(path)
            kind = f"{stat.filemode(about.st_mode)} "
            if stat.S_ISLNK(about.st_mode):
                kind += os.readlink(path)
            elif stat.S_ISREG(about.st_mode):
                kind += _checksum(path)
            found[path] = kind
    return found


def _checksum(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        return "unreadable"


def _wait(process: subprocess.Popen[bytes], until: float) -> tuple[int, int, bool]:
    is_late = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss * 1024, is_late
        if time.monotonic() > until:
            is_late = True
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.01)


def _kill_session(session: int) -> tuple[str, ...]:
    """Kill what is left of a session after a moment; their commands."""
    for _ in range(40):
        if not (left := _session(session)):
            return ()
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return tuple(left.values())


def _session(session: int) -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and fields[0] != "Z":
            found[int(name)] = words.decode(errors="replace")[:120]
    return found


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(20 * 2**20).decode("utf-8", errors="surrogateescape")


def is_said(row: Row) -> bool:
    """Tell whether a row has a reason, a cause, a mending, or a note that good ones have not."""
    note = _USUAL_NOTE.sub("", str(row.get("notes") or "")).strip(" ;,")
    mended = any("mended" in fields for *_, fields in json.loads(row["origins"] or "[[{}]]"))
    return row["status"] != "done" or bool(note) or bool(row.get("cause")) or mended


def faults_of(ended: Ended, codes: Iterable[int], limits: Limits) -> list[str]:
    """Return what the command did that none may do, whatever is given to it.

    Parameters
    ----------
    ended : Ended
        The command.
    codes : iterable of int
        Exit codes that are right.
    limits : Limits
        Of each command.
    """
    found = []
    told = _last_line(ended.err) or _last_line(ended.out)
    if ended.is_late:
        return [f"time: {ended.command} did not end within {ended.seconds:.0f} s"]
    if "Traceback (most recent call last)" in ended.text:
        found.append(f"traceback: {ended.command} ({told})")
    if ended.code not in codes:
        found.append(f"exit code: {ended.command} ended with {ended.code} ({told})")
    elif ended.code in (2, 3) and len(ended.err.split()) < 4:
        found.append(f"silent: {ended.command} ended with {ended.code} without a sentence")
    if ended.peak > limits.peak:
        took = (ended.peak - limits.peak + MEMORY) / 2**20
        found.append(f"memory: {ended.command} took {took:,.0f} MB more than good crystals")
    if ended.left:
        found.append(f"left behind: {ended.command} left {ended.left[0]}")
    if control := _CONTROL.search(ended.text):
        found.append(f"let in: {ended.command} printed the control character {control[0]!r}")
    return found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""
