"""Which device a rank computes on."""

from __future__ import annotations

import os
import socket

from hpcbench.errors import DeviceError
from hpcbench.farm.world import World


def choose_device(wanted: str, world: World, *, share_gpu: bool) -> str:
    """The device of this rank: ``cpu`` or ``cuda:N``. Collective.

    ``auto`` takes a GPU where there is one: number ``local_rank`` of those that are visible,
    counted around. This fits a launcher that shows each rank its own GPU as well as one that
    shows all to all.

    Raises
    ------
    DeviceError
        If the device does not exist, or two ranks would share a GPU without ``share_gpu``; on
        every rank, so that all end.
    """
    problem, device, identity = "", "cpu", ""
    try:
        device, identity = _local_device(wanted, world.local_rank)
    except DeviceError as error:
        problem = str(error)
    except Exception as error:  # a broken torch or driver: the others wait for this rank's word
        problem = f"{type(error).__name__}: {error}"
    host = socket.gethostname()
    everyone = world.share((world.rank, host, device, identity, problem))
    for rank, where, _, _, text in everyone:
        if text:
            raise DeviceError(f"rank {rank} on {where}: {text}")
    shared: dict[tuple[str, str], list[int]] = {}
    for rank, where, _, gpu, _ in everyone:
        if gpu:
            shared.setdefault((where, gpu), []).append(rank)
    crowded = any(len(ranks) > 1 for ranks in shared.values())
    if crowded and not share_gpu:
        lines = [f"  {where} {gpu}: ranks {ranks}" for (where, gpu), ranks in shared.items()]
        raise DeviceError(
            "several ranks would compute on one GPU:\n"
            + "\n".join(lines)
            + "\nstart one rank per GPU (srun --ntasks-per-node and --gpus-per-node alike), or "
            "say --share-gpu"
        )
    return device


def _local_device(wanted: str, local_rank: int) -> tuple[str, str]:
    """Device and the GPU's identity (empty for a CPU)."""
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
    """Cores of this host that are this rank's; one that ranks share counts in parts. Collective."""
    host, mine = socket.gethostname(), frozenset(os.sched_getaffinity(0))
    everyone = world.share((host, mine))
    return sum(
        1 / sum(where == host and core in cores for where, cores in everyone) for core in mine
    )
