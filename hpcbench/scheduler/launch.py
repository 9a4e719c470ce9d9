"""One launch of a run, from its sources to its store."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcbench.config import RunConfig
from hpcbench.engine.io_threads import Inbox
from hpcbench.engine.rank_process import RankProcess
from hpcbench.engine.stopping import Stop
from hpcbench.engine.watchdog import MOST_NAMED, Watchdog
from hpcbench.engine.worker import Worker
from hpcbench.engine.worker_processes import make_crew, number_of_processes
from hpcbench.errors import UsageError
from hpcbench.planning.blocks import MOST_UNDER_WAY
from hpcbench.planning.crystal_list import ReadingGuard, Record, read_share
from hpcbench.potentials.protocol import Potential
from hpcbench.scheduler.assigned_work import AssignedWork
from hpcbench.scheduler.checks import check_world
from hpcbench.scheduler.deadline import past_end, time_left
from hpcbench.scheduler.devices import choose_device, own_cores
from hpcbench.scheduler.disk import compare_room
from hpcbench.scheduler.duplicate_search import curated
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.isolated_worker import IsolatedWorker, Order
from hpcbench.scheduler.journal import Journal
from hpcbench.scheduler.launch_steps import (
    all_or_none,
    enter_together,
    open_folder,
    plan_together,
    rename_damaged,
    sources_of,
    suspect_files_of,
)
from hpcbench.scheduler.rank_loop import RankLoop, double_of, load_crystals, load_for
from hpcbench.scheduler.run_plan import Plan
from hpcbench.scheduler.shared_weights import provide_weights
from hpcbench.scheduler.shutdown import Outcome, Shutdown, in_words
from hpcbench.scheduler.startup_watchdog import StartupWatchdog
from hpcbench.scheduler.workload import Workload
from hpcbench.scheduler.world import World, by_rank_0
from hpcbench.store.damage import find_damage_apart
from hpcbench.store.run_folder import RunFolder


def launch(
    config: RunConfig,
    world: World,
    *,
    startup: StartupWatchdog | None = None,
    stop: Stop,
    records: Iterable[Record] | None = None,
    potential: Potential | None = None,
    workload: Workload | None = None,
    retry: str | None = None,
    environment: Mapping[str, str] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_result: Callable[[Mapping[str, Any]], None] = lambda row: None,
    on_end: Callable[[RunConfig], None] = lambda config: None,
) -> Outcome:
    """Compute all crystals that have no result yet, together with the other ranks.

    Collective up to the choice of devices; after that no rank waits for another, until at the end
    all leave together (see ``heartbeat``).

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    world : World
        The ranks.
    startup : StartupWatchdog, optional
        Watches the other ranks during the start.
    stop : Stop
        Whether the run was asked to stop.
    records : iterable, optional
        Crystals to take instead of reading ``config.sources``; on rank 0.
    potential : Potential, optional
        A loaded potential to use instead of loading ``config.model``.
    workload : Workload, optional
        Another task than the computation of phonons.
    retry : str, optional
        Compute crystals again that failed for a reason with this beginning.
    environment : mapping, optional
        Variables of the job; ``os.environ`` by default.
    on_note, on_plan, on_result, on_end : callable, optional
        Called with notes on harmless problems, with the plan, with each result of this rank, and,
        on the rank that finishes the launch, when the store is consolidated.

    Raises
    ------
    HpcbenchError
        For any problem with the settings, the sources, the machine or the store; on every rank,
        before any work is done.
    """
    if workload is not None:
        potential = workload.potential
        records = workload.records() if world.rank == 0 else ()
    # A potential may change the working folder while a thread writes.
    folder = RunFolder(os.path.abspath(config.out))
    is_new, is_refused = not folder.path.exists(), False
    watch = Watchdog()
    startup = startup or StartupWatchdog(world)
    leaving = contextlib.ExitStack()
    try:
        files, left_out = by_rank_0(world, lambda: sources_of(config, folder, records))
        if left_out:
            on_note(left_out)
        if potential is None:
            provide_weights(config.model, world, on_note)
        result_settings, name = by_rank_0(
            world, lambda: open_folder(config, folder, potential, workload)
        )
        for note in check_world(world, folder.path, config.model if potential is None else ""):
            on_note(note)
        heartbeat, journal, log = enter_together(config, world, folder, name, stop, watch)
        for thing in (journal, log):
            leaving.enter_context(contextlib.closing(thing))
        leaving.callback(heartbeat.leave)
        startup.heartbeat = heartbeat
        segments = folder.segment_paths()[world.rank :: world.size]
        damaged = world.gather(all_or_none(world, lambda: find_damage_apart(segments)))
        by_rank_0(world, lambda: rename_damaged(damaged))
        suspects = by_rank_0(world, lambda: suspect_files_of(folder, name, retry))
        if suspects:
            shown = [*suspects][:MOST_NAMED]
            more = f" and {len(suspects) - len(shown)} more" * (len(suspects) > len(shown))
            on_note(
                f"an earlier start ended while it read {', '.join(shown)}{more}: read in a "
                f"process of its own now"
            )
        care = ReadingGuard(
            lambda path, alone: journal.read(path, alone=alone), suspects, journal.read_well
        )
        gathered = world.gather(read_share(config, files, records, world.rank, world.size, care))
        listing = curated(config, world, gathered)
        rates = None if workload is None else workload.rates
        plan = plan_together(config, world, folder, result_settings, listing, name, rates, retry)
        left = by_rank_0(world, lambda: time_left(config.time_limit, stop.age, environment))
        if left is not None:
            stop.limit(left.for_work, left.reserve)
        if note := past_end(environment):
            on_note(note)
        # Segments, and the new store beside them.
        if note := compare_room(folder.path, 2 * plan.results_bytes):
            on_note(note)
        on_plan(plan)
        process = RankProcess(
            config, result_settings, folder, world.rank, world.size, log, stop, watch
        )
        call = _Call(
            process, world, plan, startup, heartbeat, journal, potential, workload, on_result,
            on_end,
        )  # fmt: skip
        return _work_to_the_end(call)
    except UsageError:
        is_refused = True
        raise
    finally:
        startup.end()
        folder.unlock()
        leaving.close()
        if is_refused and is_new and world.size == 1:
            # No work has begun. With several ranks, one may still be using the folder.
            shutil.rmtree(folder.path, ignore_errors=True)


@dataclass(frozen=True)
class _Call:
    """Hold a launch, as of this rank."""

    process: RankProcess
    world: World
    plan: Plan
    startup: StartupWatchdog
    heartbeat: Heartbeat
    journal: Journal
    potential: Potential | None
    workload: Workload | None
    on_result: Callable[[Mapping[str, Any]], None]
    on_end: Callable[[RunConfig], None]


def _work_to_the_end(call: _Call) -> Outcome:
    process, log = call.process, call.process.log
    log.write(
        "start",
        ranks=call.world.size,
        host=socket.gethostname(),
        pid=os.getpid(),
        total=call.plan.total,
        before=call.plan.before,
    )
    left_undone, problem = False, None
    try:
        left_undone = _work(call)
    except Exception as error:
        log.write("error", traceback=traceback.format_exc())
        problem = in_words(error, process.folder)
    finally:
        _let_finish(process.stop)
        # After an error as well: ranks leave together, and what they did is consolidated.
        ending = Shutdown(process, call.heartbeat, call.journal)
        outcome = ending.leave(left_undone, problem, lambda: call.on_end(process.config))
    return outcome


def _let_finish(stop: Stop) -> None:
    """Let signals no longer end the process at once: the end of the launch has begun."""
    stop.when_asked = lambda seconds: None


def _work(call: _Call) -> bool:
    """Do this rank's share of the work; return whether something was left undone."""
    process, world, plan = call.process, call.world, call.plan
    config, log = process.config, process.log
    if not plan.blocks:
        _let_finish(process.stop)
        call.startup.end()
        return False
    cores = own_cores(world)
    potential = call.potential
    device = (
        choose_device(config.device, world, share_gpu=config.share_gpu)
        if potential is None
        else potential.info.device
    )
    call.startup.end()
    # Number of processes beside a potential, or in its place.
    place = device if call.workload is None else ""
    processes = number_of_processes(config.workers, place, cores, plan.pending / world.size)
    inbox: Inbox = queue.SimpleQueue()
    assigned = AssignedWork(call.journal)
    process.watchdog.predicted = assigned.predicted

    def on_hang(crystals: list[str]) -> None:
        call.journal.hung(crystals)
        call.journal.stop()

    def on_result(row: Mapping[str, Any]) -> None:
        assigned.finish(row["id"])
        call.on_result(row)

    with contextlib.ExitStack() as cleaning:
        # First the processes, so that they start while the potential is loaded.
        crew = cleaning.enter_context(contextlib.closing(make_crew(processes, inbox)))
        load = cleaning.enter_context(load_crystals(process.folder))
        isolated_worker = None
        if potential is None:
            potential = load_for(config, device, world.local_size)
            order = Order(
                config, process.result_settings, plan.launch, world.rank, os.getpid(), device,
                world.local_size, processes,
            )  # fmt: skip
            isolated_worker = cleaning.enter_context(
                contextlib.closing(IsolatedWorker(order, process.stop))
            )
        log.write("ready", device=device, workers=processes)
        worker = Worker(
            process,
            potential,
            crew,
            inbox,
            MOST_UNDER_WAY,
            on_result,
            assigned.commit,
            on_hang,
            load_double=(
                double_of(config, device, world.local_size) if call.potential is None else None
            ),
            workflow_of=None if call.workload is None else call.workload.way,
        )
        loop = RankLoop(
            process, plan, call.heartbeat, call.journal, worker, assigned, isolated_worker, load
        )
        loop.work()
    return loop.left_undone
