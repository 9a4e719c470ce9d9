"""The doctor: survives what is broken, says what to do, and looks at all ranks together."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import mpiexec

from hpcbench.cli import doctor_checks, doctor_ranks
from hpcbench.cli.findings import BAD, OK, Finding, show, split, survive
from hpcbench.errors import PotentialError

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The doctor's exit code and what it prints; what takes long is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(doctor_checks, "check_forces", lambda world, device: [])
    monkeypatch.setattr(
        doctor_checks, "_try_out", lambda *words: Finding("ok", "launcher", "tried")
    )

    def command(store: str | None = None) -> tuple[int, str]:
        code = doctor_checks.run(argparse.Namespace(store=store))
        printed = capsys.readouterr()
        assert printed.err == ""
        return code, " ".join(printed.out.split())

    return command


def test_a_sound_machine(ask: Ask, tmp_path: Path) -> None:
    code, said = ask(str(tmp_path / "not" / "yet" / "there.h5"))
    assert (code, "BAD" in said) == (0, False)
    for words in ("Python 3.", "numpy", "mpi4py", "mattersim-demo", f"store {tmp_path} can be"):
        assert words in said
    assert list(tmp_path.iterdir()) == [], "the doctor leaves nothing behind"


def test_a_check_that_crashes_does_not_end_the_doctor(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr("hpcbench.potentials.registry.listed_potentials", broken)
    code, said = ask()
    assert code == 3
    assert "BAD potentials OSError: stale file handle" in said
    assert "can be written" in said


def test_a_torch_that_is_not_safe_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcbench.cli import doctor_checks

    for version, states in [("2.9.1+cu128", [OK, BAD]), ("2.10.0", [OK]), ("3.0", [OK])]:
        monkeypatch.setattr(doctor_checks, "installed", lambda package, version=version: version)
        found = [*doctor_checks._packages()]
        assert [finding.state for finding in found] == states
    assert found[-1].advice == ""


def test_what_was_found_before_a_crash_stays() -> None:
    def check():  # type: ignore[no-untyped-def]
        yield Finding("ok", "x", "fine")
        raise ValueError("odd")

    assert survive("x", check) == [
        Finding("ok", "x", "fine"),
        Finding(BAD, "x", "ValueError: odd"),
    ]


def test_missing_weights_are_a_note_with_a_command(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said = ask()
    assert code == 0
    assert "python -m hpcbench models fetch mattersim-v1.0.0-5M" in said
    Path("hpcbench.toml").write_text('sources = ["x"]\nmodel = "gone.pth"\n')
    code, said = ask()
    assert code == 3
    assert "BAD potentials --model gone.pth: no such file" in said


def test_wrong_settings_of_the_folder_are_a_finding(ask: Ask) -> None:
    Path("hpcbench.toml").write_text("supercel = [2, 2, 2]\n")
    code, said = ask()
    assert code == 3
    assert "BAD settings" in said and "did you mean 'supercell'" in said
    assert "can be written" in said


def test_threads_that_get_in_each_others_way(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    code, said = ask()
    assert (code, "unset OMP_NUM_THREADS" in said) == (0, True)


def test_a_folder_that_cannot_be_written(ask: Ask, tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be root, to mount file systems")
    try:
        code, said = ask(str(tmp_path / "s.h5"))
        assert code == 3
        assert f"BAD store cannot write results to {tmp_path} on" in said
        assert f"No space left on device -> make room (`df -h {tmp_path}`" in said
        assert list(tmp_path.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        code, said = ask(str(tmp_path / "s.h5"))
        assert code == 3
        assert f"{tmp_path} cannot be written: Read-only file system -> give --out" in said
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_without_rich_the_findings_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.table", None)
    show([Finding(BAD, "packages", "missing: rich", "./launch.sh setup")])
    assert capsys.readouterr().out.split() == (
        ["BAD", "packages", "missing:", "rich", "->", "./launch.sh", "setup"]
    )


def test_a_message_is_split_into_finding_and_advice() -> None:
    assert split("a is so: do b: c", ": ") == ("a is so", "do b: c")
    assert split("a:\n  x\n  y\ndo b", "; ") == ("a:\n  x\n  y", "do b")
    assert split("only this", "; ") == ("only this", "")


def test_forces_that_are_wrong_on_any_rank_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcbench.scheduler.world import SingleProcess

    def wrong(potential: object) -> float:
        raise PotentialError("forces differ")

    monkeypatch.setattr("hpcbench.potentials.selftest.self_test", wrong)
    (finding,) = doctor_ranks.check_forces(SingleProcess(), "cpu")
    assert finding.state == BAD
    assert "PotentialError: forces differ" in finding.text


def hpcbench_doctor(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "SLURM"))}
    return subprocess.run(
        [*words, sys.executable, "-m", "hpcbench", "doctor"],
        env=plain | variables, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def test_processes_that_do_not_find_each_other(tmp_path: Path) -> None:
    first = hpcbench_doctor([], SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0")
    assert first.returncode == 3
    assert "BAD   ranks       srun started 4 processes, but MPI sees a world of 1" in first.stdout
    assert "-> tell srun which interface" in first.stdout
    assert "self-test" in first.stdout
    other = hpcbench_doctor([], SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="2")
    assert (other.returncode, other.stdout, other.stderr) == (3, "", "")


@pytest.mark.mpi
@pytest.mark.parametrize("harmed", [False, True])
def test_ranks_are_examined_together_and_one_table_is_printed(
    harmed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "fake" / "numpy-1.99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.99.0\n")
    script = tmp_path / "one.sh"
    script.write_text(
        f'#!/bin/sh\n[ "$PMI_RANK$HARM" != 1yes ] || export PYTHONPATH={info.parent}:$PYTHONPATH\n'
        'exec "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    result = hpcbench_doctor([*mpiexec(2), str(script)], HARM="yes" if harmed else "no")
    assert result.stderr == ""
    assert result.stdout.count("finding, and what to do") == 1
    assert "(ranks 0-1)" in result.stdout
    assert "can be written from all 2 ranks" in result.stdout
    assert ("numpy 1.99.0" in result.stdout) == harmed
    assert ("BAD " in result.stdout) == harmed
    assert result.returncode == (3 if harmed else 0)
