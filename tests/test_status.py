"""How far a run has come: counted from event logs, rank by rank, while it goes on and after."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

from hpcbench.cli import main
from hpcbench.cli.status import signs_of_life
from hpcbench.events import Progress, ProgressReader, RankProgress
from hpcbench.report.status import SILENCE, state
from hpcbench.store.run_folder import RunFolder

RUN = ["--model", "ase.calculators.emt:EMT", "--dtype", "float64", "--mesh", "4", "4", "4"]
RUN += ["--device", "cpu", "--workers", "0", "--no-report", "--out", "s.h5"]
RUN += ["--supercell", "2", "2", "2"]
LATER = "9" * 20
"""Name of a launch after all others."""


def tell(progress: Progress, rank: int, time: float, event: str, **values: Any) -> None:
    progress.add({"time": time, "rank": rank, "event": event, **values})


def test_each_rank_is_counted() -> None:
    progress = Progress()
    for rank in (0, 1):
        tell(progress, rank, 100.0 + rank, "start", total=9, before=1, host=f"n{rank}", pid=7)
        tell(progress, rank, 105.0, "ready", device="cuda:0", workers=2)
        tell(progress, rank, 105.0, "lease", block=rank, crystals=3, seconds=10.0)
    tell(progress, 0, 110.0, "crystal", id="a", status="done", verdict="stable")
    tell(progress, 0, 120.0, "crystal", id="b", status="failed", verdict="")
    tell(progress, 1, 130.0, "crystal", id="c", status="done", verdict="unstable")
    assert (progress.ranks, progress.ended, progress.under_way) == (2, 0, 3)
    assert (progress.done, progress.failed, progress.stable, progress.finished) == (2, 1, 1, 4)
    first = progress.by_rank[0]
    assert (first.host, first.device, first.done, first.failed) == ("n0", "cuda:0", 1, 1)
    assert (first.under_way, first.rate) == (1, 2 / 20)
    assert "3 under way" in progress.line()
    tell(progress, 0, 131.0, "stages", wall=20.0, seconds={})
    tell(progress, 0, 132.0, "stages", wall=5.0, seconds={})
    tell(progress, 0, 133.0, "end", complete=True)
    assert first.wall == 25.0 and first.ended
    # What a rank that has left had taken is not under way any more.
    assert (progress.ended, progress.under_way) == (1, 2)


def test_what_is_left_is_estimated_by_cost_not_by_number() -> None:
    costs = {"large": 90.0, "b": 5.0, "c": 5.0}
    by_cost, by_number = Progress(costs=costs), Progress()
    for progress in (by_cost, by_number):
        assert progress.seconds_left is None
        tell(progress, 0, 0.0, "start", total=3, before=0)
        tell(progress, 0, 180.0, "crystal", id="large", status="done")
    assert by_cost.seconds_left == pytest.approx(20.0)
    assert by_number.seconds_left == pytest.approx(360.0)


@pytest.mark.parametrize(
    ("rank", "age", "expected"),
    [
        (RankProgress(0), 1.0, "starting"),
        (RankProgress(0, device="cpu"), 1.0, "waiting"),
        (RankProgress(0, device="cpu", leased=3, done=1), 1.0, "working"),
        (RankProgress(0, device="cpu", leased=3, done=3), 1.0, "waiting"),
        (RankProgress(0, device="cpu", leased=3), SILENCE + 1, "silent"),
        (RankProgress(0, device="cpu", leased=3), float("inf"), "dead"),
        (RankProgress(0, device="cpu", ended=True), float("inf"), "ended"),
    ],
)
def test_states(rank: RankProgress, age: float, expected: str) -> None:
    assert state(rank, age) == expected


def test_signs_of_life_are_events_heartbeats_and_processes(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, now = socket.gethostname(), time.time()
    progress = Progress(
        by_rank={
            0: RankProgress(0, here, os.getpid(), latest=now - 50),
            1: RankProgress(1, here, gone.pid, latest=now),
            2: RankProgress(2, "elsewhere", gone.pid, latest=now - 500),
            3: RankProgress(3, "elsewhere", 1, latest=now - 500),
            4: RankProgress(4, here, gone.pid, latest=now - 3, ended=True),
        }
    )
    (tmp_path / "rank-00003").write_text("elsewhere 1")
    ages = signs_of_life(progress, tmp_path)
    assert ages[0] == pytest.approx(50, abs=5)
    assert ages[1] == float("inf")
    assert ages[2] == pytest.approx(500, abs=5)
    assert ages[3] < 5
    assert ages[4] == pytest.approx(3, abs=5)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write("list.extxyz", [bulk("Cu"), bulk("Al"), bulk("Si")])
    assert main(["run", "list.extxyz", *RUN]) == 1  # EMT knows no silicon
    return RunFolder("s.h5")


def test_status_after_a_run_compares_it_with_the_prediction(
    store: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["status", "s.h5", "--ranks"]) == 0
    out = capsys.readouterr().out
    assert "s.h5: 2 done, 2 stable, 1 failed, 0 to compute" in out
    assert "1  potential" in out
    assert "latest launch: 3 crystals in" in out
    assert "of a rank for 2 crystals; single ones within a factor of" in out
    lines = [line.split() for line in out.splitlines()]
    assert next(line for line in lines if line[:1] == ["0"])[2:6] == ["cpu", "ended", "2", "1"]
    assert main(["status", "s.h5", "--exit-code", "--quiet"]) == 1


def test_status_while_a_run_goes_on(store: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for rank, (pid, leased) in enumerate([(os.getpid(), 5), (gone.pid, 4)]):
        events = [
            {"event": "start", "total": 30, "before": 3, "host": socket.gethostname(), "pid": pid},
            {"event": "ready", "device": f"cuda:{rank}", "workers": 1},
            {"event": "lease", "block": rank, "crystals": leased, "seconds": 60.0},
            {"event": "crystal", "id": f"x{rank}", "status": "done", "verdict": "stable"},
        ]
        begin = time.time() - 100
        path = store.events / f"rank-{rank:05d}.jsonl"
        with path.open("a") as stream:
            for number, event in enumerate(events):
                common = {"time": begin + number * 30, "rank": rank, "launch": LATER}
                stream.write(json.dumps({**common, **event}) + "\n")
            stream.write('{"time": 1, "rank"')  # still being written
    capsys.readouterr()
    assert main(["status", "s.h5", "--ranks"]) == 0
    out = capsys.readouterr().out
    assert "under way on 2 ranks (1 working, 1 dead): 5/30 crystals, 2 stable, 7 under way" in out
    assert "80 an hour" in out and "left" in out
    rows = {line.split()[0]: line.split()[2:] for line in out.splitlines() if line.strip()}
    assert rows["0"][:5] == ["cuda:0", "working", "1", "0", "4"]
    assert rows["1"][:5] == ["cuda:1", "dead", "1", "0", "3"]


def test_a_reader_follows_the_launch_that_began_last(tmp_path: Path) -> None:
    start = {"event": "start", "total": 2, "before": 0}
    path = tmp_path / "rank-00000.jsonl"
    reader = ProgressReader(tmp_path, {"a": 10.0, "b": 30.0})

    def append(time: float, launch: str, event: dict[str, Any]) -> None:
        with path.open("a") as stream:
            stream.write(json.dumps({"time": time, "rank": 0, "launch": launch, **event}) + "\n")

    append(1.0, "1", start)
    assert reader.read().launch == "1"
    append(5.0, "2", start)
    append(7.0, "2", {"event": "crystal", "id": "a", "status": "done"})
    progress = reader.read()
    assert (progress.launch, progress.done) == ("2", 1)
    assert progress.seconds_left == pytest.approx(6.0)
