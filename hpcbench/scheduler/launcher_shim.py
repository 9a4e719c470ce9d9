"""A parent process that observes how a rank ends, for MPICH's mpiexec and single processes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn

from hpcbench.errors import HpcbenchError
from hpcbench.process_end import tell_to
from hpcbench.scheduler.world import find_launcher

# Set by MPICH's launcher, hydra, in all its versions; not by srun, which lets other ranks live.
HYDRA = "HYDI_CONTROL_FD"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Signals that ask a process to end.
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# See prctl(2): a process gets a signal when its parent ends.
PR_SET_PDEATHSIG = 1
# Higher than the numbers that a potential may close when it cleans up.
HIGH_DESCRIPTOR = 200


def stand_between(environment: Mapping[str, str] | None = None) -> None:
    """Continue as a child of this process where its end must be observed.

    Under MPICH's mpiexec: when a rank dies by a signal, hydra (5.0.2) kills all ranks of that host
    as soon as anything else happens there, in spite of ``-disable-auto-cleanup``: it looks at how
    the process ended. Therefore its process is the parent, which ends with an exit code.

    Without a launcher: a process that a library ends by a segmentation fault, or a potential by
    ``os._exit(0)``, must not look like a completed run. This is done on Linux only, where a child
    learns that its parent has been killed.

    To be called before threads are started and before MPI is loaded.
    """
    variables = os.environ if environment is None else environment
    # Some daemons let it be ignored, and then the child's end could not be observed.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if HYDRA in variables:
        _stand_before_hydra()
    elif sys.platform == "linux" and find_launcher(variables) is None:
        _watch_over()


def _stand_before_hydra() -> None:
    child = os.fork()
    if child == 0:
        return
    # The launcher sends signals to the whole process group, so the child gets them too.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # As shells report it.
    os._exit(code if code >= 0 else 128 - code)


def _watch_over() -> None:
    """Continue as a child; this process passes signals on to it, and reports how it ended."""
    hears, tells = os.pipe()
    waited_for = {*SIGNALS, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(hears)
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        high = fcntl.fcntl(tells, fcntl.F_DUPFD_CLOEXEC, _high_descriptor())
        os.close(tells)
        tell_to(high)
        return
    os.close(tells)
    while True:
        told = signal.sigwaitinfo(waited_for)
        if told.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                _end_as(os.waitstatus_to_exitcode(status), _told(hears))
        elif told.si_code <= 0:
            # Sent to this process alone; the child gets signals of the terminal itself.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, told.si_signo)


def _high_descriptor() -> int:
    """Return a number far from those in use, and within the limit of open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HIGH_DESCRIPTOR if limit > 2 * HIGH_DESCRIPTOR else max(3, limit // 2)


def _told(hears: int) -> bytes:
    """Return the child's message; another process may have inherited the pipe's other end."""
    os.set_blocking(hears, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(hears, 4096)
    return b""


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(HpcbenchError.exit_code)


def _end_as(code: int, told: bytes) -> NoReturn:
    """End as the child did, with a sentence if it did not end by itself."""
    said, _, sentence = told.partition(b"\n")
    if said.isdigit():
        if sentence:
            with contextlib.suppress(OSError):
                os.write(2, b"hpcbench: " + sentence + b"\n")
        os._exit(int(said))
    if -code in ASKED:
        print("hpcbench: interrupted", file=sys.stderr, flush=True)
        os._exit(128 - code)
    how = f"with exit code {code}" if code >= 0 else f"by signal {-code} ({_name(-code)})"
    with contextlib.suppress(OSError):
        print(
            f"hpcbench: the process ended {how}, without a message: a crystal, the potential or "
            f"a library has ended it, or somebody else. Saved results are safe. The same command "
            f"continues, and computes each crystal that was in progress alone; if it ends like "
            f"this before any crystal is begun, --model or a library does not work here",
            file=sys.stderr,
            flush=True,
        )
    os._exit(HpcbenchError.exit_code)


def _name(number: int) -> str:
    killed = " for its memory, perhaps" if number == signal.SIGKILL else ""
    return f"{signal.strsignal(number)}{killed}"
