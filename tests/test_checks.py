"""Start-up checks: harm done for real to one rank, folder or disk, and what the ranks say of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from launching import mpiexec

import hpcbench
from hpcbench.errors import LaunchError, PotentialError, StoreError
from hpcbench.potentials import fetch, weights
from hpcbench.scheduler import checks, disk
from hpcbench.scheduler.checks import Facts, check_world, compare_clocks, examine
from hpcbench.scheduler.devices import RankDevice, examine_devices
from hpcbench.scheduler.shared_weights import provide_weights
from hpcbench.scheduler.world import (
    Launcher,
    SingleProcess,
    find_launcher,
    join_world,
    lonely,
    rank_by_launcher,
)

NAMESPACES = ["unshare", "--mount", "--uts"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
# Each rank on a node of its own, as far as names and mounts go; harm comes to rank 1.
NODE = 'hostname node$PMI_RANK; if [ $PMI_RANK = 1 ]; then eval "$HARM"; fi; exec "$@"'
RANK = """
import os, sys, time
from pathlib import Path
from hpcbench.errors import HpcbenchError
from hpcbench.scheduler import disk
from hpcbench.scheduler.checks import check_world
from hpcbench.scheduler import shared_weights
from hpcbench.scheduler.world import join_world
disk.PATIENCE = shared_weights.PATIENCE = 0.5
world = join_world()
shift = -75.0 if world.rank == 1 and os.environ.get("LATE") else 0.0
def fetched(name, folder):
    with open("fetches", "a") as stream: stream.write(f"{world.rank}\\n")
    if os.environ.get("OFFLINE"): raise ConnectionError("no route")
    (folder / name).write_bytes(Path(os.environ["WEIGHTS"]).read_bytes())
model = os.environ.get("MODEL", "")
try:
    if model.startswith("mattersim-v"):
        if world.rank == 0:
            from hpcbench.potentials import fetch
            fetch.download_mattersim = fetched
        shared_weights.provide_weights(model, world, print)
    folder = Path("out")
    notes = check_world(world, folder, model, clock=lambda: time.time() + shift)
    said = "; ".join(notes) or "fine"
except HpcbenchError as error:
    said = f"{type(error).__name__}: {error}"
Path(f"said-{world.rank}").write_text(said)
world.leave()
"""


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Check the ranks of some nodes, of which node1 is harmed; what they all say."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces: to be root, or user namespaces (unshare)")
    monkeypatch.chdir(tmp_path)
    for name in ("out", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "rank.py").write_text(RANK)

    def check(harm: str = "true", ranks: int = 2, **environment: str) -> str:
        result = subprocess.run(
            [*mpiexec(ranks), *NAMESPACES, "sh", "-c", NODE, "node", sys.executable, "rank.py"],
            env=os.environ
            | {"HARM": harm, "HOME": str(tmp_path / "home"), "WEIGHTS": str(weights.DEMO_WEIGHTS)}
            | environment,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        said = {(tmp_path / f"said-{rank}").read_text() for rank in range(ranks)}
        assert len(said) == 1, "the ranks do not agree"
        assert list((tmp_path / "out").iterdir()) == [], "something was left behind"
        return said.pop()

    return check


@pytest.mark.mpi
def test_ranks_that_fit_together_have_nothing_to_say(nodes: Callable[..., str]) -> None:
    assert nodes() == "fine"


@pytest.mark.mpi
def test_one_rank_with_other_packages_is_refused_with_the_map(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    fake_version(tmp_path / "fake")
    said = nodes(f"export PYTHONPATH={tmp_path}/fake:$PYTHONPATH", ranks=3)
    assert said.startswith("LaunchError: the ranks run different software")
    assert "numpy 1.99.0: node1 (rank 1)\n" in said
    assert ": node0 (rank 0), node2 (rank 2)\n" in said
    assert said.count("\n") == 3, "what does not differ is not listed"


@pytest.mark.mpi
def test_a_stale_copy_of_the_code_on_one_node_is_refused(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    shutil.copytree(
        Path(hpcbench.__file__).parent,
        tmp_path / "copy" / "hpcbench",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    elsewhere = f"export PYTHONPATH={tmp_path}/copy"
    assert nodes(elsewhere) == "fine"  # each node may have its own copy
    with (tmp_path / "copy" / "hpcbench" / "crystal.py").open("a") as stream:
        stream.write("# changed\n")
    said = nodes(elsewhere)
    assert "hpcbench with the code" in said
    assert "node1 (rank 1)" in said


@pytest.mark.mpi
def test_a_folder_that_one_node_cannot_write_is_refused(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = nodes(f"mount --bind {out} {out} && mount -o remount,ro,bind {out}")
    assert said.startswith(f"StoreError: cannot write to {out}:\n")
    assert "Read-only file system: node1 (rank 1)\ngive --out" in said


@pytest.mark.mpi
def test_a_folder_that_each_node_has_for_itself_is_refused(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    said = nodes(f"mount -t tmpfs none {tmp_path}/out")
    assert "StoreError: the run's folder is not the same for all ranks: node0 (rank 0)" in said
    assert f"  {tmp_path}/out: node1 (rank 1)\n" in said
    assert "a file system that all nodes share" in said


@pytest.mark.mpi
def test_clocks_that_disagree_are_a_note(nodes: Callable[..., str]) -> None:
    said = nodes(ranks=3, LATE="yes")
    assert said.startswith("clocks disagree: node1 (rank 1) 75 s behind. Results do not depend")


PUBLISHED = "mattersim-v1.0.0-1M"
PLACE = Path(".local/mattersim/pretrained_models") / f"{PUBLISHED}.pth"


@pytest.mark.mpi
def test_cold_weights_are_fetched_by_one_rank_for_a_shared_home(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    assert nodes(MODEL=PUBLISHED) == "fine"
    assert (tmp_path / "fetches").read_text() == "0\n"
    assert os.listdir((tmp_path / "home" / PLACE).parent) == [PLACE.name]


@pytest.mark.mpi
def test_a_node_with_a_home_of_its_own_is_sent_the_same_weights(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    own = f"export HOME={tmp_path}/other"
    assert nodes(own, MODEL=PUBLISHED) == "fine"
    assert (tmp_path / "fetches").read_text() == "0\n"
    there = tmp_path / "other" / PLACE
    assert weights.sha256_of(there) == weights.sha256_of(weights.DEMO_WEIGHTS)
    # A stale file there is told, not replaced: nobody knows which one is meant.
    there.write_bytes(b"old")
    said = nodes(own, MODEL=PUBLISHED)
    assert said.startswith("PotentialError: the hosts have different weights:\n")
    assert f"  SHA-256 {weights.sha256_of(there)[:16]}: node1 (rank 1)\n" in said


@pytest.mark.mpi
def test_weights_that_cannot_be_fetched_or_kept_are_told_by_all(
    nodes: Callable[..., str], tmp_path: Path
) -> None:
    said = nodes(MODEL=PUBLISHED, OFFLINE="yes")
    assert "rank 0 on node0: the weights of mattersim-v1.0.0-1M are missing" in said
    assert "on the login node) run `python -m hpcbench models fetch" in said
    (tmp_path / "home" / PLACE).write_bytes(weights.DEMO_WEIGHTS.read_bytes())
    (tmp_path / "file").write_text("no folder")
    said = nodes(f"export HOME={tmp_path}/file", MODEL=PUBLISHED)
    assert f"rank 1 on node1: weights cannot be kept in {tmp_path}/file" in said
    file = tmp_path / "home" / "own.pth"
    file.write_bytes(b"weights")
    said = nodes(f"mount -t tmpfs none {file.parent}", MODEL=str(file))
    assert "none: No such file or directory: node1 (rank 1)\n" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be root, to mount a small file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_told_before_the_work(small_disk: Path) -> None:
    with pytest.raises(StoreError, match=r"No space left on device; make room \(`df -h"):
        check_world(SingleProcess(), small_disk, "")
    assert os.listdir(small_disk) == []


def test_less_room_than_the_results_need_is_a_note(tmp_path: Path) -> None:
    assert disk.compare_room(tmp_path, 1.0) == ""
    assert "will take about 2e+06 TB" in disk.compare_room(tmp_path, 2e18)
    assert [disk.size(n) for n in (1e3, 4.2e6, 8e10, 2e12)] == ["1 kB", "4.2 MB", "80 GB", "2 TB"]


def test_a_single_process_is_checked_in_no_time(tmp_path: Path) -> None:
    start = time.monotonic()
    assert check_world(SingleProcess(), tmp_path, "mattersim-demo") == []
    assert time.monotonic() - start < 2
    assert os.listdir(tmp_path) == []


def test_checks_load_no_torch_and_open_few_files(tmp_path: Path) -> None:
    """Python's own imports set aside; a rank that does not speak for its host."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hpcbench.scheduler import checks\n"
        "from hpcbench.scheduler.world import SingleProcess\n"
        "world = SingleProcess(); world.size, world.rank = 2, 1\n"
        "(Path(sys.argv[1]) / 'probe.part').touch()\n"
        "import importlib.metadata; importlib.metadata.version('numpy')\n"
        "opened = []\n"
        "sys.addaudithook(lambda name, data: name in ('open', 'os.listdir') and "
        "opened.append(data[0]))\n"
        "facts = checks._facts(world, Path(sys.argv[1]), 'probe.part', 'x.pth', False)\n"
        "assert not facts.problem, facts.problem\n"
        "assert facts.software['mattersim'] and not facts.absent\n"
        "assert 'torch' not in sys.modules and 'phonopy' not in sys.modules\n"
        "print(len(opened))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    # For each of eight packages METADATA, and what Python tries of its own library.
    assert int(result.stdout) < 8 * 5


ALIKE = [
    Facts(rank, f"node{rank // 2}", {"numpy": "2.0"}, "abc" if rank % 2 == 0 else "", "/h", "S")
    for rank in range(6)
]


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert examine(ALIKE) == []
    harmed = [
        *ALIKE[:4],
        replace(ALIKE[4], weights="none: missing", unwritable="Quota", advice="quota -s"),
        replace(ALIKE[5], software={}, home="/elsewhere"),
    ]
    software, other_weights, folder = examine(harmed)
    assert isinstance(software, LaunchError) and isinstance(folder, StoreError)
    assert "  numpy missing: node2 (rank 5)\n" in str(software)
    assert "hpcbench from /elsewhere: node2 (rank 5)" in str(software)
    assert "none: missing: node2 (rank 4)" in str(other_weights)
    assert str(folder).endswith("Quota: node2 (rank 4)\nquota -s")
    (only,) = examine([*ALIKE[:5], replace(ALIKE[5], problem="OSError: odd")])
    assert "node2 (rank 5): OSError: odd" in str(only)


def test_many_hosts_are_not_all_named() -> None:
    many = [replace(ALIKE[0], rank=rank, host=f"n{rank}") for rank in range(100)]
    (problem,) = examine([replace(facts, absent=facts.rank > 0) for facts in many])
    assert "n8 (rank 8) and 91 more hosts" in str(problem)


def test_clocks_are_compared_with_the_median() -> None:
    clocks = [1000.0, 1000.2, 1075.0, 1075.0, 1000.1, 1004.0]
    assert compare_clocks(ALIKE, [1000.0, 1004.0, 1000, 1000, 1000, 1000]) == ""
    assert "node1 (ranks 2-3) 75 s ahead. " in compare_clocks(ALIKE, clocks)


@pytest.mark.parametrize(
    ("everyone", "words"),
    [
        ([(0, "a", "cuda:0", "G1", ""), (1, "b", "cpu", "", "")], "srun --exclude=b"),
        ([(0, "a", "cuda:0", "G1", ""), (1, "a", "cpu", "", "")], "--gpus-per-task=1"),
        ([(0, "a", "cuda:0", "G1", ""), (1, "a", "cuda:0", "G1", "")], "a G1: ranks [0, 1]"),
        ([(0, "a", "cpu", "", ""), (1, "b", "cpu", "", "")], ""),
        ([(0, "a", "cuda:0", "G1", ""), (1, "b", "cuda:0", "G2", "")], ""),
    ],
)
def test_devices_of_all_ranks_together(everyone: list[RankDevice], words: str) -> None:
    problem = examine_devices("auto", everyone, share_gpu=False)
    assert words in problem
    assert bool(problem) == bool(words)


@pytest.mark.parametrize(
    ("variables", "launcher", "rank"),
    [
        ("", None, 0),
        # A batch script, whose processes are one.
        ("SLURM_JOB_ID=1 SLURM_NTASKS=4 SLURM_PROCID=0", None, 0),
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3", ("srun", 4), 3),
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 PMI_SIZE=4 PMI_RANK=3", ("srun", 4), 3),
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 PMIX_RANK=3", ("srun", 4), 3),
        # mpiexec in an allocation: a step of two helpers, and eight ranks.
        (
            "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 PMI_SIZE=8 PMI_RANK=5 MPI_LOCALNRANKS=4",
            ("mpiexec", 8),
            5,
        ),
        (
            "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 OMPI_COMM_WORLD_SIZE=8 "
            "OMPI_COMM_WORLD_RANK=6 PMIX_RANK=6",
            ("mpirun", 8),
            6,
        ),
        ("PMI_SIZE=8 PMI_RANK=2 PALS_RANKID=2", ("mpiexec", 8), 2),
        ("PALS_RANKID=2", None, 2),
        ("FLUX_JOB_SIZE=4 FLUX_TASK_RANK=1", ("flux run", 4), 1),
        ("FLUX_JOB_SIZE=4 FLUX_TASK_RANK=1 PMI_SIZE=4 PMI_RANK=1", ("flux run", 4), 1),
        # Flux within Slurm: one broker a node.
        (
            "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 FLUX_JOB_SIZE=8 FLUX_TASK_RANK=7",
            ("flux run", 8),
            7,
        ),
        # Each task of a step starts an mpiexec for itself alone.
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=2 PMI_SIZE=1 PMI_RANK=0", ("srun", 4), 0),
    ],
)
def test_launchers(variables: str, launcher: tuple[str, int] | None, rank: int) -> None:
    environment = dict(pair.split("=") for pair in variables.split())
    assert find_launcher(environment) == (Launcher(*launcher) if launcher else None)
    assert rank_by_launcher(environment) == rank


def test_one_process_of_a_job_with_many_tasks_is_told_so() -> None:
    assert "this Slurm job has 4 tasks, but one process" in lonely({"SLURM_NTASKS": "4"})
    for alone in ({}, {"SLURM_NTASKS": "1"}, {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}):
        assert lonely(alone) == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun --mpi="),
        ({"FLUX_JOB_SIZE": "4", "FLUX_TASK_RANK": "0"}, "-o pmi="),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "use the mpirun of the MPI"),
    ],
)
def test_processes_that_see_only_themselves_are_refused(
    variables: dict[str, str], words: str
) -> None:
    script = (
        "from hpcbench.scheduler.world import join_world\n"
        "from hpcbench.errors import LaunchError\n"
        "try: join_world()\n"
        "except LaunchError as error: print(error)"
    )
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "SLURM", "OMPI"))}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=plain | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "started 4 processes, but MPI sees a world of 1" in result.stdout
    assert words in result.stdout


def test_a_download_without_an_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "LONGEST_DOWNLOAD", 0.2)
    monkeypatch.setattr(fetch, "download_mattersim", lambda name, folder: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(PotentialError, match=r"could not be downloaded here \(TimeoutError\)"):
        provide_weights(PUBLISHED, SingleProcess(), print)
    assert time.monotonic() - start < 2


@pytest.mark.mpi
def test_a_run_ends_before_the_work_where_ranks_do_not_fit(tmp_path: Path) -> None:
    from ase.build import bulk
    from ase.io import write

    write(tmp_path / "c.extxyz", bulk("Cu"))
    fake_version(tmp_path / "fake")
    script = tmp_path / "one.sh"
    script.write_text(
        f'#!/bin/sh\n[ "$PMI_RANK" = 0 ] || export PYTHONPATH={tmp_path}/fake:$PYTHONPATH\n'
        'exec "$@"\n'
    )
    script.chmod(0o755)
    out = tmp_path / "s.h5"
    command = [sys.executable, "-m", "hpcbench", "run", str(tmp_path / "c.extxyz"), "--out"]
    result = subprocess.run(
        [*mpiexec(2), str(script), *command, str(out), "--model", "mattersim-demo",
         "--supercell", "2", "2", "2"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("the ranks run different software") == 1
    assert "numpy 1.99.0" in result.stderr
    assert not out.exists()


def fake_version(folder: Path) -> None:
    """What another environment would show of numpy."""
    info = folder / "numpy-1.99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.99.0\n")


def test_facts_are_gathered_by_every_rank_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise OSError("metadata on a dead disk")

    world = SingleProcess()
    monkeypatch.setattr(checks, "look", broken)
    problems, _ = checks.survey(world, tmp_path, "")
    assert "OSError: metadata on a dead disk" in str(problems[0])
    assert isinstance(join_world({}), SingleProcess)
