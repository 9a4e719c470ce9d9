"""How a run is asked to stop, and how it does."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from hpcbench.errors import EvaluationError, HpcbenchError

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.protocol import Evaluation, Potential, PotentialInfo


class StopRequested(BaseException):
    """Raised between two force calls when the run was asked to stop."""


class Stop:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self.signal is not None

    def install(self) -> None:
        """Let SIGINT, SIGTERM and SIGUSR2 ask the run to stop; a second SIGINT ends it at once.

        SIGUSR1 is ignored: MPICH's mpiexec sends it to the survivors when a rank dies. To be
        called before heavy imports, which a signal must not kill either.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.signal = number

    def check(self) -> None:
        """Raise ``StopRequested`` if the run was asked to stop."""
        if self.requested:
            raise StopRequested


class StoppablePotential:
    """A potential that gives up between two calls when the run was asked to stop."""

    def __init__(self, potential: Potential, stop: Stop) -> None:
        self._potential = potential
        self._stop = stop

    @property
    def info(self) -> PotentialInfo:
        """As of the potential itself."""
        return self._potential.info

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """As of the potential itself.

        Raises
        ------
        StopRequested
            If the run was asked to stop.
        EvaluationError
            If the potential raises an error of its own: it must not be taken for the
            relaxation's.
        """
        self._stop.check()
        try:
            return self._potential.evaluate(structures, stress=stress)
        except HpcbenchError:
            raise
        except Exception as error:  # potentials raise whatever their packages do
            raise EvaluationError(f"{type(error).__name__}: {error}") from error
