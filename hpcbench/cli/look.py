"""``hpcbench status`` and ``hpcbench show``: looking at a store."""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.config_loading import DEFAULT_FILE, load_config
from hpcbench.texts import shown_reason

if TYPE_CHECKING:
    from hpcbench.events import Progress, ProgressReader
    from hpcbench.store.reader import Store

WATCH_INTERVAL = 0.5
# Seconds without an event after which a launch that did not end counts as killed, until it shows
# itself again.
SILENCE = 60.0


def store_path(given: str | None) -> str:
    """The store that a command is about."""
    if given is not None:
        return given
    file = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else None
    return load_config({}, file).out


def exit_code(path: str) -> int:
    """0 if all crystals are done, 1 if all are finished but some failed, 75 otherwise."""
    from hpcbench.store.reader import Store

    store = Store(path)
    unfinished, failed, _ = counts(store)
    folder = store.folder
    # Killed before the list was written: nobody knows yet what there is to do.
    if unfinished or not (folder.crystals.exists() or folder.store.exists()):
        return 75
    return 1 if failed else 0


def counts(store: Store) -> tuple[int, int, int]:
    """Crystals that want computing, that failed or could not be read, and that are stable."""
    from hpcbench.store.schema import FAILED, UNREADABLE

    table = store.table
    failed = int(table["status"].isin([FAILED, UNREADABLE]).sum())
    stable = int((table["verdict"] == "stable").sum()) if "verdict" in table else 0
    return len(store.unfinished_ids()), failed, stable


def status_command(options: argparse.Namespace) -> int:
    """Print, draw, or tell by the exit code how far a run has come."""
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
    """Follows a run, and knows what the crystals that its latest launch found were to cost."""
    from hpcbench.events import ProgressReader
    from hpcbench.planning.calibration import listed_costs
    from hpcbench.store.reader import Store
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(path)
    if not folder.path.exists():
        # It may begin yet.
        return ProgressReader(folder.events)
    store = Store(path)
    seen = ProgressReader(store.folder.events).read().seen
    before = set(store.finished_ids()) - seen
    costs = listed_costs(store.folder)
    return ProgressReader(
        store.folder.events, {key: cost for key, cost in costs.items() if key not in before}
    )


def signs_of_life(progress: Progress, folder: Path) -> dict[int, float]:
    """Seconds since each rank showed itself, by an event or its heartbeat in ``folder``.

    Infinite where its process ran on this machine and is gone.
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
    # A launch that ended, or was killed, is yesterday's: wait for the one that begins.
    over = first.ended == first.ranks or time.time() - first.latest > SILENCE
    old, last_seen = first.launch, first.latest
    with watch_bar() as update:
        while True:
            progress = reader.read()
            over = over and progress.latest == last_seen
            if progress.launch != old:
                # It has a list of its own.
                old, reader = progress.launch, _reader(path)
                over = False
            elif not over:
                update(progress)
                if progress.ranks and progress.ended >= progress.ranks:
                    return
            time.sleep(WATCH_INTERVAL)


def show_command(options: argparse.Namespace) -> int:
    """Print a crystal's data and draw its bands."""
    from hpcbench.report.terminal import draw_bands, print_crystal
    from hpcbench.store.schema import DONE

    store = _open(options.store_option or options.store)
    key = store.find(options.crystal)
    row = store.row(key)
    crystal = row.get("parent") or key
    others = [store.row(other) for other in store.versions(crystal) if other != key]
    print_crystal(row, store.settings["temperatures"], others)
    if row["status"] != DONE:
        return 1
    if options.png:
        from hpcbench.report.band_plots import save_bands

        picture = Path(options.png)
        print(save_bands(store.bands(key), picture, title=row["name"], force=options.force))
    else:
        draw_bands(store.bands(key))
    return 0


def _open(given: str | None) -> Store:
    from hpcbench.store.reader import Store

    return Store(store_path(given))
