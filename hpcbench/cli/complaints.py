"""Say how a command fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from hpcbench.errors import HpcbenchError, UsageError, named
from hpcbench.scheduler.world import find_launcher
from hpcbench.texts import printable

# What a rank says, all others of its host would say within this time, in s.
TOGETHER = 1.0
# Of the log: tracebacks hold the messages of libraries.
LONGEST_LOG = 200_000


def complain(error: BaseException, command: str, about: str = "") -> int:
    """Print an error to standard error; returns the exit code.

    Parameters
    ----------
    error : BaseException
        One of ours, or any other: of that one line is said, and where the traceback is kept.
    command : str
        Of hpcbench; behind a wrong use its help is named.
    about : str
        Stands before the sentence: a rank, or the file that the command was about.
    """
    before = f"hpcbench: {about}: " if about else "hpcbench: "
    if isinstance(error, HpcbenchError):
        lines = [f"{before}{error}"]
        if isinstance(error, UsageError) and "--help" not in lines[0]:
            lines.append(f"see hpcbench {command} --help")
        _say(lines)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _say([f"{before}{named(error)}: raise the limit of open files (ulimit -n 4096)"])
    else:
        _say([f"{before}{named(error)} ({_kept(error)})"])
    return HpcbenchError.exit_code


def is_first_here() -> bool:
    """Tell whether no other rank of this host says the same.

    Ranks cannot be asked which they are: the variables of a launcher may be left over from an
    earlier one, and the only process would take itself for another rank's neighbour.
    """
    if find_launcher() is None:
        return True
    ours = socket.socket(socket.AF_UNIX)
    command = hashlib.sha256(repr((os.getcwd(), os.getuid(), sys.argv)).encode()).hexdigest()
    try:
        # Linux frees such a name when the process ends.
        ours.bind(f"\0hpcbench-{command}")
    except OSError:
        return False
    _held.append(ours)
    threading.Timer(TOGETHER, ours.close).start()
    return True


_held: list[socket.socket] = []


def _say(lines: list[str]) -> None:
    # The terminal may have gone away.
    with contextlib.suppress(OSError, ValueError):
        print(printable("\n".join(lines)), file=sys.stderr, flush=True)


def _kept(error: BaseException) -> str:
    """Write the traceback down, and say where; itself where it can be kept nowhere."""
    text = "".join(traceback.format_exception(error))[-LONGEST_LOG:]
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (_cache_folder, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):
            path = Path(folder()) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return f"not foreseen: please report it, with {path}"
    return f"not foreseen: please report it\n{text}"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hpcbench" / "errors"
