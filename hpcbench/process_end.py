"""Tell the launcher shim (:mod:`hpcbench.scheduler.launcher_shim`) how this process ends."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

_to_whom: list[int] = []


def tell_to(descriptor: int) -> None:
    """Let somebody hear of the end, at the other end of a pipe."""
    _to_whom.append(descriptor)


def say_end(code: int, sentence: str = "") -> None:
    """Say that this process ends by its own will.

    Parameters
    ----------
    code : int
        Its exit code.
    sentence : str
        Why, where its own standard error is gone.
    """
    while _to_whom:
        with contextlib.suppress(OSError):
            os.write(_to_whom.pop(), f"{code}\n{sentence}".encode())


def leave_at_once(code: int, sentence: str = "") -> NoReturn:
    """End this process, whatever its threads are at.

    Parameters
    ----------
    code : int
        Its exit code.
    sentence : str
        Why, where its own standard error is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    say_end(code, sentence)
    os._exit(code)
