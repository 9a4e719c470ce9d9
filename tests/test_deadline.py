"""Runs whose time is limited."""

from __future__ import annotations

import importlib
import os
import signal
import stat
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from launching import EMT, in_file, run_here

import hpcbench
from hpcbench.config_loading import load_config
from hpcbench.engine.stopping import Stop
from hpcbench.errors import ConfigError
from hpcbench.events import read_events
from hpcbench.planning.costs import CostModel
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.scheduler import launch_steps
from hpcbench.scheduler.deadline import (
    LARGEST_SHARE,
    RESERVE,
    past_end,
    slurm_seconds_left,
    time_left,
)
from hpcbench.scheduler.journal import read_journal
from hpcbench.store.schema import DONE


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-00:00:01", 172801),
        (5, 300),
    ],
)
def test_times_are_as_sbatch_takes_them(text: object, seconds: float) -> None:
    assert load_config({"time_limit": text}, environment={}).time_limit == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "0", "1.5", "1-", "1:-2"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="time_limit expects a time"):
        load_config({"time_limit": text}, environment={})


def for_work(*arguments: Any) -> float:
    left = time_left(*arguments)
    assert left is not None
    return left.for_work


def test_the_nearer_end_counts_less_a_reserve() -> None:
    assert time_left(None, 10.0, {}) is None
    assert for_work(100_000.0, 10.0, {}) == pytest.approx(100_000 - 10 - RESERVE)
    assert for_work(600.0, 10.0, {}) == pytest.approx(590 - LARGEST_SHARE * 600)
    job = {"SLURM_JOB_END_TIME": str(int(time.time()) + 50_000)}
    assert for_work(None, 10.0, job) == pytest.approx(50_000 - RESERVE, abs=3)
    assert for_work(100_000.0, 10.0, job) == pytest.approx(50_000 - RESERVE, abs=3)
    assert for_work(30_000.0, 10.0, job) == pytest.approx(29_990 - RESERVE, abs=3)
    assert past_end(job) == ""


def test_the_end_of_a_job_that_is_over_is_named_and_passed_over() -> None:
    job = {"SLURM_JOB_END_TIME": str(int(time.time()) - 10), "SLURM_JOB_ID": "17"}
    assert "unset SLURM_JOB_END_TIME" in past_end(job)
    assert time_left(None, 10.0, job) is None
    assert for_work(600.0, 10.0, job) == pytest.approx(590 - LARGEST_SHARE * 600)


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Stands for Slurm's: prints a text, writes down what it was asked."""

    def make(text: str, code: int = 0) -> Path:
        script = tmp_path / "squeue"
        script.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho "{text}"\nexit {code}\n')
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return make


def test_squeue_is_asked_where_slurm_does_not_tell_the_end(squeue) -> None:  # type: ignore[no-untyped-def]
    end = datetime.fromtimestamp(time.time() + 7200).isoformat(timespec="seconds")
    asked = squeue(end)
    left = slurm_seconds_left({"SLURM_JOB_ID": "17"})
    assert left == pytest.approx(7200, abs=5)
    assert asked.read_text() == "--noheader --jobs 17 --format %e\n"
    # Nobody is asked outside of a job, or where the end is known.
    assert slurm_seconds_left({}) is None
    assert slurm_seconds_left({"SLURM_JOB_ID": "17", "SLURM_JOB_END_TIME": "1"}) is not None
    assert asked.read_text().count("\n") == 1


@pytest.mark.parametrize(("text", "code"), [("N/A", 0), ("", 0), ("Unable to contact", 1)])
def test_a_job_without_an_end_has_no_limit(squeue, text: str, code: int) -> None:  # type: ignore[no-untyped-def]
    squeue(text, code)
    assert slurm_seconds_left({"SLURM_JOB_ID": "17"}) is None


class Slow(OneByOne):
    """EMT that takes a minute of a made-up clock for each forward pass."""

    def __init__(self, clock: list[float]) -> None:
        self._sound = hpcbench.load_potential(EMT, dtype="float64")
        self.info = self._sound.info
        self._clock = clock

    def evaluate(self, structures, *, stress=False):  # type: ignore[no-untyped-def]
        self._clock[0] += 60.0 * len(structures)
        return self._sound.evaluate(structures, stress=stress)


def test_no_block_is_begun_that_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a made-up clock: crystals of about 6 minutes, and an hour less the reserve."""
    clock, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + clock[0])
    rates = CostModel(0.0, 0.0, 360.0, 0.0, 1.0)
    monkeypatch.setattr(launch_steps, "load_cost_model", lambda *_: rates)
    crystals = [bulk("Cu", "fcc", a=3.55 + 0.01 * number) for number in range(12)]
    out = tmp_path / "s.h5"
    settings = {
        "mesh": (4, 4, 4),
        "supercell": (2, 2, 2),
        "workers": 0,
        "block": 1,
        "commit_interval": 0,
    }
    result = hpcbench.run(crystals, model=Slow(clock), out=out, time_limit="1:00:00", **settings)
    done = set(result.table.index[result.table["status"] == DONE])
    assert 2 <= len(done) < 12
    assert clock[0] < 3600 - RESERVE
    # Less than a crystal's time is left, or not much more: it used what it had.
    assert clock[0] > 3600 - RESERVE - 3 * 360
    (journal,) = (tmp_path / "s.h5.run").glob("launches/*/journal/rank-00000")
    assert set(read_journal(journal).begun) == done
    again = hpcbench.run(crystals, model=Slow(clock), out=out, **settings)
    assert list(again.table["status"]) == [DONE] * 12


def test_a_crystal_that_takes_longer_than_the_limit_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metals: list[Atoms]
) -> None:
    monkeypatch.setattr(
        launch_steps, "load_cost_model", lambda *_: CostModel(0.0, 0.0, 1e6, 0.0, 1.0)
    )
    result = hpcbench.run(metals[:1], model=EMT, out=tmp_path / "s.h5", time_limit="60")
    assert len(result.table) == 0


def test_a_store_for_which_there_is_no_time_is_left_in_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that is killed while it writes a large store is not requeued."""
    clock, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + clock[0])
    monkeypatch.setattr(
        launch_steps, "load_cost_model", lambda *_: CostModel(0, 0, 360.0, 0.0, 1.0)
    )
    monkeypatch.setattr("hpcbench.scheduler.shutdown.CONSOLIDATED_A_SECOND", 1.0)
    crystals = [bulk("Cu", "fcc", a=3.55 + 0.01 * number) for number in range(10)]
    out = tmp_path / "s.h5"
    settings: dict[str, Any] = {"mesh": (4, 4, 4), "workers": 0, "block": 1, "commit_interval": 0}
    result = hpcbench.run(crystals, model=Slow(clock), out=out, time_limit="30:00", **settings)
    done = set(result.table.index)
    assert 0 < len(done) < 10
    assert not out.exists()
    assert "results are safe beside it" in capsys.readouterr().err
    assert list((tmp_path / "s.h5.run" / "segments").glob("segment-*"))
    # Where nothing kills it there is time.
    again = hpcbench.run(crystals, model=Slow(clock), out=out, **settings)
    assert out.exists()
    assert done < set(again.table.index)
    assert list(again.table["status"]) == [DONE] * 10


def test_after_sigterm_there_is_less_time_than_slurm_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = Stop()
    stop.install()
    stop.limit(1000.0, 100.0)
    assert 1090 < stop.seconds_to_the_kill <= 1100
    signal.raise_signal(signal.SIGUSR2)
    assert stop.seconds_to_the_kill > 1090
    signal.raise_signal(signal.SIGTERM)
    assert 0 < stop.seconds_to_the_kill <= 20


def test_a_run_ends_in_its_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the command line, with a made-up clock."""
    clock, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + clock[0])
    # Of which the run's own prediction knows nothing.
    (tmp_path / "slow.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "clock = [0.0]\n"
        "class Slow(EMT):\n"
        "    def calculate(self, *arguments, **keywords):\n"
        "        clock[0] += 4.0\n"
        "        super().calculate(*arguments, **keywords)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow", raising=False)
    monkeypatch.setattr(importlib.import_module("slow"), "clock", clock)
    write(tmp_path / "list.extxyz", [bulk("Cu", a=3.5 + 0.01 * n) for n in range(12)])
    out = tmp_path / "s.h5"
    arguments = [str(tmp_path / "list.extxyz"), "--out", str(out), "--model", "slow:Slow"]
    arguments += in_file(block=1, commit_interval=0)
    assert run_here([*arguments, "--time-limit", "0:15:00"]) == 75
    assert clock[0] < 900
    assert "the same command goes on from here" in capfd.readouterr().err
    done = len(hpcbench.open(out))
    assert 0 < done < 12
    (events,) = (tmp_path / "s.h5.run" / "events").glob("rank-*.jsonl")
    assert [e["complete"] for e in read_events(events)[0] if e["event"] == "end"] == [False]
    assert run_here(arguments) == 0
    assert f"{12 - done} to compute" in capfd.readouterr().out
    # Being stopped by the clock is no reason for suspicion.
    leases = [e for e in read_events(events)[0] if e["event"] == "lease"]
    assert all(lease["suspects"] == 0 for lease in leases)
