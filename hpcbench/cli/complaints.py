"""Messages of commands that fail."""

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

# Seconds within which all ranks of a host would report the same error.
TOGETHER = 1.0
# Most characters of a log: tracebacks contain the messages of libraries.
LONGEST_LOG = 200_000


def complain(error: BaseException, command: str, about: str = "") -> int:
    """Print an error to standard error, and return the exit code.

    Parameters
    ----------
    error : BaseException
        An error of hpcbench, or any other. Of others, one line is printed, with the path of a file
        with the traceback.
    command : str
        Name of the command. After an error of use, its help is mentioned.
    about : str
        Beginning of the sentence: a rank, or the file of the command.
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
    """Tell whether this is the first rank of its host to report an error.

    The launcher's variables do not answer this: they may be left over from an earlier launcher,
    and a single process would then take itself for one of several ranks.
    """
    if find_launcher() is None:
        return True
    ours = socket.socket(socket.AF_UNIX)
    command = hashlib.sha256(
        repr((os.environ.get("PWD"), os.getuid(), sys.argv)).encode()
    ).hexdigest()
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
    """Write the traceback into a file, and return a note with its path, or with the traceback."""
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
