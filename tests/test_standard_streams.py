"""Standard streams that are closed, full, or read by nobody: the work is done all the same."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import hpcbench

RUN = [
    *(sys.executable, "-m", "hpcbench", "run", "copper.vasp", "--model", "ase.calculators.emt:EMT"),
    *("--supercell", "2", "2", "2", "--mesh", "4", "4", "4", "--band-points", "11", "--no-report"),
    *("--workers", "0", "--out", "s.h5"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "copper.vasp", bulk("Cu"), format="vasp")
    return tmp_path


def result_of(folder: Path) -> str:
    (row,) = hpcbench.open(folder / "s.h5").table["verdict"]
    return str(row)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(folder: Path, closed: str) -> None:
    """Files of the run must not get their numbers."""
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *RUN],
        cwd=folder, capture_output=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert result_of(folder) == "stable"


def test_a_reader_that_goes_away_does_not_end_a_run(folder: Path) -> None:
    """With exit code 0 and the work undone nobody would know."""
    process = subprocess.Popen(
        RUN, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert said.count("output cannot be written (Broken pipe): going on") == 1
    assert result_of(folder) == "stable"


def test_a_reader_that_goes_away_ends_a_command_that_only_shows(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcbench", "run", "--help"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0 and said == b""


@pytest.mark.parametrize("number", [40, 12])
def test_few_open_files_are_enough_or_are_named(folder: Path, number: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))

    ended = subprocess.run(RUN, cwd=folder, capture_output=True, text=True, preexec_fn=limit)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0 or "Too many open files" in ended.stderr


@pytest.mark.parametrize(
    "left",
    [
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "117"},
    ],
)
def test_a_rank_that_is_left_over_does_not_make_a_refusal_silent(
    folder: Path, left: dict[str, str]
) -> None:
    ended = subprocess.run(RUN, cwd=folder, env=os.environ | left, capture_output=True, text=True)
    assert ended.returncode == 3
    assert "left over" in ended.stderr


def test_of_ranks_that_are_refused_one_on_each_host_says_it(folder: Path) -> None:
    size = {"OMPI_COMM_WORLD_SIZE": "4"}
    processes = [
        subprocess.Popen(
            RUN, cwd=folder, stderr=subprocess.PIPE, text=True,
            env=os.environ | size | {"OMPI_COMM_WORLD_RANK": str(rank)},
        )
        for rank in range(4)
    ]  # fmt: skip
    said = "".join(process.communicate()[1] for process in processes)
    assert said.count("MPI sees a world of 1") == 1
    assert {process.returncode for process in processes} == {3}


def test_a_list_that_nobody_may_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("no crystal")
    words = [word.replace("copper.vasp", "bad.cif") for word in RUN]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "no readable crystal" in ended.stderr
    assert os.listdir(tmp_path) == ["bad.cif"]
