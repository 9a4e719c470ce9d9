"""What a rank asks of the file system before its first crystal, counted with strace.

For ``test_startup.py`` and ``benchmarks/startup.py``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hpcbench

# As with ``strace -f -y``: 12 openat(AT_FDCWD</folder>, "path", ...
CALL = re.compile(
    r"\d+ +(?P<name>\w+)\("
    r"(?:(?:AT_FDCWD|\d+)(?:<(?P<folder>[^>]*)>)?(?:, )?)?"
    r"(?:\"(?P<path>[^\"]*)\")?"
)
SYSTEM = ("/usr/", "/lib", "/bin", "/etc/", "/proc/", "/sys/", "/dev/")
# With the first of these a rank has its first block.
FIRST_LEASE = re.compile(r"symlink.*/leases/")


@dataclass(frozen=True)
class StartUp:
    """Calls until the first lease.

    Attributes
    ----------
    calls : dict
        All that name a file or list a folder, by where it lies: the environment, the package,
        Python itself, the system, elsewhere (the run's folder among it).
    opened : dict
        Those of them that open a file, or try to.
    paths : dict
        Different paths: what a node asks for whose cache is cold.
    """

    calls: dict[str, int]
    opened: dict[str, int]
    paths: dict[str, int]


def can_count() -> bool:
    """Whether there is a strace, and it may trace here."""
    strace = shutil.which("strace")
    return strace is not None and not _fails([strace, "-o", "/dev/null", "true"])


def _fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def count(command: Sequence[str | Path], folder: Path, places: Mapping[str, Path]) -> StartUp:
    """Start a rank under strace, and count.

    ``places`` says what lies where besides, or instead.
    """
    log = folder / "strace.log"
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-e", "trace=%file,getdents64", "-e", "signal=none",
         "-o", log, *command],
        stdout=subprocess.DEVNULL, check=False, timeout=600,
    )  # fmt: skip
    known = {
        "package": Path(hpcbench.__file__).parent,
        "environment": Path(sys.prefix),
        "Python": Path(sys.base_prefix),
        **places,
    }
    calls: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    paths: set[str] = set()
    with log.open(errors="replace") as lines:
        for line in lines:
            if FIRST_LEASE.search(line):
                by_place = Counter(_place(path, known) for path in paths)
                return StartUp(dict(calls), dict(opened), dict(by_place))
            call = CALL.match(line)
            if call is None:
                continue
            path = str(Path(call["folder"] or "/", call["path"] or ""))
            place = _place(path, known)
            calls[place] += 1
            opened[place] += call["name"].startswith("open")
            paths.add(path)
    raise AssertionError("the rank has taken no lease")


def _place(path: str, known: Mapping[str, Path]) -> str:
    for name, place in known.items():
        if path == str(place) or path.startswith(f"{place}/"):
            return name
    return "system" if path.startswith(SYSTEM) else "elsewhere"
