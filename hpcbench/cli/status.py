"""The command ``hpcbench status``."""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.cli.options import add_store
from hpcbench.cli.stores import counts, exit_code, store_path
from hpcbench.texts import shown_reason

if TYPE_CHECKING:
    from hpcbench.events import Progress, ProgressReader

WATCH_INTERVAL = 0.5
# Seconds without an event after which a launch that did not end counts as killed, until it logs
# another event.
SILENCE = 60.0


HELP = "how far a run has come"
DESCRIPTION = (
    "Say how many crystals are done, failed (by reason), under way and left, the "
    "rate, and when it will end; after the run, what was predicted and what it took. Reads "
    "the event logs: works while a run is under way, and from another machine."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    parser.add_argument("--watch", action="store_true", help="draw a bar until the run has ended")
    parser.add_argument("--ranks", action="store_true", help="a line for each rank as well")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="say it by the exit code: 0 all done, 1 done but some failed, 75 not at the end",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def run(options: argparse.Namespace) -> int:
    """Print or draw the progress of a run; return it as the exit code if asked to."""
    path = store_path(options.store)
    if options.watch:
        _watch(path)
    elif not options.quiet:
        _print_status(path, ranks=options.ranks)
    return exit_code(path) if options.exit_code else 0


def _print_status(path: str, *, ranks: bool) -> None:
    from hpcbench.planning.calibration import accuracy, listed_costs, taken
    from hpcbench.report.status import print_launch, print_ranks
    from hpcbench.report.wording import earlier_words
    from hpcbench.store.reader import Store
    from hpcbench.store.schema import DONE, SET_ASIDE

    store = Store(path)
    unfinished, failed, stable = counts(store)
    statuses = store.table["status"].value_counts()
    aside = int(statuses.get(SET_ASIDE, 0))
    print(
        f"{path}: {statuses.get(DONE, 0)} done, {stable} stable, {failed} failed, "
        + (f"{aside} set aside, " if aside else "")
        + f"{unfinished} to compute"
    )
    if note := earlier_words(len(store.earlier)):
        print(note)
    reasons = store.table.loc[store.table["reason"] != "", "reason"].astype(str)
    for kind, number in reasons.str.split(":").str[0].value_counts().items():
        print(f"  {number:6d}  {shown_reason(str(kind))}")
    progress = _reader(path).read()
    if not progress.ranks:
        return
    signs = signs_of_life(progress, store.folder.launches / progress.launch / "alive")
    what = taken(store, progress)
    costs = listed_costs(store.folder)
    print_launch(progress, signs, None if what is None else accuracy(what, costs))
    if ranks:
        print_ranks(progress, signs)


def _reader(path: str) -> ProgressReader:
    """Return a reader of a run's progress, with predicted costs of its latest launch."""
    from hpcbench.events import ProgressReader
    from hpcbench.planning.calibration import listed_costs
    from hpcbench.store.reader import Store
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(path)
    if not folder.path.exists():
        # The run may still begin.
        return ProgressReader(folder.events)
    store = Store(path)
    seen = ProgressReader(store.folder.events).read().seen
    before = set(store.finished_ids()) - seen
    costs = listed_costs(store.folder)
    return ProgressReader(
        store.folder.events, {key: cost for key, cost in costs.items() if key not in before}
    )


def signs_of_life(progress: Progress, folder: Path) -> dict[int, float]:
    """Return the seconds since the last event or heartbeat of each rank.

    Parameters
    ----------
    progress : Progress
        The launch, from its event logs.
    folder : Path
        The folder of heartbeats.

    Returns
    -------
    dict
        Seconds by rank; infinite if its process ran on this machine and has ended.
    """
    import psutil

    ages = {}
    for number, rank in progress.by_rank.items():
        latest = rank.latest
        with contextlib.suppress(OSError):
            latest = max(latest, (folder / f"rank-{number:05d}").stat().st_mtime)
        here = rank.host == socket.gethostname()
        gone = here and not rank.ended and not psutil.pid_exists(rank.pid)
        ages[number] = float("inf") if gone else time.time() - latest
    return ages


def _watch(path: str) -> None:
    from hpcbench.report.progress import watch_bar

    reader = _reader(path)
    first = reader.read()
    # A launch that ended, or was killed, is not drawn: wait for the next one.
    over = first.ended == first.ranks or time.time() - first.latest > SILENCE
    old, last_seen = first.launch, first.latest
    with watch_bar() as update:
        while True:
            progress = reader.read()
            over = over and progress.latest == last_seen
            if progress.launch != old:
                # The new launch has another list.
                old, reader = progress.launch, _reader(path)
                over = False
            elif not over:
                update(progress)
                if progress.ranks and progress.ended >= progress.ranks:
                    return
            time.sleep(WATCH_INTERVAL)
