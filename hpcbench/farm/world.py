"""The processes of a run: one MPI world, or a single process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hpcbench.errors import LaunchError, SetupError


class World(Protocol):
    """What the farm asks of MPI. All calls are collective, and made at start-up only."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 gave."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks; elsewhere an empty list."""
        ...

    def share(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        ...

    def leave(self) -> None:
        """Say goodbye to the other ranks; collective, so only where all are alive.

        The process must then end by Python's own exit, not by ``os._exit``: MPICH says goodbye
        to mpiexec in an exit handler, and without it mpiexec kills the ranks that are still
        there (seen with 5.0.2).
        """
        ...


class SingleProcess:
    """A world of one."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The value in a list."""
        return [value]

    def share(self, value: Any) -> list[Any]:
        """The value in a list."""
        return [value]

    def leave(self) -> None:
        """Nothing to do."""


class MPIWorld:
    """``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
        try:
            import mpi4py

            # Not by itself at exit: after a rank's death it would never return.
            mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise SetupError(
                f"started by an MPI launcher, but mpi4py cannot be loaded ({error}): "
                f"./launch.sh setup mpi, on a cluster with the site's MPI loaded"
            ) from error
        self._comm = MPI.COMM_WORLD
        self.rank = int(self._comm.rank)
        self.size = int(self._comm.size)
        neighbours = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = int(neighbours.rank), int(neighbours.size)

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 gave."""
        return self._comm.bcast(value, root=0)

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks."""
        return self._comm.gather(value, root=0) or []

    def share(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        values: list[Any] = self._comm.allgather(value)
        return values

    def leave(self) -> None:
        """Finalise MPI."""
        from mpi4py import MPI

        MPI.Finalize()


@dataclass(frozen=True)
class Launcher:
    """What the environment says of how this process was started.

    ``size`` is the number of processes that the launcher started; ``name`` the launcher.
    """

    name: str
    size: int


def find_launcher(environment: Mapping[str, str] | None = None) -> Launcher | None:
    """The MPI launcher that started this process, or ``None`` for a plain one."""
    variables = os.environ if environment is None else environment
    for name, key in (
        ("srun", "SLURM_STEP_NUM_TASKS"),
        ("mpiexec", "PMI_SIZE"),
        ("mpirun", "OMPI_COMM_WORLD_SIZE"),
    ):
        value = variables.get(key, "")
        if value.isdigit() and int(value) > 1:
            return Launcher(name, int(value))
    return None


def rank_by_launcher(environment: Mapping[str, str] | None = None) -> int:
    """The rank that the launcher gave this process; 0 for a plain one. Needs no MPI."""
    variables = os.environ if environment is None else environment
    for key in ("SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        if variables.get(key, "").isdigit():
            return int(variables[key])
    return 0


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
    world = MPIWorld()
    if world.size != launcher.size:
        fix = (
            "tell srun which interface the MPI of mpi4py speaks: srun --mpi=pmi2 (MPICH) or "
            "srun --mpi=pmix (Open MPI); `srun --mpi=list` shows what this cluster has"
            if launcher.name == "srun"
            else "use the mpiexec of the MPI that mpi4py was built with: "
            "`python -m hpcbench doctor` names it"
        )
        raise LaunchError(
            f"{launcher.name} started {launcher.size} processes, but MPI sees a world of "
            f"{world.size}: {fix}"
        )
    return world
