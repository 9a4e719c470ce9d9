"""Runs under a real Slurm of two nodes: ranks, deaths, the walltime, and the scripts in jobs/."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from launching import SLOW, in_file, slow_potential, take
from slurm_cluster import Cluster, running_cluster, wait_until, what_is_missing

import hpcbench
from hpcbench.events import read_events

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[1]
MANY = 8
IN_FILE = in_file(commit_interval=0.3)
# A step must outlive its ranks' deaths.
SURVIVE = ("--kill-on-bad-exit=0", "--no-kill", "--wait=0")
TWO_RANKS = (
    "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0", "--time=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = what_is_missing()
    if reason:
        pytest.skip(reason)
    MPI = pytest.importorskip("mpi4py.MPI")  # noqa: N806 -- its own name
    if not MPI.Get_library_version().startswith("MPICH"):
        pytest.skip("two nodes on one host want PMI-2, which Open MPI does not speak")
    with (
        tempfile.TemporaryDirectory(prefix="hpcbench-slurm-") as folder,
        running_cluster(Path(folder)) as cluster,
    ):
        yield cluster


@dataclass(frozen=True)
class Job:
    """Crystals, the words of a run on them, and what becomes of it."""

    cluster: Cluster
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        values = {
            k: v for k, v in self.cluster.environment.items() if not k.startswith("HPCBENCH_")
        }
        here = os.pathsep.join([str(ROOT), str(self.folder)])
        return values | {"HPCBENCH_PYTHON": sys.executable, "PYTHONPATH": here}

    @property
    def store(self) -> Path:
        return self.folder / "store.h5"

    @property
    def words(self) -> list[str]:
        return [
            str(self.folder / "many.extxyz"), "--out", str(self.store), "--model", SLOW,
            "--dtype", "float64", "--mesh", "4", "4", "4", "--device", "cpu", "--workers", "0",
            *IN_FILE, "--no-report", "--supercell", "2", "2", "2",
        ]  # fmt: skip

    def take(self, seconds: float) -> None:
        """Let each call of the potential take so long from now on."""
        take(self.folder, seconds)

    def srun(self, *options: str) -> list[str]:
        program = [sys.executable, "-m", "hpcbench", "run", *self.words]
        return ["srun", "-N2", "-n4", "--ntasks-per-node=2", *options, *program]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=600,
        )  # fmt: skip

    def submit(self, *words: str) -> str:
        """Submit a script of jobs/ as it stands; the job's number."""
        answer = self.run(*words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.split()[-1]

    def state(self, number: str) -> dict[str, str]:
        """Return Slurm's record of a job."""
        answer = self.cluster.ask("scontrol", "show", "job", number, "--oneliner")
        return dict(word.split("=", 1) for word in answer.split() if "=" in word)

    def end_of(self, number: str, seconds: float = 240) -> dict[str, str]:
        """The same, once it is over."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: self.state(number)["JobState"] in over, f"job {number}", seconds)
        return self.state(number)

    @property
    def said(self) -> str:
        """Return the output of the jobs, in the order of their numbers."""
        logs = sorted(self.folder.glob("*.out"), key=lambda path: int(path.stem))
        return "\n".join(path.read_text() for path in logs)

    @property
    def finished(self) -> int:
        with contextlib.suppress(hpcbench.HpcbenchError):
            return len(hpcbench.open(self.store))
        return 0

    def events(self, rank: int) -> list[dict]:
        return read_events(self.folder / f"store.h5.run/events/rank-{rank:05d}.jsonl")[0]

    def all_are_done(self) -> bool:
        store = hpcbench.open(self.store)
        assert len(store.ids) == len(set(store.ids))
        assert store.folder.segment_paths() == [], "consolidated"
        return list(store.table["status"]) == ["done"] * MANY


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path) -> Iterator[Job]:
    names = ("Cu", "Al", "Ni", "Ag")
    frames = [bulk(names[n % 4], "fcc", a=3.7 + 0.01 * n) for n in range(MANY)]
    write(tmp_path / "many.extxyz", frames)
    slow_potential(tmp_path, 0.0)
    yield Job(cluster, tmp_path)
    cluster.cancel_all()


def test_ranks_on_two_nodes_share_the_work(job: Job) -> None:
    answer = job.run(*job.srun("--mpi=pmi2", *SURVIVE))
    assert answer.returncode == 0, answer.stderr
    assert "on 4 ranks" in answer.stdout
    assert job.all_are_done()
    assert len(set(hpcbench.open(job.store).table["rank"])) > 1


def test_a_wrong_interface_is_refused_with_the_way_out(job: Job) -> None:
    answer = job.run(*job.srun("--mpi=none", *SURVIVE))
    assert answer.returncode == 3
    assert answer.stderr.count("srun started 4 processes, but MPI sees a world of 1") == 1
    assert "srun --mpi=pmi2" in answer.stderr
    assert not job.store.with_name("store.h5.run").exists()


def test_survivors_of_rank_0_do_all_the_work(job: Job) -> None:
    job.take(0.1)
    command = job.srun("--mpi=pmi2", *SURVIVE)
    with subprocess.Popen(
        command, env=job.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: job.finished, "the first crystal")
        os.kill(job.events(0)[0]["pid"], signal.SIGKILL)
        before = job.finished
        job.take(0)
        process.wait(240)
    assert 0 < before < MANY
    assert job.all_are_done()
    assert all(job.events(rank)[-1]["event"] == "end" for rank in (1, 2, 3))
    assert job.events(0)[-1]["event"] != "end"


@pytest.mark.parametrize("by", ["scancel", pytest.param("the walltime", marks=pytest.mark.nightly)])
def test_the_walltimes_signal_reaches_all_ranks_and_the_job_goes_on(job: Job, by: str) -> None:
    """It comes 15 to 45 s after the start, as Slurm looks every half minute; or when asked for."""
    job.take(0.05)
    limit = ("--time=5",) if by == "scancel" else ("--time=1", "--signal=USR2@15")
    number = job.submit(
        "sbatch", *TWO_RANKS, *limit, f"--output={job.folder}/%j.out",
        "jobs/slurm-requeue.sh", *job.words,
    )  # fmt: skip
    wait_until(lambda: job.finished, "the first crystal")
    job.take(1)  # the others do not come to an end
    if by == "scancel":
        wait_until(lambda: at_work(job), "both ranks at work")
        ask_to_stop(job, number)
    wait_until(lambda: job.state(number)["Restarts"] == "1", "the requeue", 240)
    job.take(0)
    for rank in (0, 1):
        assert job.events(rank)[-1]["event"] == "end"
        assert job.events(rank)[-1]["complete"] is False
    before = dict(hpcbench.open(job.store).table["finished"])
    assert 0 < len(before) < MANY
    end = job.end_of(number)
    assert (end["JobState"], end["ExitCode"]) == ("COMPLETED", "0:0"), job.said
    assert "start 1: 0 crystals finished" in job.said
    assert f"back into the queue: {len(before)} crystals finished" in job.said
    assert f"start 2: {len(before)} crystals finished" in job.said
    assert job.all_are_done()
    after = hpcbench.open(job.store).table["finished"]
    assert all(after[key] == when for key, when in before.items())


def ask_to_stop(job: Job, number: str) -> None:
    """As ``--signal=USR2@120`` of a script, but now."""
    job.cluster.ask("scancel", "--signal=USR2", number)


def at_work(job: Job) -> bool:
    """Tell whether both ranks have begun, so that they take signals for a request to stop."""
    with contextlib.suppress(OSError, IndexError):
        return all(job.events(rank)[-1]["event"] != "start" for rank in (0, 1))
    return False


def test_a_job_without_progress_is_not_put_back_into_the_queue(job: Job) -> None:
    job.take(0.1)
    number = job.submit(
        "sbatch", *TWO_RANKS, f"--output={job.folder}/%j.out", "jobs/slurm-requeue.sh", *job.words
    )
    wait_until(lambda: at_work(job), "both ranks at work")
    ask_to_stop(job, number)
    end = job.end_of(number)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "75:0", "0"), job.said
    assert "not again: this start has finished no crystal" in job.said


def chain(job: Job) -> str:
    return job.submit(
        "jobs/slurm-chain.sh", *TWO_RANKS, f"--output={job.folder}/%j.out", "--", *job.words
    )


def test_a_chain_goes_on_to_the_end_and_no_further(job: Job) -> None:
    job.take(0.1)
    first = chain(job)
    wait_until(lambda: job.finished, "the first crystal")
    second = str(int(first) + 1)
    assert job.state(second)["Dependency"].startswith(f"afternotok:{first}")
    ask_to_stop(job, first)
    job.take(0)
    assert job.end_of(first)["ExitCode"] == "75:0", job.said
    end = job.end_of(second)
    assert (end["JobState"], end["ExitCode"]) == ("COMPLETED", "0:0"), job.said
    assert job.all_are_done()
    # The words of sbatch are handed on.
    assert (end["NumNodes"], end["TimeLimit"]) == ("2", "00:05:00")
    third = job.state(str(int(second) + 1))
    assert (third["JobState"], third["StartTime"]) == ("CANCELLED", third["EndTime"])


def test_a_chain_without_progress_ends(job: Job) -> None:
    job.take(0.1)
    first = chain(job)
    wait_until(lambda: at_work(job), "both ranks at work")
    # Killed, not stopped: nothing of its script is left to decide anything.
    job.cluster.ask("scancel", first)
    second = str(int(first) + 1)
    end = job.end_of(second)
    assert job.state(first)["JobState"] == "CANCELLED"
    assert (end["JobState"], end["ExitCode"]) == ("FAILED", "1:0"), job.said
    assert "the chain ends: the job before this one has finished no crystal" in job.said
    assert not job.cluster.ask("squeue", "--noheader")


def test_staged_ranks_run_from_the_nodes_own_disk(
    job: Job, small_environment: dict[str, str]
) -> None:
    tells = (
        "from ase.calculators.emt import EMT\nimport os, sys, hpcbench\nfrom pathlib import Path\n"
    )
    tells += "Path(__file__).with_name(f'told-{os.getpid()}').write_text("
    tells += "f'{sys.prefix} {hpcbench.__file__}')\n"
    (job.folder / "tells.py").write_text(tells)
    disk = job.folder / "disk"
    disk.mkdir()
    settings = small_environment | {"TMPDIR": str(disk)}
    answer = job.run(
        "env", *(f"{key}={value}" for key, value in settings.items()),
        "salloc", *TWO_RANKS, "./launch.sh", "--stage", "run", *job.words, "--model", "tells:EMT",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert job.all_are_done()
    told = [path.read_text().split() for path in job.folder.glob("told-*")]
    assert len(told) >= 2
    for words in told:
        assert all(word.startswith(str(disk)) for word in words)


def test_a_node_that_goes_down_takes_its_ranks_and_not_the_job(job: Job) -> None:
    """The last test of the cluster, which has one node less from then on."""
    job.take(0.1)
    number = job.submit(
        "sbatch", *TWO_RANKS, f"--output={job.folder}/%j.out", "jobs/slurm.sh", *job.words,
        *in_file(commit_interval=0.3, silence=10),
    )  # fmt: skip
    wait_until(lambda: job.finished, "the first crystal")
    before = job.finished
    job.cluster.kill_node("n2", job.events(1)[0]["pid"])
    job.take(0)
    assert job.end_of(number)["JobState"] == "COMPLETED", job.said
    assert 0 < before < MANY
    assert job.all_are_done()
    assert job.events(1)[-1]["event"] != "end"
