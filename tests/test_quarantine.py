"""Ranks that die, and crystals that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write
from launching import (
    QUICK,
    SLOW,
    in_file,
    mpiexec,
    run,
    run_here,
    slow_potential,
    take,
    wait_for,
)

import hpcbench
from hpcbench.events import read_events
from hpcbench.scheduler.journal import read_journal
from hpcbench.store.schema import DONE, FAILED

POISON = """
import os, signal, sys
from ase.calculators.emt import EMT
class Poisoned(EMT):
    def calculate(self, atoms=None, properties=["energy"], system_changes=["positions"]):
        if "Au" in atoms.symbols:
            {harm}
        super().calculate(atoms, properties, system_changes)
def make():
    return Poisoned()
"""
HARMS = {
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exit": "os._exit(1)",
}


def poisoned(folder: Path, harm: str) -> None:
    """Write a potential that does harm to its process on gold; runs find it in their folder."""
    (folder / "poison.py").write_text(POISON.format(harm=harm))


OTHERS = 4


def crystals(folder: Path, gold: int = 1, others: int = OTHERS) -> Path:
    frames = [bulk("Cu", "fcc", a=3.5 + 0.02 * number) for number in range(others)]
    # Large, so that it comes first, with others under way beside it.
    frames += [bulk("Au", "fcc", a=4.0 + 0.02 * number, cubic=True) for number in range(gold)]
    write(folder / "list.extxyz", frames)
    return folder / "list.extxyz"


def events(out: Path, name: str) -> list[dict]:
    paths = (out.with_name(out.name + ".run") / "events").glob("rank-*.jsonl")
    return [e for path in paths for e in read_events(path)[0] if e["event"] == name]


@pytest.mark.mpi
@pytest.mark.parametrize("harm", ["segfault", pytest.param("exit", marks=pytest.mark.nightly)])
def test_a_crystal_that_kills_its_process_is_set_aside(
    tmp_path: Path,
    harm: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "s.h5"
    arguments = [str(crystals(tmp_path)), "--out", str(out), "--model", "poison:make"]
    poisoned(tmp_path, HARMS[harm])
    result = run(arguments, ranks=2, cwd=tmp_path)
    table = hpcbench.open(out).table
    assert list(table["status"]).count(DONE) == OTHERS, result.stderr
    (gold,) = table.index[table["status"] == FAILED]
    reason = table.loc[gold, "reason"]
    assert reason.startswith("kills its process: computed alone, it ended its process 3 times")
    # One rank died; from then on only isolated workers did, with nothing beside the crystal.
    deaths = events(out, "death")
    assert [death["ids"] for death in deaths] == [[gold]] * 3
    assert len(events(out, "end")) == 1
    # Mended; but nothing is left to do, and it stays set aside.
    (tmp_path / "poison.py").write_text("from ase.calculators.emt import EMT as make\n")
    monkeypatch.delitem(sys.modules, "poison", raising=False)
    monkeypatch.chdir(tmp_path)

    def again(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        return run_here([*arguments, *words]), capfd.readouterr().out

    assert "0 to compute" in again()[1]
    assert "0 to compute" in again("--retry-failed", "too large")[1]
    code, said = again("--retry-failed", "kills its process")
    assert "1 to compute" in said
    assert code == 0
    assert list(hpcbench.open(out).table["status"]) == [DONE] * (OTHERS + 1)


@pytest.mark.parametrize("gold", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_one_process_gets_over_it_with_the_next_command(tmp_path: Path, gold: int) -> None:
    out = tmp_path / "s.h5"
    arguments = [str(crystals(tmp_path, gold)), "--out", str(out), "--model", "poison:make"]
    poisoned(tmp_path, HARMS["segfault"])
    codes = []
    while len(codes) < 4 and 1 not in codes:
        result = run(arguments, cwd=tmp_path)
        codes.append(result.returncode)
        assert result.returncode == 1 or "by signal 11 (Segmentation fault)" in result.stderr
    # Each of two ends the program once, or one time ends both.
    assert codes in ([3, 1], [3] * gold + [1])
    table = hpcbench.open(out).table
    assert sorted(table["status"]) == [DONE] * OTHERS + [FAILED] * gold
    assert table["reason"].str.startswith("kills its process").sum() == gold


def test_suspects_are_computed_alone_however_many_were_under_way(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    arguments = [str(crystals(tmp_path, others=8)), "--out", str(out), "--model", "poison:make"]
    arguments += [*in_file(block=9, commit_interval=0.3), "--workers", "1"]
    # Meanwhile the others are begun.
    poisoned(tmp_path, "import time; time.sleep(1.0); os._exit(1)")
    launches = out.with_name(out.name + ".run") / "launches"
    assert run(arguments, cwd=tmp_path).returncode == 3
    (journal,) = launches.glob("*/journal/rank-00000")
    suspects = list(read_journal(journal).begun)
    assert len(suspects) > 2 and not hpcbench.open(out).table["status"].eq(DONE).any()
    assert run(arguments, cwd=tmp_path).returncode == 1
    journals = launches.glob("*/journal/*.isolated-*")
    begun = [line for path in journals for line in path.read_text().splitlines() if line != "end"]
    table = hpcbench.open(out).table
    (gold,) = table.index[table["status"] == FAILED]
    # Once each, and three times the one that is to blame.
    assert sorted(begun) == sorted(f"alone {key}" for key in [*suspects, gold, gold])


def test_a_potential_that_was_handed_in_kills_the_program_three_times(tmp_path: Path) -> None:
    """No isolated worker can have it: attempts are counted over restarts."""
    script = tmp_path / "program.py"
    # Started from one that has loaded the libraries, and has done nothing else.
    script.write_text(
        "import os, sys\n"
        "import hpcbench, hpcbench.scheduler.launch, hpcbench.engine.tasks, poison\n"
        "from ase.io import read\n"
        "def program():\n"
        "    result = hpcbench.run(read(sys.argv[1], ':'), model=poison.make(), out=sys.argv[2],\n"
        "                          mesh=(4, 4, 4), workers=0, supercell=(2, 2, 2))\n"
        "    print(sorted(result.table['status']), *result.table['reason'], flush=True)\n"
        "    os._exit(0)\n"
        "for _ in range(6):\n"
        "    child = os.fork()\n"
        "    child or program()\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    print('code', code, flush=True)\n"
        "    if code == 0: break\n"
    )
    poisoned(tmp_path, HARMS["segfault"])
    sources = crystals(tmp_path, others=2)
    command = [sys.executable, str(script), str(sources), str(tmp_path / "s.h5")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    codes = [int(line[4:]) for line in result.stdout.splitlines() if line.startswith("code")]
    # In company, then alone three times; then it is set aside.
    assert codes == [-signal.SIGSEGV] * 4 + [0], result.stderr
    assert "'failed'" in result.stdout and "kills its process" in result.stdout
    assert result.stdout.count("'done'") == 2


MANY = 12


@contextlib.contextmanager
def at_work(folder: Path, ranks: int) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run of some ranks that has finished a crystal, and its store."""
    names = ("Cu", "Al", "Ni", "Ag")
    frames = [bulk(names[n % 4], "fcc", a=3.7 + 0.01 * n) for n in range(MANY)]
    write(folder / "many.extxyz", frames)
    slow_potential(folder, 0.05)
    out = folder / "s.h5"
    command = [*mpiexec(ranks), sys.executable, "-m", "hpcbench", "run", "many.extxyz"]
    command += ["--out", str(out), *QUICK, "--no-report", "--model", SLOW]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as process:
        wait_for(out, "crystal", process)
        yield process, out


@pytest.mark.mpi
def test_what_was_under_way_with_a_killed_rank_is_computed_by_the_others(tmp_path: Path) -> None:
    with at_work(tmp_path, 3) as (process, out):
        victim = next(e for e in events(out, "start") if e["rank"] == 1)
        os.kill(victim["pid"], signal.SIGKILL)
        take(tmp_path, 0.0)
        text = process.communicate(timeout=240)[0]
    store = hpcbench.open(out)
    assert store.unfinished_ids() == [], text
    assert list(store.table["status"]) == [DONE] * MANY
    assert len(set(store.ids)) == MANY
    # It held something when it died, and others have taken that over.
    assert any(lease["holder"] > 0 for lease in events(out, "lease"))
    assert events(out, "death") == []
    assert {e["rank"] for e in events(out, "end")} == {0, 2}


@pytest.mark.mpi
def test_a_rank_that_is_asked_to_stop_gives_its_crystals_back(tmp_path: Path) -> None:
    with at_work(tmp_path, 2) as (process, out):
        victim = next(e for e in events(out, "start") if e["rank"] == 0)
        os.kill(victim["pid"], signal.SIGTERM)
        take(tmp_path, 0.0)
        text = process.communicate(timeout=240)[0]
    store = hpcbench.open(out)
    assert store.unfinished_ids() == [], text
    assert list(store.table["status"]) == [DONE] * MANY
    # Nobody is suspected because of it.
    assert all(lease["suspects"] == 0 for lease in events(out, "lease"))


def test_where_no_isolated_worker_can_work_the_rank_takes_the_risk(tmp_path: Path) -> None:
    """As on a GPU that allows one process only."""
    (tmp_path / "single.py").write_text(
        "import os, signal\n"
        "from ase.calculators.emt import EMT\n"
        "def make():\n"
        "    if os.environ.get('ISOLATED'): raise RuntimeError('all GPUs are busy')\n"
        "    os.environ['ISOLATED'] = '1'\n"
        "    return Once()\n"
        "class Once(EMT):\n"
        "    def calculate(self, atoms=None, *arguments, **keywords):\n"
        "        if 'Au' in atoms.symbols and not os.path.exists('killed'):\n"
        "            open('killed', 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().calculate(atoms, *arguments, **keywords)\n"
    )
    out = tmp_path / "s.h5"
    arguments = [str(crystals(tmp_path)), "--out", str(out), "--model", "single:make"]
    assert run(arguments, cwd=tmp_path).returncode == 3
    second = run(arguments, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert list(hpcbench.open(out).table["status"]) == [DONE] * (OTHERS + 1)
    messages = [event["message"] for event in events(out, "warning")]
    assert any("no isolated worker" in message for message in messages)


def test_an_isolated_worker_that_somebody_else_stops_makes_nobody_suspect(tmp_path: Path) -> None:
    """The crystal ends its process once; the isolated worker is asked to stop the first time."""
    harm = (
        "import pathlib, time; here = pathlib.Path(__file__).parent\n"
        "            number = len(list(here.glob('was-*')))\n"
        "            (here / f'was-{number}').touch()\n"
        "            number == 0 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "            number == 1 and (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.5))"
    )
    poisoned(tmp_path, harm)
    sources, out = crystals(tmp_path), tmp_path / "s.h5"
    arguments = [str(sources), "--out", str(out), "--model", "poison:make", "--workers", "0"]
    assert run(arguments, cwd=tmp_path).returncode == 3
    again = run(arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (hpcbench.open(out).table["status"] == DONE).all()
    assert events(out, "death") == []
    assert not any("no isolated worker" in event["message"] for event in events(out, "warning"))
