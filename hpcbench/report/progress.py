"""Progress bars on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from hpcbench.events import duration
from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from hpcbench.events import Progress as Counts


def _bar(*more: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        *more,
        console=Console(stderr=True),
        # Crystals take seconds to minutes, so the rate is averaged over a long time.
        speed_estimate_period=600,
    )


@contextlib.contextmanager
def progress_bar() -> Iterator[
    tuple[Callable[[int, int], None], Callable[[Mapping[str, Any]], None]]
]:
    """Show a bar for this process; yield ``start(total, finished)`` and ``advance(row)``."""
    with _bar(TimeRemainingColumn()) as bar:
        task = bar.add_task("crystals", total=None, counts="reading")
        stable = failed = 0

        def start(total: int, finished: int) -> None:
            bar.reset(task, total=total, completed=finished, counts="")

        def advance(row: Mapping[str, Any]) -> None:
            nonlocal stable, failed
            stable += row.get("verdict") == "stable"
            failed += row["status"] != DONE
            bar.update(task, advance=1, counts=_counts(stable, failed))

        yield start, advance


@contextlib.contextmanager
def watch_bar() -> Iterator[Callable[[Counts], None]]:
    """Show a bar for a run of other processes; yield a function that updates its counts."""
    with _bar() as bar:
        task = bar.add_task("crystals", total=None, counts="starting")

        def update(counts: Counts) -> None:
            if counts.total:
                bar.update(
                    task,
                    total=counts.total,
                    completed=counts.finished,
                    counts=_counts(counts.stable, counts.failed) + _left(counts),
                )

        yield update


def _counts(stable: int, failed: int) -> str:
    return f"{stable} stable" + (f", {failed} failed" if failed else "")


def _left(counts: Counts) -> str:
    """Return the crystals in progress and the time left, if the run knows them."""
    text = f", {counts.under_way} under way" if counts.under_way else ""
    left = counts.seconds_left
    return text + (f", {duration(left)} left" if left is not None else "")
