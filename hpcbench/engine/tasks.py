"""Calls what is computed beside the potential, in a rank's worker processes or the rank itself.

Loads neither torch nor MPI: a worker starts in half a second and takes little memory.
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
    """How a task ended.

    Attributes
    ----------
    value : object
        What its function returned; ``None`` if it failed.
    error : HpcbenchError or None
        What it raised; other errors than hpcbench's own as a ``CrystalError``.
    traceback : str
        Where an error of another kind came from; else empty.
    seconds : float
        Processor time.
    warnings : frozenset of str
        What libraries warned of.
    """

    value: Any
    error: HpcbenchError | None
    traceback: str
    seconds: float
    warnings: frozenset[str]


def run_task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> TaskReport:
    """Call a function; whatever becomes of it is in the report."""
    # Of the process: phonopy computes in threads of its own.
    start = time.process_time()
    value, error, trace = None, None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*arguments)
        except HpcbenchError as problem:
            error = problem
        except Exception as problem:  # one crystal's accident must not end the run
            error = unexpected(problem)
            trace = traceback.format_exc()
    return TaskReport(value, error, trace, time.process_time() - start, messages_of(caught))


def unexpected(problem: Exception) -> CrystalError:
    """An error that nobody raised on purpose, as the failure of the crystal."""
    return CrystalError("error", f"{type(problem).__name__}: {problem}")


def messages_of(caught: list[warnings.WarningMessage]) -> frozenset[str]:
    """What libraries warned of, each message once."""
    return frozenset(f"{w.category.__name__}: {w.message}" for w in caught)
