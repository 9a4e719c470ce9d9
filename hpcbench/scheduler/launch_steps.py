"""Steps of a launch before its work: sources, folder, plan, and entering together."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hpcbench.config import RunConfig
from hpcbench.engine.stopping import Stop
from hpcbench.engine.watchdog import Watchdog
from hpcbench.errors import StoreError
from hpcbench.events import EventLog
from hpcbench.limits import Limits
from hpcbench.planning.costs import CostModel, load_cost_model
from hpcbench.planning.crystal_list import CrystalList, Record
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.registry import (
    check_derivative,
    check_name,
    require_response,
    weights_sha256,
)
from hpcbench.references.finding import find_references
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.journal import Journal, journal_path
from hpcbench.scheduler.run_plan import Plan, make_plan, name_launch
from hpcbench.scheduler.suspicious import SuspectFiles, suspect_files
from hpcbench.scheduler.workload import Workload
from hpcbench.scheduler.world import World, by_rank_0
from hpcbench.settings_hash import settings_hash
from hpcbench.sources import SourceFile, find_files, find_sources
from hpcbench.store.damage import set_aside
from hpcbench.store.run_folder import RunFolder

# Seconds for which the heartbeat's thread sleeps after a stop was requested.
POLL = 0.2


def sources_of(
    config: RunConfig, folder: RunFolder, records: Iterable[Record] | None
) -> tuple[list[SourceFile], str]:
    """Return the files to be read, and a sentence on files among them that are not.

    The store's name is checked first; nothing is written.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    folder : RunFolder
        The run's folder.
    records : iterable or None
        Crystals that were handed in; no files are read then.
    """
    folder.require_name()
    limits = Limits(config.read_limits)
    if config.against:
        # They are read later, but missing ones are reported before anything is written.
        find_files(config.against, limits)
    if records is not None:
        return [], ""
    find = find_references if config.validate else find_sources
    found = find(config.sources, limits)
    return found.files, found.note()


def suspect_files_of(folder: RunFolder, launch: str, retry: str | None) -> SuspectFiles:
    """Return files that may have ended an earlier launch; forgiven if failures are retried.

    Parameters
    ----------
    folder : RunFolder
        The run's folder.
    launch : str
        Name of this launch.
    retry : str or None
        Reason of failures that are tried again.
    """
    past = [path for path in folder.past_launches() if path.name != launch]
    files = suspect_files(past, folder.attempts)
    return files if retry is None else dict.fromkeys(files, 0)


def rename_damaged(damaged: Iterable[Mapping[Path, str]]) -> None:
    """Rename damaged segments of each rank, and say so."""
    for part in damaged:
        for sentence in set_aside(part):
            print(f"hpcbench: {sentence}", file=sys.stderr, flush=True)


def plan_together(
    config: RunConfig,
    world: World,
    folder: RunFolder,
    result_settings: Mapping[str, Any],
    listing: CrystalList | None,
    name: str,
    known: CostModel | None,
    retry: str | None,
) -> Plan:
    """Write the list, and plan; then all ranks hold the folder, or none.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    world : World
        The ranks.
    folder : RunFolder
        The run's folder.
    result_settings : mapping
        The settings that determine results.
    listing : CrystalList or None
        On rank 0.
    name : str
        Of the launch.
    known : CostModel or None
        Rates to plan with; measured or guessed ones otherwise.
    retry : str or None
        Compute those again that failed for a reason which begins like this.
    """

    def plan() -> Plan:
        rates = known or load_cost_model(
            config.model, result_settings["weights_sha256"], config.dtype, config.device
        )
        assert listing is not None, "rank 0 has it"
        plan = make_plan(config, folder, result_settings, listing, name, world.size, rates, retry)
        # Before the broadcast, because the other ranks then take the shared lock as well.
        folder.share()
        return plan

    plan_of_all: Plan = by_rank_0(world, plan)
    all_or_none(world, folder.share)
    return plan_of_all


def enter_together(
    config: RunConfig, world: World, folder: RunFolder, name: str, stop: Stop, watch: Watchdog
) -> tuple[Heartbeat, Journal, EventLog]:
    """Announce this rank; all ranks succeed, or none.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    world : World
        The ranks.
    folder : RunFolder
        The run's folder.
    name : str
        Of the launch.
    stop : Stop
        Whether the run was asked to stop.
    watch : Watchdog
        Looked after by the thread of the heartbeat.
    """

    def enter() -> tuple[Heartbeat, Journal, EventLog]:
        launch = folder.launch_folder(name)
        journal = Journal(journal_path(launch, f"rank-{world.rank:05d}"))
        heartbeat = Heartbeat(launch, world.rank, world.size, config.silence)
        log = EventLog(folder.events, world.rank, name)

        def wait(seconds: float) -> None:
            # At once, not after the forward pass: the kill may come before its end.
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

    entered: tuple[Heartbeat, Journal, EventLog] = all_or_none(world, enter)
    return entered


def all_or_none(world: World, action: Callable[[], Any]) -> Any:
    """Run an action on each rank; if one fails, all end.

    Parameters
    ----------
    world : World
        The ranks.
    action : callable
        Without arguments.

    Raises
    ------
    StoreError
        With the problems of all ranks.
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


def result_settings_of(config: RunConfig, weights: str) -> dict[str, Any]:
    """Return the settings that determine results and identify the store.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    weights : str
        SHA-256 of the weights; empty if there are none.
    """
    result_settings = config.result_settings()
    if weights and Path(config.model).suffix:
        # A file is identified by its content: the same weights may be in another folder.
        result_settings["model"] = Path(config.model).name
    result_settings["weights_sha256"] = weights
    result_settings["hash"] = settings_hash(result_settings)
    return result_settings


def open_folder(
    config: RunConfig, folder: RunFolder, potential: Potential | None, workload: Workload | None
) -> tuple[dict[str, Any], str]:
    """Take the folder; return the settings that determine results and the launch's name.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    folder : RunFolder
        The run's folder.
    potential : Potential or None
        One that was handed in.
    workload : Workload or None
        What is computed in place of phonons.
    """
    if workload is not None:
        result_settings = dict(workload.result_settings)
    elif potential is None:
        check_name(config.model)
        check_derivative(config.model, config.derivative)
        result_settings = result_settings_of(config, weights_sha256(config.model))
    else:
        require_response(potential.info, config.derivative)
        result_settings = result_settings_of(config, potential.info.weights_sha256)
    # A refused name leaves nothing behind.
    folder.compare(result_settings)
    folder.create()
    folder.lock()
    folder.agree(result_settings)
    return result_settings, name_launch(folder)
