"""Computation of a run or a reanalysis, in one rank of an MPI world or a single process."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from hpcbench.cli.complaints import complain
from hpcbench.config import RunConfig, settings
from hpcbench.config_loading import DEFAULT_FILE, load_config
from hpcbench.counting import counted
from hpcbench.engine.stopping import STOPPED, Stop, end_at_start
from hpcbench.errors import (
    DeviceError,
    HpcbenchError,
    PotentialError,
    StoreError,
    UsageError,
)
from hpcbench.outputs import appended
from hpcbench.scheduler.startup_watchdog import StartupWatchdog
from hpcbench.scheduler.world import World, join_world, lonely
from hpcbench.standard_streams import own_output
from hpcbench.texts import printable
from hpcbench.threads import cap_threads

if TYPE_CHECKING:
    from hpcbench.maintenance.reanalysis import Reanalysis
    from hpcbench.scheduler.run_plan import Plan

LOG_INTERVAL = 60.0
RANKS_A_SECOND = 8
SOME_FAILED = 1


def as_a_rank(
    command: str,
    prepare: Callable[[], tuple[RunConfig, Reanalysis | None]],
    retry: str | None,
) -> int:
    """Compute as one rank, and return the exit code.

    Parameters
    ----------
    command : str
        Name of the command, for error messages.
    prepare : callable
        Returns the settings, and the reanalysis to compute; ``None`` for a run.
    retry : str or None
        Compute crystals again that failed for a reason which begins like this.
    """
    # At the very start: a signal during the imports below must not kill the rank.
    stop = Stop()
    stop.when_asked = end_at_start
    stop.install()
    cap_threads()
    config, workload = prepare()
    world = join_world()
    # Before the slow imports, which take most of the time before the work.
    startup = StartupWatchdog(world)
    if world.size == 1:
        return _run(config, world, startup, stop, workload, retry)[0]
    try:
        code, everyone_is_there = _run(config, world, startup, stop, workload, retry)
    except HpcbenchError as error:
        # Before the work all ranks have the same error: one reports it.
        if world.rank == 0:
            complain(error, command)
        code, everyone_is_there = error.exit_code, True
    except Exception as error:
        # An uncaught error would end in MPI_Abort, which ends the other ranks, too.
        code, everyone_is_there = complain(error, command, f"rank {world.rank}"), False
    # Launchers mix the codes of their ranks; the store knows which crystals failed.
    code = 0 if code == SOME_FAILED else code
    if everyone_is_there:
        world.leave()
        return code
    _leave(code)


def config_of(options: argparse.Namespace) -> RunConfig:
    """Return the settings of the command line, the environment and the file.

    Raises
    ------
    UsageError
        If the settings are wrong, or name no sources.
    """
    flags = {f.name: getattr(options, f.name, None) for f in settings()}
    file = options.config
    if not options.sources:
        flags["sources"] = None
        if file is None and Path(DEFAULT_FILE).is_file():
            file = DEFAULT_FILE
    config = load_config(flags, file, defaults=getattr(options, "defaults", {}))
    if not config.sources and config.validate:
        raise UsageError(
            f"no references: give --reference PATH, or `sources` in {DEFAULT_FILE} "
            f"(hpcbench validate --help)"
        )
    if not config.sources:
        raise UsageError(
            "no crystals: give a folder, files, an archive or a list, or `sources` in "
            f"{DEFAULT_FILE} (hpcbench run --help)"
        )
    return config


def weights_path(model: str) -> str:
    """Return the path of a potential's weights; empty if there is no such file.

    Missing weights are downloaded, or reported, at the start of the run.
    """
    from hpcbench.potentials.registry import weights_file

    with contextlib.suppress(PotentialError):
        if path := weights_file(model):
            return str(path.absolute())
    return ""


def _run(
    config: RunConfig,
    world: World,
    startup: StartupWatchdog,
    stop: Stop,
    workload: Reanalysis | None,
    retry: str | None,
) -> tuple[int, bool]:
    """Compute; return the exit code, and whether no rank died."""
    from hpcbench.scheduler.launch import launch

    if world.size == 1 and (note := lonely()):
        _tell_note(note, world)
    with own_output() as output, _progress(config, world, output) as (on_plan, on_result):

        def on_end(config: RunConfig) -> None:
            # With several ranks, one shows the results while the others wait for it; a single
            # process first removes its progress bar.
            if world.size > 1:
                with contextlib.redirect_stdout(output):
                    _show_results(config)

        outcome = launch(
            config,
            world,
            startup=startup,
            stop=stop,
            workload=workload,
            retry=retry,
            on_note=lambda note: _tell_note(note, world),
            on_plan=on_plan,
            on_result=on_result,
            on_end=on_end,
        )
    if outcome.problem is not None:
        return _tell(outcome.problem, world, config), outcome.nobody_died
    if world.size == 1:
        _show_results(config)
    if not outcome.complete:
        if world.rank == 0:
            print(_stopped(config), file=sys.stderr)
        return STOPPED, outcome.nobody_died
    if world.size > 1:
        return 0, outcome.nobody_died
    from hpcbench.cli.stores import exit_code

    return exit_code(config.out), True


def _tell(problem: Exception, world: World, config: RunConfig) -> int:
    """Report the error that ended this rank's work; return the exit code."""
    # All ranks have the same problem of devices.
    if world.rank != 0 and isinstance(problem, DeviceError):
        return problem.exit_code
    command = "validate" if config.validate else "run"
    return complain(problem, command, f"rank {world.rank}" if world.size > 1 else "")


def _stopped(config: RunConfig) -> str:
    """Return a sentence on the results after a stop."""
    from hpcbench.store.reader import Store

    with contextlib.suppress(StoreError):
        if Store(config.out).finished_ids():
            return "stopped before the end: the same command goes on from here"
    return "stopped before a crystal was finished: the same command begins anew"


def _tell_note(note: str, world: World) -> None:
    if world.rank == 0:
        print(f"hpcbench: {printable(note)}", file=sys.stderr, flush=True)


def _show_results(config: RunConfig) -> None:
    from hpcbench.engine.timing import read_stages
    from hpcbench.report.terminal import print_results
    from hpcbench.store.reader import Store
    from hpcbench.store.schema import REANALYSIS_OF

    store = Store(config.out)
    if store.unfinished_ids() and not store.finished_ids():
        # Stopped at once: there is nothing to show.
        return
    print_results(store)
    if config.validate:
        from hpcbench.analysis.accuracy.summary import summary_of

        print(summary_of(store).words(printable(str(store.path))))
    stages = read_stages(store.folder.events)
    if stages is not None and REANALYSIS_OF not in store.settings:
        print(stages.lines())
    if config.report:
        _write_report(store)
    sys.stdout.flush()


def _write_report(store: Any) -> None:
    try:
        from hpcbench.report.html import write_report
    except ImportError as error:
        print(f"no report: {error}; ./launch.sh setup report", file=sys.stderr)
        return
    try:
        print(f"report: {write_report(store, appended(store.path, '.html'))}")
    except UsageError as error:
        # The results are saved: a file that must not be overwritten is no failure of the run.
        print(f"no report: {error}", file=sys.stderr)


@contextlib.contextmanager
def _progress(
    config: RunConfig, world: World, output: TextIO
) -> Iterator[tuple[Callable[[Plan], None], Callable[[Mapping[str, Any]], None]]]:
    """Show the progress: a bar on a terminal, else a line at intervals; yield the callbacks."""
    if world.rank != 0:
        yield lambda plan: None, lambda row: None
    elif world.size == 1 and sys.stderr.isatty():
        from hpcbench.report.progress import progress_bar

        with progress_bar() as (start, advance):
            yield lambda plan: start(plan.total, plan.before), advance
    else:
        ended = threading.Event()
        # Each line reads the logs of all ranks.
        interval = max(LOG_INTERVAL, world.size / RANKS_A_SECOND)
        thread = threading.Thread(
            target=_log_lines,
            args=(os.path.abspath(config.out), interval, ended, output),
            daemon=True,
        )

        def on_plan(plan: Plan) -> None:
            pending = plan.total - plan.before
            aside = f" ({plan.aside} more set aside)" if plan.aside else ""
            print(
                f"{counted(plan.total, 'crystal')}{aside}, {pending} to compute on "
                f"{counted(world.size, 'rank')} with {config.model}, {config.dtype}, "
                f"protocol {config.protocol}",
                file=output,
                flush=True,
            )
            if pending:
                thread.start()

        try:
            yield on_plan, lambda row: None
        finally:
            ended.set()


def _log_lines(out: str, interval: float, ended: threading.Event, output: TextIO) -> None:
    from hpcbench.events import ProgressReader
    from hpcbench.store.run_folder import RunFolder

    reader = ProgressReader(RunFolder(out).events)
    while not ended.wait(interval):
        print(reader.read().line(), file=output, flush=True)


def _leave(code: int) -> NoReturn:
    """End this rank without MPI_Finalize, which waits for ranks that may be dead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
