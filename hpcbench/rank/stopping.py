"""How a run is asked to stop, and how it does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from hpcbench.errors import EvaluationError, HpcbenchError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ase import Atoms
    from numpy.typing import NDArray

    from hpcbench.potentials.copies import DisplacedCopies
    from hpcbench.potentials.protocol import (
        BatchEvaluation,
        Evaluation,
        Potential,
        PotentialInfo,
        PreparedCopies,
    )
    from hpcbench.potentials.structures import Structures


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

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        self._stop.check()
        try:
            yield
        except HpcbenchError:
            raise
        except Exception as error:  # potentials raise whatever their packages do
            raise EvaluationError(f"{type(error).__name__}: {error}") from error
