"""One launch of a run, from its sources to its store."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.config import RunConfig, settings_hash
from hpcbench.errors import HpcbenchError, PotentialError, SetupError, StoreError
from hpcbench.events import EventLog, ProgressReader
from hpcbench.farm.attendance import Attendance
from hpcbench.farm.beginning import Beginning
from hpcbench.farm.checks import check_world
from hpcbench.farm.deadline import time_left
from hpcbench.farm.devices import choose_device, own_cores
from hpcbench.farm.disk import compare_room
from hpcbench.farm.holdings import Holdings
from hpcbench.farm.journal import Journal, journal_path
from hpcbench.farm.plan import Plan, make_plan, name_launch
from hpcbench.farm.share import Share, load_crystals, load_for
from hpcbench.farm.understudy import Order, Understudy
from hpcbench.farm.weights import provide_weights
from hpcbench.farm.world import World
from hpcbench.planning.blocks import MOST_UNDER_WAY
from hpcbench.planning.costs import load_cost_model
from hpcbench.planning.hindsight import learn
from hpcbench.planning.listing import Listed, Record, read_share
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.registry import check_name, weights_sha256
from hpcbench.rank.beside import Inbox
from hpcbench.rank.processes import make_crew, number_of_processes
from hpcbench.rank.rows import schema_of
from hpcbench.rank.stopping import Stop
from hpcbench.rank.worker import Worker
from hpcbench.sources import find_files
from hpcbench.store.consolidate import consolidate
from hpcbench.store.damage import find_damage_apart, set_aside
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder

# Bytes; half of what was measured (``benchmarks/results/store-cpu.json``).
CONSOLIDATED_A_SECOND = 6e6


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
    beginning: Beginning | None = None,
    stop: Stop,
    records: Iterable[Record] | None = None,
    potential: Potential | None = None,
    retry: str | None = None,
    environment: Mapping[str, str] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
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
    beginning : Beginning, optional
        Watches over the ranks since they have found each other.
    records : iterable, optional
        Crystals to take instead of reading ``config.sources``; on rank 0.
    potential : Potential, optional
        A loaded potential to use instead of loading ``config.model``.
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
    folder = RunFolder(config.out)
    beginning = beginning or Beginning(world)
    leaving = contextlib.ExitStack()
    try:
        files = _together(world, lambda: find_files(config.sources) if records is None else [])
        if potential is None:
            provide_weights(config.model, world, on_note)
        deciding, name = _together(world, lambda: _open_folder(config, folder, potential))
        for note in check_world(world, folder.path, config.model if potential is None else ""):
            on_note(note)
        attendance, journal, log = _enter(config, world, folder, name, stop)
        for thing in (journal, log):
            leaving.enter_context(contextlib.closing(thing))
        leaving.callback(attendance.leave)
        beginning.attendance = attendance
        segments = folder.segment_paths()[world.rank :: world.size]
        damaged = world.gather(_all_or_none(world, lambda: find_damage_apart(segments)))
        _together(world, lambda: _set_aside(damaged))
        gathered = world.gather(read_share(config, files, records, world.rank, world.size))
        plan = _plan(config, world, folder, deciding, gathered, name, retry)
        time = _together(world, lambda: time_left(config.time_limit, stop.age, environment))
        if time is not None:
            stop.limit(time.for_work, time.reserve)
        # Segments, and the new store beside them.
        if note := compare_room(folder.path, 2 * plan.results_bytes):
            on_note(note)
        on_plan(plan)
        call = _Call(
            config,
            world,
            folder,
            deciding,
            plan,
            attendance,
            journal,
            log,
            beginning,
            stop,
            potential,
            on_result,
            on_end,
        )
        return _work_to_the_end(call)
    finally:
        beginning.end()
        folder.unlock()
        leaving.close()


@dataclass(frozen=True)
class _Call:
    """What a launch is about, as of this rank."""

    config: RunConfig
    world: World
    folder: RunFolder
    deciding: Mapping[str, Any]
    plan: Plan
    attendance: Attendance
    journal: Journal
    log: EventLog
    beginning: Beginning
    stop: Stop
    potential: Potential | None
    on_result: Callable[[Mapping[str, Any]], None]
    on_end: Callable[[RunConfig], None]


def _work_to_the_end(call: _Call) -> Outcome:
    attendance, folder, log = call.attendance, call.folder, call.log
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
        problem = _of_the_disk(error, folder)
    finally:
        # After an error as well: ranks leave together, and what they did is consolidated.
        if not isinstance(problem, PotentialError):
            # A potential that breaks may have been broken by a crystal: those are suspects.
            call.journal.stop()
        last = False
        try:
            if problem is not None or left_undone or call.stop.requested:
                attendance.give_up()
            attendance.rest()
            last = attendance.end()
        except OSError as error:
            # The others see this rank leave.
            problem = problem or _of_the_disk(error, folder)
        try:
            # A start that failed leaves no store behind.
            if last and (problem is None or folder.segment_paths()) and _there_is_time(call):
                consolidate(folder, schema_of(call.deciding), call.deciding)
                # How fast it was, for the next plan.
                learn(Store(folder.store), ProgressReader(folder.events).read())
                call.on_end(call.config)
        except Exception as error:
            # A rank that was stopped may have been replaced meanwhile.
            if not attendance.is_closed():
                problem = problem or error
        finally:
            if last:
                with contextlib.suppress(OSError):
                    attendance.close()
        # Each rank, for whoever comes last: one that was stopped and taken for dead may have
        # committed something after the others had consolidated.
        folder.unlock()
        complete = not call.stop.requested
        try:
            if _there_is_time(call):
                consolidate_if_idle(folder.store)
            elif last:
                print(
                    f"hpcbench: no time to bring {folder.store} together: results are safe beside "
                    f"it, and can be read; the next start does it, or hpcbench consolidate",
                    file=sys.stderr,
                    flush=True,
                )
            if complete and (last or left_undone):
                # Others may have done what this rank could not, or died at the very end.
                complete = not Store(folder.store).unfinished_ids()
        except (OSError, StoreError) as error:
            problem = problem or error
            complete = False
        log.write("end", complete=complete)
        log.close()
    return Outcome(complete, last, attendance.complete(), problem)


def _there_is_time(call: _Call) -> bool:
    """Whether segments and store can be brought together before this process may be killed."""
    segments = call.folder.segment_paths()
    size = 0
    for path in (call.folder.store, *segments):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return not segments or size / CONSOLIDATED_A_SECOND < call.stop.seconds_to_the_kill


def _of_the_disk(error: Exception, folder: RunFolder) -> Exception:
    """An error of the file system below the run folder, in words."""
    if not isinstance(error, OSError) or str(folder.path) not in str(error.filename):
        return error
    return StoreError(
        f"{error.filename}: {error.strerror}; what was computed is safe: mend this and give the "
        f"same command again"
    )


def _set_aside(damaged: Iterable[Mapping[Path, str]]) -> None:
    for part in damaged:
        for sentence in set_aside(part):
            print(f"hpcbench: {sentence}", file=sys.stderr, flush=True)


def _plan(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    deciding: Mapping[str, Any],
    gathered: Sequence[Sequence[Listed] | SetupError],
    name: str,
    retry: str | None,
) -> Plan:
    """Write the list, and plan; then all ranks hold the folder, or none."""

    def plan() -> Plan:
        rates = load_cost_model(
            config.model, deciding["weights_sha256"], config.dtype, config.device
        )
        plan = make_plan(config, folder, deciding, gathered, name, world.size, rates, retry)
        # Before the other ranks hear of it: they want to hold the folder as well.
        folder.share()
        return plan

    plan_of_all: Plan = _together(world, plan)
    _all_or_none(world, folder.share)
    return plan_of_all


def _enter(
    config: RunConfig, world: World, folder: RunFolder, name: str, stop: Stop
) -> tuple[Attendance, Journal, EventLog]:
    """Say that this rank is there; all ranks, or none."""

    def enter() -> tuple[Attendance, Journal, EventLog]:
        launch = folder.launch_folder(name)
        journal = Journal(journal_path(launch, f"rank-{world.rank:05d}"))
        attendance = Attendance(launch, world.rank, world.size, config.silence)
        log = EventLog(folder.events, world.rank, name)

        def wait(seconds: float) -> None:
            # At once, not when the forward pass ends: the kill may come before that.
            if stop.wait(seconds):
                journal.stop()
            log.flush_old()

        attendance.enter(wait)
        return attendance, journal, log

    entered: tuple[Attendance, Journal, EventLog] = _all_or_none(world, enter)
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
    config, world, plan, folder, log = call.config, call.world, call.plan, call.folder, call.log
    if not plan.blocks:
        call.beginning.end()
        return False
    cores = own_cores(world)
    potential = call.potential
    device = (
        choose_device(config.device, world, share_gpu=config.share_gpu)
        if potential is None
        else potential.info.device
    )
    call.beginning.end()
    processes = number_of_processes(config.workers, device, cores, plan.pending / world.size)
    inbox: Inbox = queue.SimpleQueue()
    holdings = Holdings(call.journal)

    def on_result(row: Mapping[str, Any]) -> None:
        holdings.finish(row["id"])
        call.on_result(row)

    with contextlib.ExitStack() as cleaning:
        # First the processes, so that they start while the potential is loaded.
        crew = cleaning.enter_context(contextlib.closing(make_crew(processes, inbox)))
        load = cleaning.enter_context(load_crystals(folder))
        understudy = None
        if potential is None:
            potential = load_for(config, device, world.local_size)
            order = Order(
                config, call.deciding, plan.launch, world.rank, os.getpid(), device,
                world.local_size, processes,
            )  # fmt: skip
            understudy = cleaning.enter_context(contextlib.closing(Understudy(order, call.stop)))
        log.write("ready", device=device, workers=processes)
        worker = Worker(
            config,
            potential,
            folder,
            call.deciding,
            world.rank,
            log,
            call.stop,
            crew,
            inbox,
            MOST_UNDER_WAY,
            on_result,
            holdings.commit,
        )
        share = Share(
            config,
            folder,
            plan,
            world.rank,
            world.size,
            call.stop,
            call.attendance,
            call.journal,
            log,
            worker,
            holdings,
            understudy,
            load,
        )
        share.work()
    return share.left_undone


def consolidate_if_idle(store: str | os.PathLike[str]) -> None:
    """Consolidate what a launch left in segments, and remove torn files, unless one is under way.

    For a launch whose ranks did not all come to their end.
    """
    folder = RunFolder(store)
    if not (folder.segment_paths() or folder.torn_files()):
        return
    try:
        folder.lock()
    except StoreError:
        return
    try:
        folder.remove_torn_files()
        if folder.segment_paths():
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
) -> tuple[dict[str, Any], str]:
    """Take the folder; gives the deciding settings and the launch's name."""
    if potential is None:
        check_name(config.model)
        weights = weights_sha256(config.model)
    else:
        weights = potential.info.weights_sha256
    deciding = deciding_settings(config, weights)
    folder.create()
    folder.lock()
    folder.agree(deciding)
    return deciding, name_launch(folder)
