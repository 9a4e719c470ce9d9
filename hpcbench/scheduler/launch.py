"""One launch of a run, from its sources to its store."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.config import RunConfig
from hpcbench.engine.io_threads import Inbox
from hpcbench.engine.rank_process import RankProcess
from hpcbench.engine.stopping import Stop
from hpcbench.engine.watchdog import MOST_NAMED, Watchdog
from hpcbench.engine.worker import Worker
from hpcbench.engine.worker_processes import make_crew, number_of_processes
from hpcbench.errors import StoreError, UsageError
from hpcbench.events import EventLog
from hpcbench.limits import Limits
from hpcbench.planning.blocks import MOST_UNDER_WAY
from hpcbench.planning.costs import CostModel, load_cost_model
from hpcbench.planning.crystal_list import CrystalList, ReadingGuard, Record, read_share
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.registry import (
    check_derivative,
    check_name,
    require_response,
    weights_sha256,
)
from hpcbench.scheduler.assigned_work import AssignedWork
from hpcbench.scheduler.checks import check_world
from hpcbench.scheduler.deadline import past_end, time_left
from hpcbench.scheduler.devices import choose_device, own_cores
from hpcbench.scheduler.disk import compare_room
from hpcbench.scheduler.duplicate_search import curated
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.isolated_worker import IsolatedWorker, Order
from hpcbench.scheduler.journal import Journal, journal_path
from hpcbench.scheduler.rank_loop import RankLoop, double_of, load_crystals, load_for
from hpcbench.scheduler.run_plan import Plan, make_plan, name_launch
from hpcbench.scheduler.shared_weights import provide_weights
from hpcbench.scheduler.shutdown import Outcome, Shutdown, in_words
from hpcbench.scheduler.startup_watchdog import StartupWatchdog
from hpcbench.scheduler.suspicious import SuspectFiles, suspect_files
from hpcbench.scheduler.workload import Workload
from hpcbench.scheduler.world import World, by_rank_0
from hpcbench.settings_hash import settings_hash
from hpcbench.sources import SourceFile, find_files, find_sources
from hpcbench.store.damage import find_damage_apart, set_aside
from hpcbench.store.run_folder import RunFolder

# Seconds after which a thread that was told of a stop looks again.
POLL = 0.2


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
    """Compute what is not in the store yet, together with the other ranks.

    Collective up to the choice of devices; from there on no rank waits for another, until at
    the end all leave together (see ``heartbeat``).

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    startup : StartupWatchdog, optional
        Watches over the ranks since they have found each other.
    records : iterable, optional
        Crystals to take instead of reading ``config.sources``; on rank 0.
    potential : Potential, optional
        A loaded potential to use instead of loading ``config.model``.
    workload : Workload, optional
        What is done with crystals instead of computing their phonons.
    retry : str, optional
        Compute those again that failed for a reason which begins like this.
    environment : mapping, optional
        Tells of the job that this runs in; ``os.environ`` by default.
    on_note, on_plan, on_result, on_end : callable, optional
        Told what is not as it should be but does no harm, the plan, each result of this rank,
        and, on the rank that has the last word, that the store is consolidated.

    Raises
    ------
    HpcbenchError
        For all that is wrong with the settings, the sources, the machine or the store; on
        every rank, before any work is done.
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
        files, left_out = by_rank_0(world, lambda: _sources(config, folder, records))
        if left_out:
            on_note(left_out)
        if potential is None:
            provide_weights(config.model, world, on_note)
        result_settings, name = by_rank_0(
            world, lambda: _open_folder(config, folder, potential, workload)
        )
        for note in check_world(world, folder.path, config.model if potential is None else ""):
            on_note(note)
        heartbeat, journal, log = _enter(config, world, folder, name, stop, watch)
        for thing in (journal, log):
            leaving.enter_context(contextlib.closing(thing))
        leaving.callback(heartbeat.leave)
        startup.heartbeat = heartbeat
        segments = folder.segment_paths()[world.rank :: world.size]
        damaged = world.gather(_all_or_none(world, lambda: find_damage_apart(segments)))
        by_rank_0(world, lambda: _set_aside(damaged))
        suspects = by_rank_0(world, lambda: _suspect_files(folder, name, retry))
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
        plan = _plan(config, world, folder, result_settings, listing, name, rates, retry)
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
            # Nothing has begun; of several ranks one may still be about to leave.
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
    """Let a signal end nothing at once any more: what comes then has an end of its own."""
    stop.when_asked = lambda seconds: None


def _sources(
    config: RunConfig, folder: RunFolder, records: Iterable[Record] | None
) -> tuple[list[SourceFile], str]:
    """Find the files to be read, and say in a sentence what lies among them and is not.

    Of a run whose store may have its name; nothing is written before.
    """
    folder.require_name()
    limits = Limits(config.read_limits)
    if config.against:
        # Read later; that there is none is said before anything is written.
        find_files(config.against, limits)
    if records is not None:
        return [], ""
    found = find_sources(config.sources, limits)
    return found.files, found.note()


def _suspect_files(folder: RunFolder, launch: str, retry: str | None) -> SuspectFiles:
    """Return files that may have ended an earlier launch; forgiven if failures are tried again."""
    past = [path for path in folder.past_launches() if path.name != launch]
    files = suspect_files(past, folder.attempts)
    return files if retry is None else dict.fromkeys(files, 0)


def _set_aside(damaged: Iterable[Mapping[Path, str]]) -> None:
    for part in damaged:
        for sentence in set_aside(part):
            print(f"hpcbench: {sentence}", file=sys.stderr, flush=True)


def _plan(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    result_settings: Mapping[str, Any],
    listing: CrystalList | None,
    name: str,
    known: CostModel | None,
    retry: str | None,
) -> Plan:
    """Write the list, and plan; then all ranks hold the folder, or none."""

    def plan() -> Plan:
        rates = known or load_cost_model(
            config.model, result_settings["weights_sha256"], config.dtype, config.device
        )
        assert listing is not None, "rank 0 has it"
        plan = make_plan(config, folder, result_settings, listing, name, world.size, rates, retry)
        # Before the other ranks hear of it: they want to hold the folder as well.
        folder.share()
        return plan

    plan_of_all: Plan = by_rank_0(world, plan)
    _all_or_none(world, folder.share)
    return plan_of_all


def _enter(
    config: RunConfig, world: World, folder: RunFolder, name: str, stop: Stop, watch: Watchdog
) -> tuple[Heartbeat, Journal, EventLog]:
    """Say that this rank is there; all ranks, or none."""

    def enter() -> tuple[Heartbeat, Journal, EventLog]:
        launch = folder.launch_folder(name)
        journal = Journal(journal_path(launch, f"rank-{world.rank:05d}"))
        heartbeat = Heartbeat(launch, world.rank, world.size, config.silence)
        log = EventLog(folder.events, world.rank, name)

        def wait(seconds: float) -> None:
            # At once, not when the forward pass ends: the kill may come before that.
            if stop.wait(seconds):
                journal.stop()
                time.sleep(POLL)
            watch.look()
            log.flush_old()

        def tell(text: str) -> None:
            log.write("warning", id="", message=text)
            who = f"rank {world.rank}: " if world.size > 1 else ""
            with contextlib.suppress(OSError, ValueError):
                print(f"hpcbench: {who}{text}", file=sys.stderr, flush=True)

        watch.tell = tell

        heartbeat.enter(wait)
        return heartbeat, journal, log

    entered: tuple[Heartbeat, Journal, EventLog] = _all_or_none(world, enter)
    return entered


def _all_or_none(world: World, action: Callable[[], Any]) -> Any:
    """Do something on each rank; if one cannot, all end.

    Raises
    ------
    StoreError
        With what all ranks have to complain of.
    """
    problem, value = "", None
    try:
        value = action()
    except (OSError, StoreError) as error:
        problem = f"rank {world.rank} on {socket.gethostname()}: {error}"
    problems = [text for text in world.share(problem) if text]
    if problems:
        raise StoreError("\n".join(problems))
    return value


def _work(call: _Call) -> bool:
    """Do this rank's share of the work; whether something was left undone."""
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
    # Beside a potential, or in its place.
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


def result_settings_of(config: RunConfig, weights: str) -> dict[str, Any]:
    """What decides results and names the store: settings, and the weights' SHA-256."""
    result_settings = config.result_settings()
    if weights and Path(config.model).suffix:
        # A file is known by its content: the same weights may lie in another folder.
        result_settings["model"] = Path(config.model).name
    result_settings["weights_sha256"] = weights
    result_settings["hash"] = settings_hash(result_settings)
    return result_settings


def _open_folder(
    config: RunConfig, folder: RunFolder, potential: Potential | None, workload: Workload | None
) -> tuple[dict[str, Any], str]:
    """Take the folder; gives the settings that decide results and the launch's name."""
    if workload is not None:
        result_settings = dict(workload.result_settings)
    elif potential is None:
        check_name(config.model)
        check_derivative(config.model, config.derivative)
        result_settings = result_settings_of(config, weights_sha256(config.model))
    else:
        require_response(potential.info, config.derivative)
        result_settings = result_settings_of(config, potential.info.weights_sha256)
    # A name that is refused leaves nothing behind.
    folder.compare(result_settings)
    folder.create()
    folder.lock()
    folder.agree(result_settings)
    return result_settings, name_launch(folder)
