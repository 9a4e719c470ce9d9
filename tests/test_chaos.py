"""Runs that are harmed at random come to the same end as one that nobody disturbed.

A few kinds of harm are done in every run of the tests, the others once a night, by
``./launch.sh test -m nightly tests/test_chaos.py``. ``benchmarks/chaos.py`` does the same a hundred
times, with all kinds of harm.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos import KINDS, Kind, LaunchSetup, all_ranks, one_rank
from chaos_harness import Reference, Tale, harm, launched, make_reference, metals
from launching import mpiexec

from hpcbench.events import read_events
from hpcbench.store.run_folder import RunFolder

SEED = 20
CRYSTALS, RANKS = 15, 3
# The moment may not come: the run was over before, or has no such process.
ATTEMPTS = 4
# Those of which no other test has ranks: deaths at work, at the worst moments, and of the one that
# has the last word.
EVERY_DAY = (
    "rank 0 killed",
    "killed while writing a segment",
    "killed while consolidating",
)
NIGHTLY = (
    "two ranks killed",
    "everything killed, the launcher too",
    "killed while starting",
    "killed while waiting for the others",
    "rank 0 killed while taking stock",
    "a worker process killed",
    "an isolated worker killed",
    "all ranks asked to stop",
    "stopped and woken while consolidating",
)
# Clocks that jump by hours, forwards and backwards, in every process at other moments.
CLOCK = """
import os, random, time
rng, real, real_ns = random.Random(os.getpid()), time.time, time.time_ns
due, offset = 0.0, 0.0
def jumped():
    global due, offset
    if time.monotonic() > due:
        due, offset = time.monotonic() + rng.uniform(0.2, 2.0), rng.uniform(-8, 8) * 3600
    return offset
time.time = lambda: real() + jumped()
time.time_ns = lambda: real_ns() + int(jumped() * 1e9)
"""
AHEAD = """
import time
real = time.time_ns
time.time_ns = lambda: real() + 3_600 * 10**9
"""
CLOCKS = (
    Kind("one rank stopped and woken, with jumping clocks", one_rank, signal.SIGSTOP),
    Kind("all ranks killed, with jumping clocks", all_ranks),
)


def parameters(daily: Iterable[str], nightly: Iterable[str]) -> list[Any]:
    return [*daily, *(pytest.param(name, marks=pytest.mark.nightly) for name in nightly)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> LaunchSetup:
    folder = tmp_path_factory.mktemp("setup")
    sources = metals(folder / "metals.extxyz", CRYSTALS)
    # What runs learn of their speed is not the user's.
    environment = {"XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return LaunchSetup(sources, tuple(mpiexec(RANKS)), RANKS, environment=environment)


def with_clock(setup: LaunchSetup, folder: Path, clock: str) -> LaunchSetup:
    """The same, with other clocks."""
    (folder / "sitecustomize.py").write_text(clock)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return replace(setup, environment={**setup.environment, "PYTHONPATH": path})


@pytest.fixture(scope="module")
def reference(setup: LaunchSetup, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(setup, tmp_path_factory.mktemp("reference"))


def struck(kind: Kind, setup: LaunchSetup, reference: Reference, folder: Path) -> Tale:
    """A run that was really harmed."""
    for attempt in range(ATTEMPTS):
        place = folder / str(attempt)
        place.mkdir(parents=True)
        tale = harm(kind, setup, reference, place, SEED + attempt)
        if tale.struck or tale.problems:
            break
    return tale


@pytest.fixture(scope="module")
def tales(
    setup: LaunchSetup,
    reference: Reference,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, Future[Tale]]]:
    """Those that are asked for, two at a time: much of a run's time is waiting."""
    folder = tmp_path_factory.mktemp("chaos")
    clocks = with_clock(setup, folder, CLOCK)
    here = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["name"] for item in here if hasattr(item, "callspec")}
    chosen = {kind: setup for kind in KINDS if kind.name in wanted}
    chosen |= {kind: clocks for kind in CLOCKS if kind.name in wanted}
    with ThreadPoolExecutor(2) as pool:
        yield {
            kind.name: pool.submit(struck, kind, where, reference, folder / str(number))
            for number, (kind, where) in enumerate(chosen.items())
        }
        pool.shutdown(cancel_futures=True)


def require_unharmed(tale: Tale, setup: LaunchSetup) -> None:
    told = json.dumps(tale.as_dict(), indent=1)
    assert tale.struck, told
    assert tale.problems == [], told
    assert tale.set_aside == 0, told
    assert tale.left == [], told
    # The launch that was harmed comes to an end, and one more brings the run to its own.
    assert tale.launches <= 2, told
    # Nothing is computed again but what was under way with the victims.
    assert tale.begun_again <= tale.held, told
    assert tale.finished_again <= tale.begun_again, told


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(EVERY_DAY, NIGHTLY))
def test_a_run_that_was_harmed_ends_as_if_nothing_had_happened(
    name: str, tales: dict[str, Future[Tale]], setup: LaunchSetup
) -> None:
    tale = tales[name].result()
    require_unharmed(tale, setup)
    # With somebody left to do it, the same command is not needed.
    if name in ("rank 0 killed", "two ranks killed", "a worker process killed"):
        assert tale.survivors_finished, tale


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("name", parameters([CLOCKS[0].name], [kind.name for kind in CLOCKS[1:]]))
def test_clocks_that_jump_do_not_matter(
    name: str, tales: dict[str, Future[Tale]], setup: LaunchSetup
) -> None:
    require_unharmed(tales[name].result(), setup)


def test_a_launch_after_the_clock_was_set_back_is_the_latest(tmp_path: Path) -> None:
    """Or nobody would see its progress."""
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    now = LaunchSetup(metals(tmp_path / "one.extxyz", 1), (), 1, environment=environment)
    out = tmp_path / "s.h5"
    for one in (with_clock(now, tmp_path, AHEAD), now):
        with launched(one, out, tmp_path / "log") as launch:
            assert launch.wait(240)
    events, _ = read_events(RunFolder(out).events / "rank-00000.jsonl")
    first, second = dict.fromkeys(event["launch"] for event in events)
    assert first < second
