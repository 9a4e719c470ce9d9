"""One launch of a run, from its sources to its store."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.config import RunConfig, settings_hash
from hpcbench.crystal import Crystal
from hpcbench.errors import (
    HpcbenchError,
    SetupError,
    StoreError,
)
from hpcbench.events import EventLog
from hpcbench.farm.attendance import Attendance
from hpcbench.farm.devices import choose_device, own_cores
from hpcbench.farm.leases import Leases
from hpcbench.farm.world import World
from hpcbench.planning.blocks import Block, most_under_way
from hpcbench.planning.listing import Plan, Record, read_share, write_list
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.registry import check_name, load_potential, weights_sha256
from hpcbench.rank.beside import Inbox
from hpcbench.rank.processes import make_crew, number_of_processes
from hpcbench.rank.rows import crystal_of, schema_of
from hpcbench.rank.stopping import Stop
from hpcbench.rank.worker import Worker
from hpcbench.sources import find_files
from hpcbench.store.consolidate import consolidate
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS
from hpcbench.store.tables import TableReader


@dataclass(frozen=True)
class Outcome:
    """How a launch ended on this rank.

    ``complete`` is false where the run was asked to stop. ``last`` is true on the one rank
    that has the last word: it has consolidated the store. ``nobody_died`` says whether all
    ranks came to their end. ``problem`` is the error that ended this rank's work, if one did.
    """

    complete: bool
    last: bool
    nobody_died: bool
    problem: Exception | None


def launch(
    config: RunConfig,
    world: World,
    *,
    stop: Stop,
    records: Iterable[Record] | None = None,
    potential: Potential | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_result: Callable[[Mapping[str, Any]], None] = lambda row: None,
    on_end: Callable[[RunConfig], None] = lambda config: None,
) -> Outcome:
    """Compute what is not in the store yet, together with the other ranks.

    Collective up to the choice of devices; from there on no rank waits for another, until at
    the end all leave together (see ``attendance``).

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    records : iterable, optional
        Crystals to take instead of reading ``config.sources``; on rank 0.
    potential : Potential, optional
        A loaded potential to use instead of loading ``config.model``.
    on_plan, on_result, on_end : callable, optional
        Told the plan, each result of this rank, and, on the rank that has the last word, that
        the store is consolidated.

    Raises
    ------
    HpcbenchError
        For all that is wrong with the settings, the sources, the machine or the store; on
        every rank, before any work is done.
    """
    folder = RunFolder(config.out)
    try:
        return _launch(config, world, folder, stop, records, potential, on_plan, on_result, on_end)
    finally:
        folder.unlock()


def _launch(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    stop: Stop,
    records: Iterable[Record] | None,
    potential: Potential | None,
    on_plan: Callable[[Plan], None],
    on_result: Callable[[Mapping[str, Any]], None],
    on_end: Callable[[RunConfig], None],
) -> Outcome:
    plan, deciding = _plan(config, world, folder, records, potential)
    attendance = _enter(world, folder, plan)
    on_plan(plan)
    log = EventLog(folder.events, world.rank, plan.launch)
    log.write(
        "start",
        ranks=world.size,
        host=socket.gethostname(),
        pid=os.getpid(),
        total=plan.total,
        before=plan.before,
    )
    complete, problem = False, None
    try:
        complete = _work(config, world, folder, deciding, plan, stop, potential, log, on_result)
    except Exception as error:
        log.write("error", traceback=traceback.format_exc())
        problem = error
    finally:
        # After an error as well: ranks leave together, and what they did is consolidated.
        last = attendance.end()
        try:
            # A start that failed leaves no store behind.
            if last and (problem is None or folder.segment_paths()):
                consolidate(folder, schema_of(deciding), deciding)
                on_end(config)
        except Exception as error:
            problem = problem or error
        finally:
            if last:
                attendance.close()
        log.write("end", complete=complete)
        log.close()
    return Outcome(complete, last, attendance.complete(), problem)


def _plan(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    records: Iterable[Record] | None,
    potential: Potential | None,
) -> tuple[Plan, dict[str, Any]]:
    """Read, examine, write the list, and plan. The crystals stay on the disk, not in memory."""
    files = _together(world, lambda: find_files(config.sources) if records is None else [])
    deciding = _together(world, lambda: _open_folder(config, folder, potential))
    gathered = world.gather(read_share(config, files, records, world.rank, world.size))

    def write() -> Plan:
        plan = write_list(config, folder, deciding, gathered, world.size)
        # Before the other ranks hear of it: they want to hold the folder as well.
        folder.share()
        return plan

    return _together(world, write), deciding


def _enter(world: World, folder: RunFolder, plan: Plan) -> Attendance:
    """Hold the folder and say that this rank is at work; all ranks, or none."""
    problem = ""
    try:
        folder.share()
        attendance = Attendance(folder.launch_folder(plan.launch), world.rank, world.size)
        attendance.enter()
    except (OSError, StoreError) as error:
        problem = f"rank {world.rank} on {socket.gethostname()}: {error}"
    problems = [text for text in world.share(problem) if text]
    if problems:
        raise StoreError("\n".join(problems))
    return attendance


def _work(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    deciding: Mapping[str, Any],
    plan: Plan,
    stop: Stop,
    potential: Potential | None,
    log: EventLog,
    on_result: Callable[[Mapping[str, Any]], None],
) -> bool:
    """Take blocks as long as there are any; false if asked to stop before."""
    if not plan.blocks:
        return True
    cores = own_cores(world)
    device = (
        choose_device(config.device, world, share_gpu=config.share_gpu)
        if potential is None
        else potential.info.device
    )
    pending = sum(len(block.rows) for block in plan.blocks)
    processes = number_of_processes(config.workers, device, cores, pending / world.size)
    inbox: Inbox = queue.SimpleQueue()
    # First the processes, so that they start while the potential is loaded.
    with contextlib.closing(make_crew(processes, inbox)) as crew:
        if potential is None:
            potential = _load(config, device, world.local_size)
        log.write("ready", device=device, workers=processes)
        worker = Worker(
            config,
            potential,
            folder,
            deciding,
            world.rank,
            log,
            stop,
            crew,
            inbox,
            most_under_way(pending, world.size),
            on_result,
        )
        leases = Leases(folder.launch_folder(plan.launch), world.rank)
        with _crystals(folder) as load:
            finished = worker.work(
                load(block) for block in _until_stopped(leases.take(plan.blocks), stop)
            )
    return finished and not stop.requested


def consolidate_if_idle(store: str | os.PathLike[str]) -> None:
    """Consolidate what a launch left in segments, unless one is under way.

    For a launch whose ranks did not all come to their end.
    """
    folder = RunFolder(store)
    if not folder.segment_paths():
        return
    try:
        folder.lock()
    except StoreError:
        return
    try:
        deciding = folder.settings()
        consolidate(folder, schema_of(deciding), deciding)
    finally:
        folder.unlock()


def deciding_settings(config: RunConfig, weights: str) -> dict[str, Any]:
    """What decides results and names the store: settings, and the weights' SHA-256."""
    deciding = config.deciding_settings()
    if weights and Path(config.model).suffix:
        # A file is known by its content: the same weights may lie in another folder.
        deciding["model"] = Path(config.model).name
    deciding["weights_sha256"] = weights
    deciding["criterion"] = config.protocol_definition.criterion
    deciding["hash"] = settings_hash(deciding)
    return deciding


def _together(world: World, action: Callable[[], Any]) -> Any:
    """Do something on rank 0; its result, or its error, is everyone's."""
    value: Any = None
    if world.rank == 0:
        try:
            value = action()
        except HpcbenchError as error:
            value = error
        except Exception as error:  # whatever it is, the other ranks are waiting
            traceback.print_exc()
            value = SetupError(f"{type(error).__name__}: {error}")
    value = world.broadcast(value)
    if isinstance(value, HpcbenchError):
        raise value
    return value


def _open_folder(
    config: RunConfig, folder: RunFolder, potential: Potential | None
) -> dict[str, Any]:
    if potential is None:
        check_name(config.model)
        weights = weights_sha256(config.model)
    else:
        weights = potential.info.weights_sha256
    deciding = deciding_settings(config, weights)
    folder.create()
    folder.lock()
    folder.agree(deciding)
    return deciding


def _load(config: RunConfig, device: str, ranks_on_host: int) -> Potential:
    potential = load_potential(
        config.model,
        dtype=config.dtype,
        device=device,
        max_edges=config.max_edges,
        ranks_on_host=ranks_on_host,
    )
    from hpcbench.potentials.selftest import self_test

    self_test(potential)
    return potential


def _until_stopped(blocks: Iterator[Block], stop: Stop) -> Iterator[Block]:
    # Asked before the next lease is taken, so that no lease is taken in vain.
    while not stop.requested and (block := next(blocks, None)) is not None:
        yield block


@contextlib.contextmanager
def _crystals(folder: RunFolder) -> Iterator[Callable[[Block], list[Crystal]]]:
    """Gives the crystals of a block; the list itself stays on the disk."""
    with TableReader(folder.crystals) as reader:

        def load(block: Block) -> list[Crystal]:
            return [crystal_of(row) for row in reader.rows(block.rows, CRYSTALS)]

        yield load
