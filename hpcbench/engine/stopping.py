"""Stopping a run by a signal or at the end of its time."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, cast

from hpcbench.potentials.boundary import (
    Surroundings,
    answering,
    numbers_of,
    require_forces,
    require_shape,
)
from hpcbench.process_end import leave_at_once

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ase import Atoms
    from numpy.typing import NDArray

    from hpcbench.potentials.columns import Columns, Response
    from hpcbench.potentials.copies import DisplacedCopies
    from hpcbench.potentials.protocol import (
        BatchEvaluation,
        Differentiable,
        Evaluation,
        Linearised,
        Potential,
        PotentialInfo,
        PreparedCopies,
        Responsive,
    )
    from hpcbench.potentials.structures import Structures


ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that ask a run to stop."""
# After these the process may be killed soon.
URGENT = (signal.SIGTERM, signal.SIGHUP)
# Seconds in which a rank that has not begun to work ends by itself when it is asked to.
PATIENCE_AT_START = 2.0
# Two signals within so many seconds count as one.
SAME_SIGNAL = 0.3
POLL = 0.2
STOPPED = 75
"""Exit code of a run that was asked to stop; the same command continues it."""
# Slurm's KillWait is half a minute by default, and others wait no longer.
SECONDS_AFTER_SIGTERM = 20.0


class StopRequested(BaseException):
    """Raised between two force calls when the run was asked to stop."""


class Stop:
    """State of a request to stop a run, by a signal or by the end of its time."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._started = time.monotonic()
        self._end = math.inf
        self._kill = math.inf
        self._heard = -math.inf
        self._asked = threading.Event()
        self.owns_process = False
        """True if hpcbench handles the signals of this process, and may end it."""
        self.when_asked: Callable[[float], object] = lambda seconds: None
        """Called repeatedly after a signal asked the run to stop, with the seconds since then; from
        another thread, so that it is called while the main thread is inside a library, too."""

    @property
    def age(self) -> float:
        """Return the seconds since this object was made, at the start of the process."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Return the seconds until the run must stop; infinite where there is no limit."""
        return self._end - time.monotonic()

    @property
    def requested(self) -> bool:
        """Tell whether a signal has come, or the time is over."""
        return self.signal is not None or self.seconds_left <= 0.0

    @property
    def seconds_to_the_kill(self) -> float:
        """Return the seconds until the process may be killed; infinite where that is unknown."""
        return self._kill - time.monotonic()

    @property
    def is_urgent(self) -> bool:
        """Tell whether the process may be killed soon."""
        return self.seconds_to_the_kill <= SECONDS_AFTER_SIGTERM

    def limit(self, seconds: float, reserve: float = 0.0) -> None:
        """Set the end of the run's time.

        Parameters
        ----------
        seconds : float
            Seconds from now until the run must stop.
        reserve : float
            Seconds from then until the process is killed.
        """
        self._end = time.monotonic() + seconds
        self._kill = min(self._kill, self._end + reserve)

    def install(self) -> None:
        """Let SIGINT, SIGTERM, SIGHUP and SIGUSR2 ask the run to stop.

        A second SIGINT ends it at once. SIGHUP stays ignored where it is already, as under nohup.

        SIGUSR1 is ignored: MPICH's mpiexec sends it to the other ranks when one dies. Call this
        before slow imports, so that a signal during them does not kill the process.
        """
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
                signal.signal(number, self._handle)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # Python's handlers run only after a forward pass; this byte is written at once.
        bell, ringer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ringer, False)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        self.owns_process = True
        threading.Thread(target=self._listen, args=(bell,), daemon=True).start()

    def _listen(self, bell: int) -> None:
        with contextlib.suppress(OSError):  # another check finds a potential that closes all files
            while not self._hears(numbers := os.read(bell, 64)):
                pass
            self._asked.set()
            if signal.SIGINT in numbers and sys.stderr.isatty():
                print(
                    "\nhpcbench: stopping when the potential comes back; Ctrl-C again ends at once "
                    "and loses what is under way",
                    file=sys.stderr,
                )
            start = time.monotonic()
            os.set_blocking(bell, False)
            while True:
                with contextlib.suppress(BlockingIOError):
                    self._hears(os.read(bell, 64))
                self.when_asked(time.monotonic() - start)
                time.sleep(POLL)

    def _hears(self, numbers: bytes) -> bool:
        """Tell whether one of these signals asks the run to stop.

        The handler may never run, because the main thread may be inside a library.
        """
        if any(number in URGENT for number in numbers):
            self._kill = min(self._kill, time.monotonic() + SECONDS_AFTER_SIGTERM)
        return any(number in ASKING for number in numbers)

    def wait(self, seconds: float) -> bool:
        """Wait until a signal asks the run to stop, at most some seconds; tell whether it did.

        For threads other than the main one: returns as soon as the signal is there, even where
        the main thread has not noticed it yet.
        """
        return self._asked.wait(seconds) or self.requested

    def pause(self, seconds: float) -> None:
        """Sleep some seconds, or until shortly after the run is asked to stop."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0.0:
            time.sleep(min(left, POLL))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, before = time.monotonic(), self._heard
        self._heard = now
        again = self.signal == signal.SIGINT and number == signal.SIGINT
        # One Ctrl-C may come twice: from the terminal, and from a launcher that passes it on.
        if again and now - before > SAME_SIGNAL:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if number in URGENT:
            self._kill = min(self._kill, time.monotonic() + SECONDS_AFTER_SIGTERM)
        self.signal = number

    def check(self) -> None:
        """Raise ``StopRequested`` if the run was asked to stop."""
        if self.requested:
            raise StopRequested


def end_at_start(seconds: float) -> None:
    """End a process that was asked to stop some seconds ago, and has not begun to work."""
    if seconds > PATIENCE_AT_START:
        with contextlib.suppress(OSError):
            print(
                "hpcbench: stopped before any crystal was begun: the same command begins anew",
                file=sys.stderr,
                flush=True,
            )
        # The main thread may be inside a library, or inside MPI.
        leave_at_once(STOPPED)


class StoppablePotential:
    """A potential whose calls raise an error once the run was asked to stop.

    Each method calls that of the potential (see :mod:`hpcbench.potentials.protocol`), and raises

    - ``StopRequested`` if the run was asked to stop,
    - ``EvaluationError`` for an error inside the potential, to tell it from one of the
      relaxation or the crystal,
    - ``AnswerError`` if an answer has a wrong shape or wrong numbers.

    Changes that the potential makes to the process are undone, see :class:`Surroundings`.

    Parameters
    ----------
    potential : Potential
        The potential to call.
    stop : Stop
        Tells whether the run was asked to stop.
    surroundings : Surroundings, optional
        Restores the state of the process after each call.
    """

    def __init__(
        self, potential: Potential, stop: Stop, surroundings: Surroundings | None = None
    ) -> None:
        self._potential = potential
        self._stop = stop
        self._surroundings = surroundings or Surroundings()

    @property
    def info(self) -> PotentialInfo:
        """Return the description of the potential."""
        return self._potential.info

    @property
    def at(self) -> Atoms | None:
        """Return the structure that it computes now, if it tells; for other threads."""
        return getattr(self._potential, "at", None)

    @property
    def device(self) -> torch.device:
        """Return the device of the potential."""
        return self._potential.device

    @property
    def capacity(self) -> int:
        """Return the largest sum of costs in one forward pass."""
        return self._potential.capacity

    def cost(self, natoms: int, volume: float) -> float:
        """Return the cost of a structure in a forward pass.

        Parameters
        ----------
        natoms : int
            Number of atoms.
        volume : float
            Volume of the cell in A^3.
        """
        return self._potential.cost(natoms, volume)

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Compute energies and forces.

        Parameters
        ----------
        structures : sequence of Atoms
            The structures.
        stress : bool
            Whether to compute stresses, too.
        """
        with self._guarded():
            answers = self._potential.evaluate(structures, stress=stress)
            for structure, answer in zip(structures, answers, strict=True):
                numbers_of(answer.forces, (len(structure), 3), "forces")
            return answers

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """Compute energies and forces of a batch.

        Parameters
        ----------
        batch : Structures
            The structures.
        stress : bool
            Whether to compute stresses, too.
        """
        with self._guarded():
            answer = self._potential.evaluate_batch(batch, stress=stress)
            require_shape(answer.energies, (len(batch),), "energies")
            require_shape(answer.forces, tuple(batch.positions.shape), "forces")
            if stress:
                require_shape(answer.stresses, tuple(batch.cells.shape), "stresses")
            return answer

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """Prepare the displaced copies of a supercell for evaluation."""
        with self._guarded():
            return self._potential.prepare(copies)

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """Compute the forces on parts of prepared copies in eV/A, as ``(copies, first, end)``."""
        with self._guarded():
            return _checked(parts, self._potential.forces(parts))

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """Compute the forces to first order in the displacements, if the potential can."""
        with self._guarded():
            answers = cast("Differentiable", self._potential).linear_forces(parts)
            return _checked(parts, answers)

    def linearise(self, batch: Structures) -> Linearised:
        """Linearise the potential at a batch of structures, if it can."""
        with self._guarded():
            return cast("Responsive", self._potential).linearise(batch)

    def respond(self, linearised: Linearised, columns: Sequence[Columns]) -> list[Response]:
        """Compute the linear response to columns, if the potential can.

        Parameters
        ----------
        linearised : Linearised
            From :meth:`linearise`.
        columns : sequence of Columns
            The columns of each structure.
        """
        with self._guarded():
            return cast("Responsive", self._potential).respond(linearised, columns)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        self._stop.check()
        try:
            with answering():
                yield
        finally:
            self._surroundings.restore()


def _checked(
    parts: Sequence[tuple[PreparedCopies, int, int]], answers: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Return the forces on parts of copies; raise an error if one is no array of forces."""
    checked = []
    for (prepared, first, end), answer in zip(parts, answers, strict=True):
        forces = numbers_of(answer, (end - first, prepared.copies.natoms, 3), "forces")
        require_forces(forces)
        checked.append(forces)
    return checked
