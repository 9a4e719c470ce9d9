"""The time that a run has left."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

# Seconds before the end that are reserved for the remaining analyses, the last commit and the
# store; no crystal is computed in them.
RESERVE = 120.0
# ... but not more than this share of a short job.
LARGEST_SHARE = 0.1
SQUEUE_PATIENCE = 20.0


@dataclass(frozen=True)
class TimeLeft:
    """Seconds from now on in which crystals may be computed, and the reserve after them."""

    for_work: float
    reserve: float


def time_left(
    time_limit: float | None, spent: float, environment: Mapping[str, str] | None = None
) -> TimeLeft | None:
    """Return the time that is left; ``None`` if there is no limit.

    It is the user's limit or the end of the Slurm job, whichever comes first, less a reserve.

    Parameters
    ----------
    time_limit : float or None
        ``--time-limit`` in seconds, from the start of this process.
    spent : float
        Seconds since that start.
    environment : mapping, optional
        Variables of the job; ``os.environ`` by default.
    """
    ends = [] if time_limit is None else [time_limit - spent]
    job = slurm_seconds_left(os.environ if environment is None else environment)
    # An end in the past is that of another job, see ``past_end``, and must not stop this run.
    if job is not None and job > 0.0:
        ends.append(job)
    if not ends:
        return None
    left = min(ends)
    reserve = min(RESERVE, LARGEST_SHARE * (left + spent))
    return TimeLeft(left - reserve, reserve)


def past_end(environment: Mapping[str, str] | None = None) -> str:
    """Return a note if the environment names the end of a job that is over; else ""."""
    end = (os.environ if environment is None else environment).get("SLURM_JOB_END_TIME", "")
    if not end.isdigit() or int(end) > time.time():
        return ""
    when = f"{datetime.fromtimestamp(int(end)):%Y-%m-%d %H:%M}"
    return (
        f"SLURM_JOB_END_TIME ({when}) is in the past, and ignored; if it is left over from another "
        f"job: unset SLURM_JOB_END_TIME"
    )


def slurm_seconds_left(environment: Mapping[str, str]) -> float | None:
    """Return the seconds to the end of the Slurm job; ``None`` without a job or without an end.

    Not all versions of Slurm set ``SLURM_JOB_END_TIME`` (22.05 does not): then squeue is called.
    Only one rank should call this, because squeue is a burden on the controller.
    """
    end = environment.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        return int(end) - time.time()
    job = environment.get("SLURM_JOB_ID", "")
    if not job:
        return None
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%e"],
            capture_output=True,
            text=True,
            check=True,
            timeout=SQUEUE_PATIENCE,
        )
        # One line for each task of a job array; local time, as is the clock here.
        return datetime.fromisoformat(answer.stdout.split()[0]).timestamp() - time.time()
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        # No squeue here, a busy controller, or a job without an end (N/A, NONE).
        return None
