"""Find the size of a forward pass, and make it smaller where memory ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from hpcbench.potentials.structures import Structures

# Of the memory that is free when a rank starts.
SHARE_OF_MEMORY = 0.7
# Passes that reach this share of the best rate are large enough: smaller ones keep a rank
# responsive and need fewer crystals to fill.
SUFFICIENT_RATE = 0.98
# Edges of the probe's passes: from the first, doubled up to the last.
PROBE_EDGES = {"cpu": (500, 8_000), "cuda": (8_000, 1_000_000)}
# No probe goes on for longer; in seconds.
PROBE_SECONDS = 10.0
# A pass that takes so long is large enough: what it takes besides the edges is a small share.
LONG_PASS = 0.5


# Where Linux shows the control groups (version 2) of jobs and containers.
CGROUPS = Path("/sys/fs/cgroup")
# From glibc's malloc.h; it takes no larger threshold on machines of 64 bits.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20


@dataclass(frozen=True)
class Probe:
    """Hold the result of a short trial of a model on a device.

    Attributes
    ----------
    edges : int
        Edges of the smallest pass that is about as fast, by edge, as any.
    bytes_per_edge : float
        Memory that a pass takes; 0 where it cannot be measured.
    complete : bool
        Whether it tried all sizes. One that a busy machine cut short is not for next time.
    """

    edges: int
    bytes_per_edge: float
    complete: bool


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a forward pass means that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")
    )


def keep_freed_memory() -> None:
    """Let this process keep what the arrays of a pass have freed for those of the next one.

    By default the C library gives large arrays back to the system at once, and each new one is
    faulted in page by page: a quarter of the time of a pass on a CPU. Does nothing where the C
    library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def usable_memory(device: torch.device, ranks_on_host: int) -> float:
    """Return the bytes that this rank's passes may take.

    Parameters
    ----------
    device : torch.device
        Where they run.
    ranks_on_host : int
        Processes that share this machine's memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds in reserve is free for the next pass as well.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return SHARE_OF_MEMORY * free
    return SHARE_OF_MEMORY * min(psutil.virtual_memory().available, _job_limit()) / ranks_on_host


def _job_limit() -> float:
    """Bytes that this process's control group (a Slurm job, a container) allows; or infinity."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[0].rpartition(":")[2]
        limits = [
            float((folder / "memory.max").read_text())
            for folder in (CGROUPS / group.strip("/"), *(CGROUPS / group.strip("/")).parents)
            if (folder / "memory.max").is_file()
            and (folder / "memory.max").read_text().strip() != "max"
        ]
        return min(limits, default=float("inf"))
    return float("inf")


def probe(run_pass: Callable[[int], int], device: torch.device, largest: float) -> Probe:
    """Try passes of growing size.

    Parameters
    ----------
    run_pass : callable
        Runs a pass of about so many edges; returns how many it had.
    device : torch.device
        Where it runs.
    largest : float
        Edges that are never exceeded.
    """
    size, last = PROBE_EDGES[device.type]
    start = time.monotonic()
    rates: list[tuple[int, float]] = []
    bytes_per_edge = 0.0
    while size <= min(last, largest) and time.monotonic() - start < PROBE_SECONDS:
        try:
            run_pass(size)  # the first pass of a size pays for libraries' choices
            edges, seconds, peak = _measured(run_pass, size, device)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            break
        bytes_per_edge = max(bytes_per_edge if len(rates) < 2 else 0.0, peak / edges)
        rates.append((size, edges / seconds))
        size = last + 1 if seconds > LONG_PASS else 2 * size
    best = max((rate for _, rate in rates), default=0.0)
    enough = next((s for s, rate in rates if rate >= SUFFICIENT_RATE * best), size)
    if device.type == "cuda":
        # What the probe has freed is for the other processes on the GPU, too.
        torch.cuda.empty_cache()
    return Probe(enough, bytes_per_edge, complete=size > last)


def _measured(
    run_pass: Callable[[int], int], size: int, device: torch.device
) -> tuple[int, float, float]:
    """Edges, seconds and peak memory of a pass."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    seconds, spent = float("inf"), 0.0
    for _ in range(3):
        if spent > LONG_PASS:
            break
        begin = time.perf_counter()
        edges = run_pass(size)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        last = time.perf_counter() - begin
        seconds, spent = min(seconds, last), spent + last
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return edges, seconds, float(peak)


def kept_probe(key: tuple[str, ...], device: torch.device, make: Callable[[], Probe]) -> Probe:
    """Return a probe's result from the last time, or make it now and keep it.

    It is kept in ``$XDG_CACHE_HOME/hpcbench/passes.json``, by device, key and torch's version; a
    file that cannot be read or written is passed over.

    Parameters
    ----------
    key : tuple of str
        The weights, the precision, and what else decides it.
    device : torch.device
        Where passes run.
    make : callable
        Makes the probe.
    """
    name = " | ".join((_device_name(device), *key, f"torch {torch.__version__}"))
    path = _cache_file()
    known: dict[str, dict[str, float]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        entry = known[name]
        return Probe(int(entry["edges"]), float(entry["bytes_per_edge"]), complete=True)
    result = make()
    if not result.complete:
        return result
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: many ranks may do this at once, and the last one wins.
        aside = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        entries = known if isinstance(known, dict) else {}
        aside.write_text(
            json.dumps(
                {**entries, name: {"edges": result.edges, "bytes_per_edge": result.bytes_per_edge}},
                indent=1,
            )
        )
        aside.replace(path)
    return result


def made_up_crystals(
    edges: int, device: torch.device, cutoff: float, number: int = 14
) -> Structures:
    """Make rattled lattices of silicon with about so many edges.

    Parameters
    ----------
    edges : int
        Of all lattices together; one has up to 125 atoms.
    device : torch.device
        Where they are put.
    cutoff : float
        Longest edge, in A.
    """
    generator = torch.Generator().manual_seed(0)
    # At the density of common crystals: 20 A^3 an atom, so 26 neighbours within 5 A.
    neighbours = round(4 / 3 * math.pi * cutoff**3 / 20.0)
    spacing, natoms = 20.0 ** (1 / 3), max(1, round(edges / neighbours))
    side = min(5, max(1, int(natoms ** (1 / 3) + 1e-9)))
    count = max(1, round(natoms / side**3))
    steps = torch.arange(side, dtype=torch.float64)
    sites = spacing * torch.cartesian_prod(steps, steps, steps).view(-1, 3).repeat(count, 1)
    sites += 0.1 * torch.randn(sites.shape, generator=generator, dtype=torch.float64)
    cell = spacing * side * torch.eye(3, dtype=torch.float64)
    return Structures(
        torch.full((len(sites),), number, device=device),
        sites.to(device),
        cell.repeat(count, 1, 1).to(device),
        torch.arange(count, device=device).repeat_interleave(side**3),
        tuple(range(0, len(sites) + 1, side**3)),
    )


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hpcbench" / "passes.json"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} {properties.total_memory >> 30} GiB"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
