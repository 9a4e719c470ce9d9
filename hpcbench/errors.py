"""The errors of hpcbench, as a tree.

::

    HpcbenchError
    ├── UsageError             exit code 2: the command or its settings are wrong
    │   ├── ConfigError        an unknown key, a wrong type, a value out of range
    │   ├── ModelError         no such potential; also a PotentialError
    │   ├── NoStoreError       no such store; also a StoreError
    │   ├── SourceError        no such file, or no readable crystal in the sources
    │   └── StoreMismatchError the store was made with other settings
    ├── SetupError             exit code 3: the machine or the installation is wrong
    │   ├── PotentialError     weights missing, package missing, self-test failed
    │   ├── DeviceError        no such device, or two ranks on one GPU
    │   ├── LaunchError        the MPI launcher and mpi4py do not fit together
    │   └── StoreError         the output cannot be written, or a store cannot be read
    │       └── DamageError    a file of a store has changed since it was written
    ├── EvaluationError        the potential raised an error for a structure
    │   └── AnswerError        it returned an array of another shape or kind than required
    ├── OutOfMemoryError       a forward pass did not fit into the device's memory
    └── CrystalError           the failure of one crystal: recorded, never stops a run
        ├── UnreadableError    a file or an entry of a file is not a crystal
        ├── SetAsideError      a crystal that is not to be computed: a duplicate, not in the sample
        ├── UnsuitableError    a crystal that cannot be computed (overlap, unknown element)
        │   └── TooLargeError  one that does not fit into the device's memory
        ├── RelaxationError    not converged, flown apart, NaN
        └── PhononError        displacements, forces or force constants failed

Messages say what happened, to which crystal or file, and what to do about it.
"""

from __future__ import annotations

from typing import Any

from hpcbench.texts import shown_reason


def named(error: BaseException) -> str:
    """Format an error of another package as ``Type: message``, in one line."""
    text = shown_reason(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class HpcbenchError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is that of the program.

    ``further_rows`` are rows of a crystal that are known although this error ended its computation.
    """

    exit_code = 3
    further_rows: tuple[dict[str, Any], ...] = ()


class UsageError(HpcbenchError):
    """The command line, a configuration or an input list is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has an unknown name, a wrong type or a value out of range."""


class SourceError(UsageError):
    """A source does not exist, or holds no readable crystal."""


class StoreMismatchError(UsageError):
    """An existing store was computed with other settings than the ones given."""


class SetupError(HpcbenchError):
    """The machine, the environment or the installation does not allow the run."""

    exit_code = 3


class PotentialError(SetupError):
    """A potential is unknown, its weights or its package are missing, or it computes nonsense."""


class ModelError(UsageError, PotentialError):
    """There is no such potential."""


class DeviceError(SetupError):
    """A device does not exist, or ranks and devices do not fit together."""


class LaunchError(SetupError):
    """The processes were not started as one MPI world."""


class StoreError(SetupError):
    """A store or its run folder cannot be written or read."""


class NoStoreError(UsageError, StoreError):
    """There is no such store."""


class DamageError(StoreError):
    """A file of a store has changed since it was written."""


class EvaluationError(HpcbenchError):
    """A potential raised an error of its own: for this structure, or because it is broken."""


class AnswerError(EvaluationError):
    """A potential returned an array of another shape or kind than required."""


class OutOfMemoryError(HpcbenchError):
    """A forward pass did not fit into the memory of the device; smaller passes may."""


class CrystalError(HpcbenchError):
    """The failure of one crystal.

    ``kind`` is a short, stable word for counting; the message is for people.
    """

    exit_code = 1

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.kind, str(self))

    @property
    def reason(self) -> str:
        """The text for a table: ``kind: message``, in one short line."""
        return shown_reason(f"{self.kind}: {self}")


class UnreadableError(CrystalError):
    """A file, or one entry of it, cannot be read as a crystal."""


class SetAsideError(CrystalError):
    """A crystal could be computed, but is a duplicate or not in the sample."""


class UnsuitableError(CrystalError):
    """A crystal was read but cannot be computed."""


class TooLargeError(UnsuitableError):
    """A crystal did not fit into the memory of the device, with nothing beside it in its pass."""

    def __init__(self, message: str) -> None:
        super().__init__("too large", message)

    def __reduce__(self) -> tuple[type, tuple[str]]:  # type: ignore[override]
        return type(self), (str(self),)


class RelaxationError(CrystalError):
    """The relaxation did not end in a minimum."""


class PhononError(CrystalError):
    """The phonon calculation of a relaxed crystal failed."""
