"""Reports on the end of this process to :mod:`hpcbench.scheduler.launcher_shim`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

_to_whom: list[int] = []


def tell_to(descriptor: int) -> None:
    """Register a pipe, by its descriptor, on which the end of this process is reported."""
    _to_whom.append(descriptor)


def say_end(code: int, sentence: str = "") -> None:
    """Report that this process ends by itself.

    Parameters
    ----------
    code : int
        Its exit code.
    sentence : str
        The reason, if its own standard error is gone.
    """
    while _to_whom:
        with contextlib.suppress(OSError):
            os.write(_to_whom.pop(), f"{code}\n{sentence}".encode())


def leave_at_once(code: int, sentence: str = "") -> NoReturn:
    """End this process at once, whatever its threads are doing.

    Parameters
    ----------
    code : int
        Its exit code.
    sentence : str
        The reason, if its own standard error is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    say_end(code, sentence)
    os._exit(code)
