"""Checks of all ranks together: devices, forces, software, and the folder of the store."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpcbench.cli.findings import BAD, NOTE, OK, Finding, split, survive
from hpcbench.errors import LaunchError, PotentialError, StoreError
from hpcbench.package_versions import installed
from hpcbench.scheduler.devices import RankDevice, examine_devices, gather_devices
from hpcbench.scheduler.world import World, places

# Names of the checks by the errors that ``scheduler.checks`` finds.
SUBJECTS = {LaunchError: "software", PotentialError: "weights", StoreError: "store"}


def check_devices(world: World) -> tuple[str, list[Finding]]:
    """Return the device of this rank, and findings about the devices of all. Collective."""
    mine, everyone = gather_devices("auto", world)
    problem = examine_devices("auto", everyone, share_gpu=False)
    if problem:
        text, _, advice = problem.rpartition("\n")
        return mine, [Finding(BAD, "devices", text or problem, advice if text else "")]
    if world.rank != 0:
        return mine, []
    findings = survive("devices", lambda: _describe(everyone))
    if world.size > 1:
        where = places((rank, host) for rank, host, *_ in everyone)
        findings.insert(0, Finding(OK, "ranks", f"{world.size} on {where}"))
    return mine, findings


def _describe(everyone: list[RankDevice]) -> Iterator[Finding]:
    import torch

    if not everyone[0][3]:
        text, advice = "no GPU that torch can use: runs compute on the CPU", ""
        if Path("/dev/nvidia0").exists():
            text = f"there is a GPU, but torch {torch.__version__} cannot use it"
            advice = (
                "pip install --force-reinstall torch (this one was built without CUDA)"
                if torch.version.cuda is None
                else "nvidia-smi (it tells if the driver is older than CUDA "
                f"{torch.version.cuda}, which this torch wants)"
            )
        yield Finding(NOTE if advice else OK, "devices", text, advice)
        return
    properties = torch.cuda.get_device_properties(int(everyone[0][2].partition(":")[2]))
    memory = properties.total_memory / 2**30
    lines = [f"rank {rank} on {host}: {device} {gpu}" for rank, host, device, gpu, _ in everyone]
    kind = f"{properties.name} with {memory:.0f} GiB (rank 0's)"
    yield Finding(OK, "devices", "\n".join([kind, *lines]))


def check_forces(world: World, device: str) -> list[Finding]:
    """Check that the embedded potential computes correct forces on all devices. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    device : str
        The device of this rank.
    """

    def test() -> float:
        from hpcbench.potentials.catalogue import DEMO
        from hpcbench.potentials.registry import load_potential
        from hpcbench.potentials.selftest import self_test

        return self_test(load_potential(DEMO, device=device))

    values, problems = everywhere(world, test)
    if problems:
        return [Finding(BAD, "self-test", "\n".join(problems), "./launch.sh setup")]
    worst = max(values)
    text = f"mattersim {installed('mattersim')}: batched and translated forces agree to"
    return [Finding(OK, "self-test", f"{text} {worst:.0e} eV/A")]


def check_store(world: World, store: Path, model: str) -> list[Finding]:
    """Check that all ranks have the same software and can write a store. Collective.

    Files that are written for this are removed.

    Parameters
    ----------
    world : World
        The ranks.
    store : Path
        Path of the store.
    model : str
        Name of the potential.
    """
    _, problems = everywhere(world, _load_checks)
    if problems:
        return [Finding(BAD, "packages", "\n".join(problems), "./launch.sh setup")]
    from hpcbench.scheduler.checks import CLOCK_TOLERANCE, survey
    from hpcbench.scheduler.disk import remedy

    # The nearest existing folder: a run would make those below it.
    parent = next(path for path in (store.absolute(), *store.absolute().parents) if path.is_dir())
    refused: Finding | None = None
    folder = Path(world.broadcast(str(parent / f".doctor-{secrets.token_hex(4)}")))
    if world.rank == 0:
        try:
            folder.mkdir()
        except OSError as error:
            refused = Finding(
                BAD,
                "store",
                f"{parent} cannot be written: {error.strerror or error}",
                remedy(error, parent),
            )
    refused = world.broadcast(refused)
    if refused is not None:
        return [refused]
    try:
        wrong, notes = survey(world, folder, model)
        findings = [
            Finding(BAD, SUBJECTS.get(type(problem), "ranks"), *_about(problem, folder))
            for problem in wrong
        ]
        findings += [Finding(NOTE, "clocks", *split(note, ". ")) for note in notes]
        bad = {finding.check for finding in findings}
        if world.size > 1 and "software" not in bad:
            findings.append(Finding(OK, "software", "the same on all ranks"))
        if world.size > 1 and "clocks" not in bad:
            findings.append(Finding(OK, "clocks", f"agree within {CLOCK_TOLERANCE:.0f} s"))
        if world.rank == 0 and "store" not in bad:
            findings += survive("store", lambda: _probe_store(folder, world.size))
        return findings
    finally:
        if world.rank == 0:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _load_checks() -> None:
    import hpcbench.scheduler.checks  # noqa: F401  # may fail on a host with a broken environment


def _about(problem: Exception, folder: Path) -> tuple[str, str]:
    """Return text and advice of a problem, with the name of the folder that the user knows."""
    return split(str(problem).replace(str(folder), str(folder.parent)), "; ")


def _probe_store(folder: Path, ranks: int) -> Iterator[Finding]:
    import h5py

    from hpcbench.scheduler.disk import free_bytes, size

    probe = folder / "probe.h5"
    try:
        with h5py.File(probe, "w", locking=False) as file:
            file["x"] = 1
        with probe.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                yield Finding(
                    NOTE,
                    "store",
                    f"no file locks on {folder.parent} ({error.strerror}): two runs that write one "
                    f"store at once are not noticed",
                    "never start a run twice at once (Lustre has locks with the option flock)",
                )
    finally:
        probe.unlink(missing_ok=True)
    who = f"all {ranks} ranks" if ranks > 1 else "this host"
    room = f"{size(free_bytes(folder))} free (see also: quota -s)"
    yield Finding(OK, "store", f"{folder.parent} can be written from {who}; {room}")


def everywhere(world: World, action: Callable[[], Any]) -> tuple[list[Any], list[str]]:
    """Call a function on all ranks. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    action : callable
        The function; its value must be picklable.

    Returns
    -------
    values : list
        Values by rank; ``None`` where the function failed.
    problems : list of str
        The errors.
    """
    value, problem = None, ""
    try:
        value = action()
    except Exception as error:  # not raised, because the other ranks wait
        problem = f"rank {world.rank} on {socket.gethostname()}: {type(error).__name__}: {error}"
    everyone = world.share((value, problem))
    return [value for value, _ in everyone], [text for _, text in everyone if text]
