"""The choice of a device for each rank."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from hpcbench.errors import DeviceError
from hpcbench.scheduler.world import World

RankDevice = tuple[int, str, str, str, str]
"""Rank, host, device, the GPU's identity (empty for a CPU), and a problem (or "")."""


def choose_device(wanted: str, world: World, *, share_gpu: bool) -> str:
    """Return the device of this rank: ``cpu`` or ``cuda:N``. Collective.

    ``auto`` takes a GPU if there is one: number ``local_rank`` modulo the number of visible ones.
    This fits launchers that show each rank its own GPU, and those that show all GPUs to all ranks.

    Parameters
    ----------
    wanted : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    world : World
        The ranks.
    share_gpu : bool
        Whether several ranks may share a GPU.

    Raises
    ------
    DeviceError
        If the device does not exist, two ranks would share a GPU without ``share_gpu``, or
        ``auto`` finds a GPU for some ranks only; on every rank, so that all end.
    """
    mine, everyone = gather_devices(wanted, world)
    problem = examine_devices(wanted, everyone, share_gpu=share_gpu)
    if problem:
        raise DeviceError(problem)
    return mine


def gather_devices(wanted: str, world: World) -> tuple[str, list[RankDevice]]:
    """Return the device of this rank, and the devices of all ranks. Collective; raises nothing.

    Parameters
    ----------
    wanted : str
        As for :func:`choose_device`.
    world : World
        The ranks.
    """
    problem, device, identity = "", "cpu", ""
    try:
        device, identity = _local_device(wanted, world.local_rank)
    except DeviceError as error:
        problem = str(error)
    except Exception as error:  # a broken torch or driver: the others wait for this rank's word
        problem = f"{type(error).__name__}: {error}"
    return device, world.share((world.rank, socket.gethostname(), device, identity, problem))


def examine_devices(wanted: str, everyone: Sequence[RankDevice], *, share_gpu: bool) -> str:
    """Return a problem with the devices of all ranks together, and its remedy; else "".

    Parameters
    ----------
    wanted : str
        As for :func:`choose_device`.
    everyone : sequence of RankDevice
        From :func:`gather_devices`.
    share_gpu : bool
        Whether several ranks may share a GPU.
    """
    for rank, host, _, _, problem in everyone:
        if problem:
            return f"rank {rank} on {host}: {problem}"
    seeing = {host for _, host, _, gpu, _ in everyone if gpu}
    bare = sorted({host for _, host, _, gpu, _ in everyone if not gpu})
    if wanted == "auto" and bare and seeing:
        # A rank that is a hundred times slower than the others has a reason that its user
        # should know: a broken driver, a node without GPUs, more ranks than GPUs given out.
        remedy = (
            "give every rank one (srun --gpus-per-task=1)"
            if seeing.intersection(bare)
            else f"leave out the nodes without a working GPU (srun --exclude={','.join(bare)})"
        )
        return (
            f"some ranks see a GPU and some do not:\n{_map(everyone)}\n{remedy}, or say "
            f"--device cpu"
        )
    users: dict[tuple[str, str], int] = {}
    for _, host, _, gpu, _ in everyone:
        if gpu:
            users[host, gpu] = users.get((host, gpu), 0) + 1
    if max(users.values(), default=1) > 1 and not share_gpu:
        return (
            f"several ranks would compute on one GPU:\n{_map(everyone)}\nstart one rank per GPU "
            f"(srun --ntasks-per-node and --gpus-per-node alike), or say --share-gpu"
        )
    return ""


def _map(everyone: Sequence[RankDevice]) -> str:
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, host, device, gpu, _ in everyone:
        ranks.setdefault((host, gpu or device), []).append(rank)
    return "\n".join(f"  {host} {device}: ranks {who}" for (host, device), who in ranks.items())


def _local_device(wanted: str, local_rank: int) -> tuple[str, str]:
    """Return the device, and the GPU's identity (empty for a CPU)."""
    if wanted == "cpu":
        return "cpu", ""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and count == 0:
        return "cpu", ""
    if wanted in ("auto", "cuda"):
        index = local_rank % max(count, 1)
    elif wanted.startswith("cuda:") and wanted[5:].isdigit():
        index = int(wanted[5:])
    else:
        raise DeviceError(f"unknown device {wanted!r}: give auto, cpu, cuda, or cuda:N")
    if index >= count:
        raise DeviceError(
            f"--device {wanted}: torch sees {count} GPUs here; run `python -m hpcbench doctor`, "
            f"or give --device cpu"
        )
    return f"cuda:{index}", str(torch.cuda.get_device_properties(index).uuid)


def own_cores(world: World) -> float:
    """Return the number of this host's cores that belong to this rank. Collective.

    A core that several ranks may use counts as a fraction.
    """
    host, mine = socket.gethostname(), frozenset(os.sched_getaffinity(0))
    everyone = world.share((host, mine))
    return sum(
        1 / sum(where == host and core in cores for where, cores in everyone) for core in mine
    )
