"""Call of one task, in a worker process or in the rank itself.

This module loads neither torch nor MPI, so that a worker process starts in half a second and
takes little memory.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcbench.errors import CrystalError, HpcbenchError


@dataclass(frozen=True, eq=False)
class TaskReport:
    """The outcome of a task.

    Attributes
    ----------
    value : object
        Return value of its function; ``None`` if it failed.
    error : HpcbenchError or None
        The error that it raised; an error that is not hpcbench's becomes a ``CrystalError``.
    traceback : str
        Traceback of an error that is not hpcbench's; else empty.
    seconds : float
        Processor time.
    warnings : frozenset of str
        Warnings of libraries.
    """

    value: Any
    error: HpcbenchError | None
    traceback: str
    seconds: float
    warnings: frozenset[str]


def run_task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> TaskReport:
    """Call a function, and report its value, or its error, with time and warnings.

    Parameters
    ----------
    function : callable
        The function.
    arguments : tuple
        Its positional arguments.
    """
    # Time of all threads, because phonopy starts some.
    start = time.process_time()
    value, error, trace = None, None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*arguments)
        except HpcbenchError as problem:
            error = problem
        except Exception as problem:  # an error of one crystal must not end the run
            error = unexpected(problem)
            trace = traceback.format_exc()
    return TaskReport(value, error, trace, time.process_time() - start, messages_of(caught))


def unexpected(problem: Exception) -> CrystalError:
    """Return the failure of a crystal for an unexpected error."""
    return CrystalError("error", f"{type(problem).__name__}: {problem}")


def messages_of(caught: list[warnings.WarningMessage]) -> frozenset[str]:
    """Return the messages of warnings, each once."""
    return frozenset(f"{w.category.__name__}: {w.message}" for w in caught)
