"""How a run is asked to stop, and how it does."""

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
# Seconds within which a signal is the same one.
SAME_SIGNAL = 0.3
POLL = 0.2
STOPPED = 75
"""Exit code of a run that was asked to stop: the same command goes on."""
# Slurm's KillWait is half a minute by default, and others wait no longer.
SECONDS_AFTER_SIGTERM = 20.0


class StopRequested(BaseException):
    """Raised between two force calls when the run was asked to stop."""


class Stop:
    """Whether the run was asked to stop, by a signal or because its time is over."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._started = time.monotonic()
        self._end = math.inf
        self._kill = math.inf
        self._heard = -math.inf
        self._asked = threading.Event()
        self.owns_process = False
        """Whether signals are ours, and ending the process is, too."""
        self.when_asked: Callable[[float], object] = lambda seconds: None
        """Called every moment from when a signal has asked the run to stop, with the seconds since
        then; from a thread of its own, so also where the main thread does not come back."""

    @property
    def age(self) -> float:
        """Seconds since this was made, as the first thing of a process."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Seconds until the run must stop; infinite where there is no limit."""
        return self._end - time.monotonic()

    @property
    def requested(self) -> bool:
        """True once a signal has come, or the time is over."""
        return self.signal is not None or self.seconds_left <= 0.0

    @property
    def seconds_to_the_kill(self) -> float:
        """Seconds until the process may be killed; infinite where nothing tells of it."""
        return self._kill - time.monotonic()

    @property
    def is_urgent(self) -> bool:
        """Tell whether the process may be killed in a moment."""
        return self.seconds_to_the_kill <= SECONDS_AFTER_SIGTERM

    def limit(self, seconds: float, reserve: float = 0.0) -> None:
        """Stop after so many seconds from now; the process is killed a reserve later."""
        self._end = time.monotonic() + seconds
        self._kill = min(self._kill, self._end + reserve)

    def install(self) -> None:
        """Let SIGINT, SIGTERM, SIGHUP and SIGUSR2 ask the run to stop.

        A second SIGINT ends it at once. SIGHUP is left ignored where it is, as under nohup.

        SIGUSR1 is ignored: MPICH's mpiexec sends it to the survivors when a rank dies. To be
        called before heavy imports, which a signal must not kill either.
        """
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
                signal.signal(number, self._handle)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # Python's handlers wait for the end of a forward pass; this byte does not.
        bell, ringer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ringer, False)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        self.owns_process = True
        threading.Thread(target=self._listen, args=(bell,), daemon=True).start()

    def _listen(self, bell: int) -> None:
        with contextlib.suppress(OSError):  # a potential that closes all files is found elsewhere
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

        The handler may never come to it: the main thread may be inside a library.
        """
        if any(number in URGENT for number in numbers):
            self._kill = min(self._kill, time.monotonic() + SECONDS_AFTER_SIGTERM)
        return any(number in ASKING for number in numbers)

    def wait(self, seconds: float) -> bool:
        """Wait, at most until a signal asks the run to stop; whether it was asked.

        For a thread of its own: true as soon as the signal is there, even where the main thread
        has not noticed it yet.
        """
        return self._asked.wait(seconds) or self.requested

    def pause(self, seconds: float) -> None:
        """Sleep, but not much longer than until the run is asked to stop."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0.0:
            time.sleep(min(left, POLL))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, before = time.monotonic(), self._heard
        self._heard = now
        again = self.signal == signal.SIGINT and number == signal.SIGINT
        # One Ctrl-C may come twice: from the terminal, and from who passes it on.
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
    """End a process that has been asked to stop before it had begun to work."""
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
    """A potential that gives up between two calls when the run was asked to stop.

    Each method is as of the potential itself, and raises besides

    - ``StopRequested`` if the run was asked to stop,
    - ``EvaluationError`` for an error of the potential's own: it must not be taken for the
      relaxation's or the crystal's; ``AnswerError`` where it answers with something else than
      was asked for.

    What it changes about the process is put back, see :class:`Surroundings`.
    """

    def __init__(
        self, potential: Potential, stop: Stop, surroundings: Surroundings | None = None
    ) -> None:
        self._potential = potential
        self._stop = stop
        self._surroundings = surroundings or Surroundings()

    @property
    def info(self) -> PotentialInfo:
        """As of the potential itself."""
        return self._potential.info

    @property
    def at(self) -> Atoms | None:
        """Return the structure that it computes just now, where it says so; for other threads."""
        return getattr(self._potential, "at", None)

    @property
    def device(self) -> torch.device:
        """As of the potential itself."""
        return self._potential.device

    @property
    def capacity(self) -> int:
        """As of the potential itself."""
        return self._potential.capacity

    def cost(self, natoms: int, volume: float) -> float:
        """As of the potential itself."""
        return self._potential.cost(natoms, volume)

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """As of the potential itself."""
        with self._guarded():
            answers = self._potential.evaluate(structures, stress=stress)
            for structure, answer in zip(structures, answers, strict=True):
                numbers_of(answer.forces, (len(structure), 3), "forces")
            return answers

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """As of the potential itself."""
        with self._guarded():
            answer = self._potential.evaluate_batch(batch, stress=stress)
            require_shape(answer.energies, (len(batch),), "energies")
            require_shape(answer.forces, tuple(batch.positions.shape), "forces")
            if stress:
                require_shape(answer.stresses, tuple(batch.cells.shape), "stresses")
            return answer

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """As of the potential itself."""
        with self._guarded():
            return self._potential.prepare(copies)

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """As of the potential itself."""
        with self._guarded():
            return _checked(parts, self._potential.forces(parts))

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """As of the potential itself, where it has it."""
        with self._guarded():
            answers = cast("Differentiable", self._potential).linear_forces(parts)
            return _checked(parts, answers)

    def linearise(self, batch: Structures) -> Linearised:
        """As of the potential itself, where it has it."""
        with self._guarded():
            return cast("Responsive", self._potential).linearise(batch)

    def respond(self, linearised: Linearised, columns: Sequence[Columns]) -> list[Response]:
        """As of the potential itself, where it has it."""
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
    """Return forces on copies as they were asked for: of one shape a part, and finite."""
    checked = []
    for (prepared, first, end), answer in zip(parts, answers, strict=True):
        forces = numbers_of(answer, (end - first, prepared.copies.natoms, 3), "forces")
        require_forces(forces)
        checked.append(forces)
    return checked
