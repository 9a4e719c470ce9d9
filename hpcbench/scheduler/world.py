"""The processes of a run: one MPI world, or a single process."""

from __future__ import annotations

import faulthandler
import os
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hpcbench.errors import HpcbenchError, LaunchError, SetupError

# Seconds for all ranks to reach MPI_Init: they may load Python from a slow file system.
LONGEST_START = 900.0
# Seconds after which MPI_Finalize is given up; all files are closed before it.
LONGEST_FINALIZE = 120.0
# Largest number of hosts that a message names.
MOST_HOSTS = 8


class World(Protocol):
    """The interface to MPI. All calls are collective, and made only at the start and the end."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks on rank 0; elsewhere an empty list."""
        ...

    def share(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on every rank."""
        ...

    def leave(self) -> None:
        """Finalise MPI; collective, so only to be called if all ranks are alive.

        The process must then end by Python's own exit, not by ``os._exit``: MPICH disconnects from
        mpiexec in an exit handler, and without that mpiexec kills the ranks that are still running
        (seen with 5.0.2).
        """
        ...


def by_rank_0(world: World, action: Callable[[], Any]) -> Any:
    """Run an action on rank 0, and return its result, or raise its error, on all ranks. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    action : callable
        Called without arguments.
    """
    value: Any = None
    if world.rank == 0:
        try:
            value = action()
        except HpcbenchError as error:
            value = error
        except Exception as error:  # any error: the other ranks are waiting
            if world.size == 1:
                raise
            traceback.print_exc()
            value = SetupError(f"{type(error).__name__}: {error}")
    value = world.broadcast(value)
    if isinstance(value, HpcbenchError):
        raise value
    return value


class SingleProcess:
    """A world of one process."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return the value in a list."""
        return [value]

    def share(self, value: Any) -> list[Any]:
        """Return the value in a list."""
        return [value]

    def leave(self) -> None:
        """Do nothing."""


class MPIWorld:
    """The world ``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
        try:
            import mpi4py

            # No automatic MPI_Finalize at exit: after a rank's death it would never return.
            mpi4py.rc.finalize = False
            # MPI_Init would wait forever for a rank that died before, and no thread of Python
            # runs in the meantime.
            faulthandler.dump_traceback_later(LONGEST_START, exit=True)
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise SetupError(
                f"started by an MPI launcher, but on {socket.gethostname()} mpi4py cannot be "
                f"loaded ({error}): load the site's MPI (module load ...) in the job as well; if "
                f"it was never installed, `./launch.sh setup mpi` with that MPI loaded"
            ) from error
        self._comm = MPI.COMM_WORLD
        self.rank = int(self._comm.rank)
        self.size = int(self._comm.size)
        neighbours = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        faulthandler.cancel_dump_traceback_later()
        self.local_rank, self.local_size = int(neighbours.rank), int(neighbours.size)

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        return self._comm.bcast(value, root=0)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks on rank 0; elsewhere an empty list."""
        return self._comm.gather(value, root=0) or []

    def share(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        values: list[Any] = self._comm.allgather(value)
        return values

    def leave(self) -> None:
        """Finalise MPI."""
        from mpi4py import MPI

        # MPI_Finalize would wait forever for a rank that dies, and no thread of Python runs in the
        # meantime.
        with open(os.devnull, "w") as nowhere:
            faulthandler.dump_traceback_later(LONGEST_FINALIZE, exit=True, file=nowhere)
            MPI.Finalize()
            faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True)
class Launcher:
    """The program that started this process, according to the environment.

    ``size`` is the number of processes that the launcher started; ``name`` the launcher.
    """

    name: str
    size: int


# Variables with the number of processes and with the rank. From the innermost launcher outwards:
# under Slurm, mpirun, mpiexec and Flux start helpers by srun, whose variables are inherited and
# count the helpers. Cray's PALS and Intel's mpiexec set PMI's.
_LAUNCHERS = (
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),
    ("flux run", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
# Other variables with a rank, if MPI was started by PMIx or PALS alone.
_RANKS = ("PMIX_RANK", "PALS_RANKID")
# Flux and srun set PMI's variables too; these only mpiexec (MPICH, Intel) and PALS.
_MPIEXEC_SIGNS = ("MPI_LOCALNRANKS", "PALS_RANKID")


def find_launcher(environment: Mapping[str, str] | None = None) -> Launcher | None:
    """Return the MPI launcher that started this process, or ``None`` for a plain one."""
    variables = os.environ if environment is None else environment
    found = [
        Launcher(name, int(variables[size]))
        for name, size, _ in _LAUNCHERS
        if variables.get(size, "").isdigit() and int(variables[size]) > 1
    ]
    if not found:
        return None
    first = found[0]
    if first.name == "mpiexec" and not any(sign in variables for sign in _MPIEXEC_SIGNS):
        # PMI's variables come from the launcher that started as many processes.
        first = next((other for other in found[1:] if other.size == first.size), first)
    return first


def rank_by_launcher(environment: Mapping[str, str] | None = None) -> int:
    """Return the rank that the launcher gave this process, without MPI; 0 for a plain one."""
    variables = os.environ if environment is None else environment
    # A Slurm rank comes last, because it may be that of mpiexec's helper.
    *inner, slurm = (rank for _, _, rank in _LAUNCHERS)
    for key in (*inner, *_RANKS, slurm):
        if variables.get(key, "").isdigit():
            return int(variables[key])
    return 0


def lonely(environment: Mapping[str, str] | None = None) -> str:
    """Return a note if a Slurm job has several tasks, but this process is alone; else "".

    It is no error: there may be a reason, and the results are right.
    """
    variables = os.environ if environment is None else environment
    tasks = variables.get("SLURM_NTASKS", "")
    if not tasks.isdigit() or int(tasks) < 2 or variables.get("SLURM_STEP_NUM_TASKS"):
        return ""
    return (
        f"this Slurm job has {tasks} tasks, but one process was started: to use them all, "
        f"`srun python -m hpcbench ...`"
    )


def join_world(environment: Mapping[str, str] | None = None) -> World:
    """Join the processes that were started together.

    Raises
    ------
    LaunchError
        If several processes were started but do not find each other: each would do all the
        work.
    SetupError
        If mpi4py cannot be loaded.
    """
    launcher = find_launcher(environment)
    if launcher is None:
        return SingleProcess()
    if _is_left_over(os.environ if environment is None else environment):
        # MPI would end the process without any advice.
        raise LaunchError(
            f"PMI_FD and PMI_SIZE are left over from an mpiexec that did not start this process: "
            f"{_unset(launcher)}"
        )
    world = MPIWorld()
    # The world may be larger than the launcher's number, as in a heterogeneous Slurm step.
    if world.size < launcher.size:
        raise LaunchError(
            f"{launcher.name} started {launcher.size} processes, but MPI sees a world of "
            f"{world.size}: {_remedy(launcher, mpi_library())}. If nothing started several, the "
            f"variables that say so are left over; {_unset(launcher)}"
        )
    return world


def _is_left_over(environment: Mapping[str, str]) -> bool:
    """Tell whether the file descriptor for MPICH's mpiexec is not open in this process."""
    descriptor = environment.get("PMI_FD", "")
    if not descriptor.isdigit():
        return False
    try:
        os.fstat(int(descriptor))
    except OSError:
        return True
    return False


def _unset(launcher: Launcher) -> str:
    """Return the command that removes left-over variables of a launcher."""
    names = [size for name, size, _ in _LAUNCHERS if name == launcher.name]
    names += [rank for name, _, rank in _LAUNCHERS if name == launcher.name]
    more = ["PMI_FD", "PMI_PORT"] if launcher.name == "mpiexec" else []
    return f"unset {' '.join([*names, *more])}"


def mpi_library() -> str:
    """Return name and version of the MPI that mpi4py uses, which is loaded for that."""
    from mpi4py import MPI

    words = MPI.Get_library_version().splitlines()[0].strip("\0").split(",")[0]
    return " ".join(words.replace("Version:", "").split())


def _remedy(launcher: Launcher, library: str) -> str:
    """Return advice if the launcher and mpi4py's MPI do not fit together."""
    open_mpi = library.startswith("Open MPI")
    if launcher.name == "srun":
        first, second = ("pmix", "pmi2") if open_mpi else ("pmi2", "pmix")
        return (
            f"tell srun which interface the MPI of mpi4py ({library}) speaks: try srun "
            f"--mpi={first}, else --mpi={second}; `srun --mpi=list` shows what this cluster has"
        )
    if launcher.name == "flux run":
        kind = "pmix (of the flux-pmix plugin)" if open_mpi else "simple"
        return f"tell Flux which interface the MPI of mpi4py ({library}) speaks: -o pmi={kind}"
    return (
        f"use the {launcher.name} of the MPI that mpi4py was built with ({library}); "
        f"`python -m hpcbench doctor` tries the one that it finds"
    )


def places(ranks: Iterable[tuple[int, str]]) -> str:
    """Format ranks with their hosts for people: ``node1 (ranks 0-3), node2 (rank 4)``."""
    hosts: dict[str, list[int]] = {}
    for rank, host in ranks:
        hosts.setdefault(host, []).append(rank)
    shown = [
        f"{host} (rank{'s' if len(there) > 1 else ''} {_ranges(there)})"
        for host, there in list(hosts.items())[:MOST_HOSTS]
    ]
    more = len(hosts) - len(shown)
    return ", ".join(shown) + (f" and {more} more hosts" if more else "")


def _ranges(numbers: Iterable[int]) -> str:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)
