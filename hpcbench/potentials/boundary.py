"""Guard the program where a potential's code begins: what it may raise, answer and change.

Potentials are other people's code. Whatever one does with a crystal is that crystal's failure, and
must not end, silence or spoil the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.errors import AnswerError, EvaluationError, HpcbenchError, named

if TYPE_CHECKING:
    from numpy.typing import NDArray


# eV/A; a relaxation gives up far below.
LARGEST_FORCE = 1e6


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Run code of a potential; whatever it raises becomes an ``EvaluationError``.

    ``SystemExit`` and ``KeyboardInterrupt`` too: a package that calls ``sys.exit`` must not end the
    run without a word. A program's own Ctrl-C goes through.

    Raises
    ------
    EvaluationError
        For all errors that are not ours.
    """
    try:
        yield
    except HpcbenchError:
        raise
    except KeyboardInterrupt as error:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise
        raise EvaluationError(named(error)) from error
    except (Exception, SystemExit) as error:
        raise EvaluationError(named(error)) from error


def numbers_of(answer: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """Return an answer of a potential as an array of its own, float64.

    Parameters
    ----------
    answer : array_like
        What it says.
    shape : tuple of int
        Wanted.
    what : str
        In words, for the complaint.

    Raises
    ------
    AnswerError
        If it has another shape, or is not of real numbers.
    """
    try:
        array = np.asarray(answer)
    except ValueError as error:
        raise AnswerError(f"{what} that are no array: {named(error)}") from error
    if array.shape != shape:
        raise AnswerError(f"{what} of shape {array.shape}, where {shape} was wanted")
    if array.dtype.kind not in "fiu":
        raise AnswerError(f"{what} of type {array.dtype}, where real numbers were wanted")
    return array.astype(np.float64)


def require_shape(answer: Any, shape: tuple[int, ...], what: str) -> None:
    """Refuse a tensor of another shape than was asked for.

    Parameters
    ----------
    answer : Any
        What the potential answered.
    shape : tuple of int
        What was asked for.
    what : str
        What the error calls it.

    Raises
    ------
    AnswerError
        If it has.
    """
    there = tuple(getattr(answer, "shape", ()))
    if there != shape:
        raise AnswerError(f"{what} of shape {there}, where {shape} was wanted")


def require_forces(forces: NDArray[np.float64]) -> None:
    """Refuse NaN, infinity, and forces (eV/A) whose differences are nothing but rounding.

    Raises
    ------
    EvaluationError
        If there are any.
    """
    if not np.isfinite(forces).all():
        raise EvaluationError("forces on displaced atoms that are not finite")
    largest = float(np.abs(forces).max(initial=0.0))
    if largest > LARGEST_FORCE:
        raise EvaluationError(f"forces on displaced atoms of up to {largest:.2g} eV/A")


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        # No potential can change them from there; the program around may.
        return {}
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    return {number: signal.getsignal(number) for number in numbers}


@dataclass
class Surroundings:
    """Hold what a potential shares with the program, as it was before the potential was called.

    Made by the thread that calls the potential.

    Attributes
    ----------
    files : dict of int to tuple
        Open files that the program needs: descriptor, and what tells whether it is still the same.
    on_loss : callable
        Told when one of them is closed or another one; must end the process, for numbers of
        descriptors are given again, and would be written to.
    """

    files: dict[int, tuple[int, int]] = field(default_factory=dict)
    on_loss: Callable[[], Any] = lambda: None
    _folder: str = field(default_factory=lambda: _folder(), init=False)
    _streams: tuple[Any, Any] = field(default_factory=lambda: (sys.stdout, sys.stderr), init=False)
    _handlers: dict[int, Any] = field(default_factory=_handlers, init=False)
    _floating: Any = field(default_factory=np.geterr, init=False)

    def restore(self) -> None:
        """Put back what was changed, with a warning of each; takes some microseconds."""
        for descriptor, identity in self.files.items():
            if identity_of(descriptor) != identity:
                self.on_loss()
        if self._folder and _folder() != self._folder:
            os.chdir(self._folder)
            _tell("working folder")
        if (sys.stdout, sys.stderr) != self._streams:
            sys.stdout, sys.stderr = self._streams
            _tell("standard output")
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
                _tell(f"handler of {signal.Signals(number).name}")
        if np.geterr() != self._floating:
            np.seterr(**self._floating)
            _tell("numpy's handling of floating-point errors")


def identity_of(descriptor: int) -> tuple[int, int] | None:
    """Return device and inode of an open file; ``None`` if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def files_below(folder: os.PathLike[str] | str) -> dict[int, tuple[int, int]]:
    """Return the files of a run that this process writes all the time, and standard output's.

    Other threads of ours open others, and close them again.
    """
    found = {}
    top = os.path.realpath(folder) + os.sep
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")
            place = os.path.basename(os.path.dirname(path))
            of_run = path.startswith(top) and (place in _KEPT_OPEN or path == f"{top}lock")
            if (int(name) in (1, 2) or (of_run and _is_written(int(name)))) and (
                identity := identity_of(int(name))
            ):
                found[int(name)] = identity
    return found


# Folders of a run with one file for each process, which has it open to the end.
_KEPT_OPEN = ("journal", "events")


def _is_written(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is no more
        return ""


def _tell(what: str) -> None:
    warnings.warn(f"the potential changed the program's {what}; put back", stacklevel=3)
