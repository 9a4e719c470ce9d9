"""The progress of a launch in the terminal: in total, and for each rank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from hpcbench.counting import counted
from hpcbench.events import duration
from hpcbench.report.terminal import console

if TYPE_CHECKING:
    from hpcbench.events import Progress, RankProgress
    from hpcbench.planning.calibration import Accuracy

# Seconds without any sign of life, heartbeats included, after which a rank counts as silent: some
# heartbeat intervals, and the delay with which shared file systems show them.
SILENCE = 90.0
STATES = ("starting", "working", "waiting", "ended", "silent", "dead")
STYLES = {"silent": "yellow", "dead": "red"}


def state(rank: RankProgress, age: float) -> str:
    """Return the state of a rank, one of ``STATES``.

    Parameters
    ----------
    rank : RankProgress
        From the event logs.
    age : float
        Seconds since its last sign of life; infinity if it is dead.
    """
    if rank.ended:
        return "ended"
    if age == math.inf:
        return "dead"
    if age > SILENCE:
        return "silent"
    if not rank.device:
        return "starting"
    return "working" if rank.under_way else "waiting"


def print_launch(progress: Progress, ages: Mapping[int, float], accuracy: Accuracy | None) -> None:
    """Print the progress of the latest launch, or its duration.

    Parameters
    ----------
    progress : Progress
        From the event logs.
    ages : mapping
        Seconds since the last sign of life of each rank.
    accuracy : Accuracy or None
        The prediction compared with the result, for ranks that have done their work.
    """
    out = console()
    states = Counter(state(rank, ages[number]) for number, rank in progress.by_rank.items())
    ranks = ", ".join(f"{states[name]} {name}" for name in STATES if states[name])
    number = f"{counted(progress.ranks, 'rank')}"
    if states["dead"] and states["dead"] + states["ended"] == progress.ranks:
        finished = progress.done + progress.failed
        out.print(
            Text(
                f"killed on {number}: it had finished {counted(finished, 'crystal')}; those "
                f"that it had not committed are computed again by the same command"
            )
        )
    elif progress.ended < progress.ranks:
        out.print(Text(f"under way on {number} ({ranks}): {progress.line()}"))
        if states["silent"] or states["dead"]:
            out.print(
                Text(
                    "the other ranks take over the crystals of a dead one; if none is left, give "
                    "the same command again"
                )
            )
    else:
        finished = progress.done + progress.failed
        out.print(
            Text(
                f"latest launch: {counted(finished, 'crystal')} in "
                f"{duration(progress.latest - progress.started)} on {number}"
            )
        )
    if accuracy is not None:
        out.print(
            Text(
                f"predicted {_ranks_time(accuracy.predicted)}, took {_ranks_time(accuracy.actual)} "
                f"for {counted(accuracy.crystals, 'crystal')}; single ones within a factor of "
                f"{accuracy.spread:.1f}, typically"
            )
        )


def print_ranks(progress: Progress, ages: Mapping[int, float]) -> None:
    """Print a line for each rank.

    Parameters
    ----------
    progress : Progress
        From the event logs.
    ages : mapping
        Seconds since the last sign of life of each rank.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("rank", "host", "device", "state", "done", "failed", "under way", "an hour"):
        justify = "left" if title in ("host", "device", "state") else "right"
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    table.add_column("last seen", justify="right")
    for number, rank in sorted(progress.by_rank.items()):
        age = ages[number]
        how = state(rank, age)
        table.add_row(
            str(number),
            Text(rank.host),
            Text(rank.device),
            Text(how, STYLES.get(how, "")),
            str(rank.done),
            str(rank.failed),
            "" if rank.ended else str(rank.under_way),
            f"{3600 * rank.rate:.0f}",
            "" if rank.ended or age == math.inf else f"{duration(max(0.0, age))} ago",
        )
    console().print(table)


def _ranks_time(seconds: float) -> str:
    return f"{duration(seconds)} of a rank"
