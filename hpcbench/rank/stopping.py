"""How a run is asked to stop, and how it does."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, cast

from hpcbench.errors import EvaluationError, HpcbenchError

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


ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a run to stop."""
POLL = 0.2
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
        self._bell: int | None = None

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

    def limit(self, seconds: float, reserve: float = 0.0) -> None:
        """Stop after so many seconds from now; the process is killed a reserve later."""
        self._end = time.monotonic() + seconds
        self._kill = min(self._kill, self._end + reserve)

    def install(self) -> None:
        """Let SIGINT, SIGTERM and SIGUSR2 ask the run to stop; a second SIGINT ends it at once.

        SIGUSR1 is ignored: MPICH's mpiexec sends it to the survivors when a rank dies. To be
        called before heavy imports, which a signal must not kill either.
        """
        for number in ASKING:
            signal.signal(number, self._handle)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # Python's handlers wait for the end of a forward pass; this byte does not.
        self._bell, ringer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> bool:
        """Wait, at most until a signal asks the run to stop; whether it was asked.

        For a thread of its own: true as soon as the signal is there, even where the main thread
        has not noticed it yet.
        """
        if self._bell is None:
            time.sleep(seconds)
        elif select.select([self._bell], [], [], seconds)[0]:
            return any(number in ASKING for number in os.read(self._bell, 64)) or self.requested
        return self.requested

    def pause(self, seconds: float) -> None:
        """Sleep, but not much longer than until the run is asked to stop."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0.0:
            time.sleep(min(left, POLL))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if number == signal.SIGTERM:
            self._kill = min(self._kill, time.monotonic() + SECONDS_AFTER_SIGTERM)
        self.signal = number

    def check(self) -> None:
        """Raise ``StopRequested`` if the run was asked to stop."""
        if self.requested:
            raise StopRequested


class StoppablePotential:
    """A potential that gives up between two calls when the run was asked to stop.

    Each method is as of the potential itself, and raises besides

    - ``StopRequested`` if the run was asked to stop,
    - ``EvaluationError`` for an error of the potential's own: it must not be taken for the
      relaxation's or the crystal's.
    """

    def __init__(self, potential: Potential, stop: Stop) -> None:
        self._potential = potential
        self._stop = stop

    @property
    def info(self) -> PotentialInfo:
        """As of the potential itself."""
        return self._potential.info

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
            return self._potential.evaluate(structures, stress=stress)

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """As of the potential itself."""
        with self._guarded():
            return self._potential.evaluate_batch(batch, stress=stress)

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """As of the potential itself."""
        with self._guarded():
            return self._potential.prepare(copies)

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """As of the potential itself."""
        with self._guarded():
            return self._potential.forces(parts)

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """As of the potential itself, where it has it."""
        with self._guarded():
            return cast("Differentiable", self._potential).linear_forces(parts)

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
            yield
        except HpcbenchError:
            raise
        except Exception as error:  # potentials raise whatever their packages do
            raise EvaluationError(f"{type(error).__name__}: {error}") from error
