"""``launch.sh``: what it starts, how it stops, and by which exit code it tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk

import hpcbench
from hpcbench.config import load_config

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch.sh"
QUICK = ("--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--device", "cpu")
RUN = ("-m", "hpcbench", "run")
ASKED_TO_STOP = 75


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No Slurm, no GPU, no settings; the Python that runs the tests."""
    foreign = ("SLURM_", "SRUN_", "PMI_", "OMPI_", "HPCBENCH_")
    values = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    values |= {"HPCBENCH_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return values


@pytest.fixture
def slurm(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment as in an allocation of two nodes, with a srun that only answers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    srun = folder / "srun"
    srun.write_text("#!/bin/sh\necho 'MPI plugin types are...'\necho none pmi2 pmix cray_shasta\n")
    srun.chmod(0o755)
    return environment | {
        "PATH": f"{folder}{os.pathsep}{environment['PATH']}",
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "8",
    }


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Five crystals that EMT computes in no time."""
    path = tmp_path / "crystals.extxyz"
    cells = [("Cu", 3.6), ("Al", 4.0), ("Ni", 3.5), ("Cu", 3.7), ("Al", 4.1)]
    ase.io.write(path, [bulk(name, "fcc", a=a) for name, a in cells])
    return path


def give(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCH, *words], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def dry(environment: dict[str, str], *words: str) -> list[str]:
    """The words of the line that would run."""
    answer = give(environment, "--dry-run", *words)
    assert answer.returncode == 0, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("+ ")
    return line.split()[1:]


def before_program(words: list[str]) -> list[str]:
    return words[: words.index(sys.executable)]


class TestTheLineThatRuns:
    def test_one_process_is_plain_python(self, environment: dict[str, str]) -> None:
        assert dry(environment, "run", "x.cif") == [sys.executable, *RUN, "x.cif"]

    @pytest.mark.parametrize("words", [("-n", "3"), ("-n3",)])
    def test_several_processes(self, environment: dict[str, str], words: tuple[str, ...]) -> None:
        line = dry(environment, *words, "run", "x.cif", "--out", "y.h5")
        launcher = before_program(line)
        assert Path(launcher[0]).name in ("mpiexec", "mpirun")
        assert launcher[-2:] == ["-n", "3"]
        assert line[len(launcher) :] == [sys.executable, *RUN, "x.cif", "--out", "y.h5"]

    def test_survivors_live(self, environment: dict[str, str]) -> None:
        MPI = pytest.importorskip("mpi4py.MPI")  # noqa: N806 -- its own name
        if not MPI.Get_library_version().startswith("MPICH"):
            pytest.skip("the flag is MPICH's own; this environment has another MPI")
        assert "-disable-auto-cleanup" in dry(environment, "-n", "2", "run", "x.cif")

    def test_one_rank_per_gpu(self, environment: dict[str, str]) -> None:
        environment["CUDA_VISIBLE_DEVICES"] = "0,2,3"
        assert before_program(dry(environment, "run", "x.cif"))[-2:] == ["-n", "3"]
        assert before_program(dry(environment, "demo"))[-2:] == ["-n", "3"]

    def test_ranks_and_words_from_the_environment(self, environment: dict[str, str]) -> None:
        environment |= {"HPCBENCH_RANKS": "2", "HPCBENCH_MPIEXEC_ARGS": "-l  -bind-to core"}
        launcher = before_program(dry(environment, "run", "x.cif"))
        assert launcher[-5:] == ["-n", "2", "-l", "-bind-to", "core"]

    def test_demo(self, environment: dict[str, str]) -> None:
        line = dry(environment, "demo")
        assert line[line.index("-m") :] == [
            *RUN, "jobs/demo", "--model", "mattersim-demo", "--out", "demo-run/demo.h5",
        ]  # fmt: skip
        ranks = min(2, len(os.sched_getaffinity(0)))
        assert before_program(line)[-1:] == ([] if ranks == 1 else ["2"])

    def test_other_commands(self, environment: dict[str, str]) -> None:
        assert dry(environment, "status", "x.h5")[1:] == ["-m", "hpcbench", "status", "x.h5"]
        assert dry(environment, "test", "-k", "x")[1:] == ["-m", "pytest", "-k", "x"]

    def test_line_can_be_copied(self, environment: dict[str, str]) -> None:
        answer = give(environment, "--dry-run", "run", "my crystals/*.cif")
        assert r"my\ crystals/\*.cif" in answer.stderr

    def test_slurm(self, slurm: dict[str, str]) -> None:
        launcher = before_program(dry(slurm, "run", "x.cif"))
        assert launcher[:4] == ["srun", "--kill-on-bad-exit=0", "--no-kill", "--wait=0"]

    def test_slurm_interface_fits_mpi4py(self, slurm: dict[str, str]) -> None:
        MPI = pytest.importorskip("mpi4py.MPI")  # noqa: N806
        wanted = "pmix" if MPI.Get_library_version().startswith("Open MPI") else "pmi2"
        assert f"--mpi={wanted}" in dry(slurm, "run", "x.cif")

    def test_slurm_words_win(self, slurm: dict[str, str]) -> None:
        slurm["HPCBENCH_SRUN_ARGS"] = "--mpi=none --cpu-bind=cores"
        launcher = before_program(dry(slurm, "run", "x.cif"))
        assert launcher[-2:] == ["--mpi=none", "--cpu-bind=cores"]
        assert sum(word.startswith("--mpi") for word in launcher) == 1

    def test_slurm_layout(self, slurm: dict[str, str]) -> None:
        assert "--ntasks=2" in dry(slurm, "-n", "2", "run", "x.cif")
        del slurm["SLURM_NTASKS"]
        slurm |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}
        launcher = before_program(dry(slurm, "run", "x.cif"))
        assert "--ntasks-per-node=4" in launcher
        assert "--cpus-per-task=8" in launcher

    def test_started_once_per_rank(self, slurm: dict[str, str]) -> None:
        slurm["SLURM_STEP_NUM_TASKS"] = "8"
        assert dry(slurm, "run", "x.cif") == [sys.executable, *RUN, "x.cif"]


class TestWrongUse:
    @pytest.mark.parametrize(
        "words",
        [(), ("-n", "x", "run"), ("-n",), ("-n", "0", "run"), ("--nonsense",), ("nonsense",)],
    )
    def test_of_the_script(self, environment: dict[str, str], words: tuple[str, ...]) -> None:
        assert give(environment, *words).returncode == 2

    def test_help(self, environment: dict[str, str]) -> None:
        answer = give(environment, "--help")
        assert answer.returncode == 0
        assert "usage:" in answer.stdout

    def test_wrong_setting_starts_nothing(
        self, environment: dict[str, str], crystals: Path
    ) -> None:
        answer = give(environment, "-n", "2", "run", crystals, "--mesh", "4")
        assert answer.returncode == 2
        assert "+ " not in answer.stderr
        assert answer.stderr.count("mesh expects") == 1

    def test_no_such_python(self, environment: dict[str, str]) -> None:
        environment["HPCBENCH_PYTHON"] = "/nowhere/python"
        assert give(environment, "run", "x.cif").returncode == 3

    def test_a_job_is_no_place_to_install(self, slurm: dict[str, str], tmp_path: Path) -> None:
        for key in ("HPCBENCH_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"):
            slurm.pop(key, None)
        slurm["HPCBENCH_VENV"] = str(tmp_path / "none")
        answer = give(slurm, "run", "x.cif")
        assert answer.returncode == 3
        assert "setup" in answer.stderr
        assert not (tmp_path / "none").exists()


def test_active_environment_is_respected(environment: dict[str, str], tmp_path: Path) -> None:
    home = Path(sys.executable).parents[1]
    if home / "bin" / "python" != Path(sys.executable).with_name("python"):
        pytest.skip("this Python is not in a folder bin/")
    del environment["HPCBENCH_PYTHON"]
    environment |= {"VIRTUAL_ENV": str(home), "HPCBENCH_VENV": str(tmp_path / "none")}
    answer = give(environment, "--dry-run", "run", "x.cif")
    assert answer.stderr.split()[1] == str(home / "bin" / "python")


SCRIPTS = [LAUNCH, ROOT / ".ci" / "run", *sorted((ROOT / "jobs").rglob("*.sh"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_example_run_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("HPCBENCH_")]:
        monkeypatch.delenv(key)
    config = load_config({}, ROOT / "jobs" / "hpcbench.toml")
    assert all(Path(source).exists() for source in config.sources)
    assert Path(config.out).resolve() == ROOT / "demo-run" / "demo.h5"


def test_constraints_fit_the_project() -> None:
    from packaging.requirements import Requirement

    text = (ROOT / "constraints.txt").read_text()
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pinned = [Requirement(line) for line in lines if line]
    names = [one.name for one in pinned]
    assert names == sorted(set(names))
    assert all(str(one.specifier).startswith("==") for one in pinned)


@pytest.mark.mpi
class TestRanks:
    """Real ranks under mpiexec."""

    @pytest.fixture(autouse=True)
    def _needs_mpi(self) -> None:
        pytest.importorskip("mpi4py")
        beside = Path(sys.executable).with_name("mpiexec")
        if not beside.exists() and shutil.which("mpiexec") is None:
            pytest.skip("no mpiexec")

    def test_all_done_and_nothing_twice(
        self, environment: dict[str, str], crystals: Path, tmp_path: Path
    ) -> None:
        store = tmp_path / "store.h5"
        words = ("-n", "2", "run", crystals, "--out", store, *QUICK)
        first = give(environment, *words)
        assert first.returncode == 0, first.stderr
        assert f"store: {store}" in first.stdout
        assert (hpcbench.open(store).table["status"] == "done").sum() == 5
        again = give(environment, *words)
        assert again.returncode == 0, again.stderr
        assert "0 to compute" in again.stdout

    def test_other_settings_are_wrong_use_also_of_a_finished_store(
        self, environment: dict[str, str], crystals: Path, tmp_path: Path
    ) -> None:
        store = tmp_path / "store.h5"
        words = ("-n", "2", "run", crystals, "--out", store, *QUICK)
        assert give(environment, *words).returncode == 0
        answer = give(environment, *words, "--displacement", "0.02")
        assert answer.returncode == 2
        assert "displacement" in answer.stderr

    def test_failed_crystal(
        self, environment: dict[str, str], crystals: Path, tmp_path: Path
    ) -> None:
        # EMT has no iron.
        ase.io.write(crystals, [bulk("Cu", "fcc", a=3.6), bulk("Fe", "bcc", a=2.9)])
        answer = give(environment, "-n", "2", "run", crystals, "--out", tmp_path / "s.h5", *QUICK)
        assert answer.returncode == 1, answer.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
    def test_stopped_and_continued(
        self, started: Callable[[], subprocess.Popen[str]], many: Path, number: int
    ) -> None:
        process = started()
        wait_for_work(many.with_name("many.h5"))
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == ASKED_TO_STOP, output
        store = hpcbench.open(many.with_name("many.h5"))
        assert 0 < len(store.table) < MANY
        assert not list(store.folder.segments.glob("*")), "consolidated at the end"
        assert not processes_of(many)
        if number != signal.SIGINT:
            return
        process = started()
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
        assert len(hpcbench.open(many.with_name("many.h5")).table) == MANY

    def test_second_interrupt_ends_at_once(
        self, started: Callable[[], subprocess.Popen[str]], many: Path
    ) -> None:
        process = started()
        wait_for_work(many.with_name("many.h5"))
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
        assert process.returncode == ASKED_TO_STOP
        assert not processes_of(many)

    def test_stopped_before_the_ranks_are_there(
        self, started: Callable[[], subprocess.Popen[str]], many: Path
    ) -> None:
        process = started()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("+ ")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == ASKED_TO_STOP
        assert not processes_of(many)

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        path = tmp_path / "many.extxyz"
        ase.io.write(path, [rattled(i) for i in range(MANY)])
        return path

    @pytest.fixture
    def started(
        self, environment: dict[str, str], many: Path
    ) -> Iterator[Callable[[], subprocess.Popen[str]]]:
        """Starts the job on many crystals; what is left of it is ended after the test."""
        processes = []

        def start() -> subprocess.Popen[str]:
            store = many.with_name("many.h5")
            process = subprocess.Popen(
                [LAUNCH, "-n", "2", "run", many, "--out", store, *QUICK],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            processes.append(process)
            return process

        yield start
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in processes_of(many):
            os.kill(pid, signal.SIGKILL)


MANY = 16


def rattled(number: int) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.rattle(0.05, seed=number)
    return atoms


def wait_for_work(store: Path) -> None:
    """Until a crystal has been computed."""
    logs = store.with_name(store.name + ".run") / "events"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any('"crystal"' in log.read_text() for log in logs.glob("*.jsonl")):
            return
        time.sleep(0.02)
    pytest.fail("no crystal within a minute")


def processes_of(path: Path) -> list[int]:
    """Processes that have the path among their words, wherever they came from."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(path) in words:
            found.append(int(entry.name))
    return found
