"""Watch how a rank ends: between MPICH's mpiexec and it, or before a single one."""

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

# Of MPICH's launcher, hydra, in all its versions; not of srun, which lets the others live.
HYDRA = "HYDI_CONTROL_FD"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# By which somebody asks a process to end.
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# See prctl(2): a process gets a signal when the one that has started it ends.
PR_SET_PDEATHSIG = 1
# Away from the numbers that a potential may close when it cleans up behind itself.
HIGH_DESCRIPTOR = 200


def stand_between(environment: Mapping[str, str] | None = None) -> None:
    """Let this process go on as a child of itself where somebody must see how it ends.

    Under MPICH's mpiexec: when a rank dies by a signal, hydra (5.0.2) kills all ranks of that host
    as soon as anything else happens there, whatever ``-disable-auto-cleanup`` says: it looks at how
    the process ended. So it is shown one that ends with an exit code.

    A process that no launcher has started: one that a library ends by a segmentation fault, or a
    potential by ``os._exit(0)``, must not look like a run that has come to its end. Linux alone
    tells a child that its parent has been killed.

    To be called before threads are started and before MPI is loaded.
    """
    variables = os.environ if environment is None else environment
    # Inherited as ignored from some daemons: then nobody would hear of the child's end.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if HYDRA in variables:
        _stand_before_hydra()
    elif sys.platform == "linux" and find_launcher(variables) is None:
        _watch_over()


def _stand_before_hydra() -> None:
    child = os.fork()
    if child == 0:
        return
    # What the launcher sends it sends to the whole process group: the child has it too.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # As a shell says it.
    os._exit(code if code >= 0 else 128 - code)


def _watch_over() -> None:
    """Go on as a child; this process passes signals on to it, and says how it ended."""
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
            # Sent to this process; what the terminal sends, the child has as well.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, told.si_signo)


def _high_descriptor() -> int:
    """Return a number that is far from those in use, and within the limit of open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HIGH_DESCRIPTOR if limit > 2 * HIGH_DESCRIPTOR else max(3, limit // 2)


def _told(hears: int) -> bytes:
    """Return what the child has said; another process may have inherited the pipe's other end."""
    os.set_blocking(hears, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(hears, 4096)
    return b""


def _end_with(parent: int) -> None:
    """Let this process be killed when its parent is."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(HpcbenchError.exit_code)


def _end_as(code: int, told: bytes) -> NoReturn:
    """End as the child did, with a sentence where it has not ended by its own will."""
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
            f"hpcbench: the process ended {how}, without a word: a crystal, the potential or a "
            f"library has ended it, or somebody else. What was saved is safe. The same command "
            f"goes on, and computes alone what was under way; where it ends like this before any "
            f"crystal is begun, --model or a library does not work here",
            file=sys.stderr,
            flush=True,
        )
    os._exit(HpcbenchError.exit_code)


def _name(number: int) -> str:
    killed = " for its memory, perhaps" if number == signal.SIGKILL else ""
    return f"{signal.strsignal(number)}{killed}"
