"""A process between MPICH's mpiexec and a rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

# Of MPICH's launcher, hydra, in all its versions; not of srun, which lets the others live.
HYDRA = "HYDI_CONTROL_FD"


def stand_between(environment: Mapping[str, str] | None = None) -> None:
    """Let this process go on as a child of itself, if mpiexec of MPICH has started it.

    When a rank dies by a signal, hydra (5.0.2) kills all ranks of that host as soon as anything
    else happens there, whatever ``-disable-auto-cleanup`` says: it looks at how the process
    ended. So it is shown one that ends with an exit code. To be called before threads are
    started and before MPI is loaded.
    """
    if HYDRA not in (os.environ if environment is None else environment):
        return
    child = os.fork()
    if child == 0:
        return
    # What the launcher sends it sends to the whole process group: the child has it too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # As a shell says it.
    os._exit(code if code >= 0 else 128 - code)
