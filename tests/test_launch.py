"""``launch.sh``: what it starts, how it stops, and by which exit code it tells."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import h5py
import pytest
import system_calls
from ase.build import bulk
from launching import SLOW, in_file, slow_potential, take, wait_for

import hpcbench
from hpcbench.config_loading import load_config
from hpcbench.potentials.weights import DEMO_WEIGHTS, on_this_node

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch.sh"
QUICK = ("--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--device", "cpu",
         "--supercell", "2", "2", "2", "--workers", "0")  # fmt: skip
RUN = ("-m", "hpcbench", "run")
ASKED_TO_STOP = 75


@pytest.fixture
def environment() -> dict[str, str]:
    return bare_environment()


def bare_environment() -> dict[str, str]:
    """No Slurm, no GPU, no settings; the Python that runs the tests."""
    foreign = ("SLURM_", "SRUN_", "PMI_", "OMPI_", "FLUX_", "PBS_", "HIP_", "ROCR_", "HPCBENCH_")
    values = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    values |= {"HPCBENCH_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return values


@pytest.fixture
def slurm(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment as in an allocation of two nodes, with a srun that only answers."""
    plugins = "echo 'MPI plugin types are...'\necho none pmi2 pmix cray_shasta"
    environment = with_tool(tmp_path, environment, "srun", plugins)
    return environment | {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}


@pytest.fixture
def pbs(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment as in a PBS job with two chunks on one machine and one on another."""
    nodes = tmp_path / "nodes"
    nodes.write_text("node1\nnode1\nnode2\n")
    return environment | {"PBS_JOBID": "1.server", "PBS_NODEFILE": str(nodes)}


@pytest.fixture
def flux(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment as in a Flux instance of two nodes with 8 cores and 4 GPUs each."""
    answers = 'case "$*" in *ngpus*) printf "4\\n4\\n" ;; *ncores*) printf "8\\n8\\n" ;; esac'
    return with_tool(tmp_path, environment, "flux", answers) | {"FLUX_URI": "local:///x"}


def with_tool(
    tmp_path: Path, environment: dict[str, str], name: str, script: str
) -> dict[str, str]:
    """The environment with a command that only answers."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    if environment["PATH"].startswith(str(folder)):
        return environment
    return environment | {"PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    return write_crystals(tmp_path)


def write_crystals(folder: Path) -> Path:
    """Five crystals that EMT computes in no time."""
    path = folder / "crystals.extxyz"
    cells = [("Cu", 3.6), ("Al", 4.0), ("Ni", 3.5), ("Cu", 3.7), ("Al", 4.1)]
    ase.io.write(path, [bulk(name, "fcc", a=a) for name, a in cells])
    return path


def give(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCH, *words], env=environment, capture_output=True, text=True, timeout=900, check=False
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

    def test_a_device_for_each_rank_whoever_made_it(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        del environment["CUDA_VISIBLE_DEVICES"]
        listed = "echo 'GPU[1] : Device ID: 0x7408'\necho 'GPU[0] : Device ID: 0x7408'\n"
        amd = with_tool(tmp_path, environment, "rocm-smi", 2 * listed + "echo done")
        assert before_program(dry(amd, "run", "x.cif"))[-2:] == ["-n", "2"]
        chosen = amd | {"ROCR_VISIBLE_DEVICES": "0,1,2"}
        assert before_program(dry(chosen, "run", "x.cif"))[-2:] == ["-n", "3"]
        fewer = chosen | {"HIP_VISIBLE_DEVICES": "0"}
        assert dry(fewer, "run", "x.cif")[0] == sys.executable
        listed = "echo 'GPU 0: H100 (UUID: GPU-1)'\necho '  MIG 1g.10gb'\necho 'GPU 1: H100'"
        nvidia = with_tool(tmp_path, environment, "nvidia-smi", listed)
        assert before_program(dry(nvidia, "run", "x.cif"))[-2:] == ["-n", "2"]

    def test_pbs(self, pbs: dict[str, str]) -> None:
        launcher = before_program(dry(pbs, "run", "x.cif"))
        assert launcher[launcher.index("-n") + 1] == "3"
        assert launcher[-1] == pbs["PBS_NODEFILE"]
        pbs["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"
        launcher = before_program(dry(pbs, "run", "x.cif"))
        assert launcher[launcher.index("-n") + 1] == "8"
        assert "4" in launcher[-1]

    def test_flux(self, flux: dict[str, str]) -> None:
        launcher = before_program(dry(flux, "run", "x.cif"))
        assert launcher[:4] == ["flux", "run", "-o", "exit-timeout=none"]
        assert launcher[4:] == ["--ntasks=8", "--gpus-per-task=1", "--cores-per-task=2"]
        flux["HPCBENCH_FLUX_ARGS"] = "-o pmi=pmix"
        launcher = before_program(dry(flux, "-n", "16", "run", "x.cif"))
        assert launcher[4:] == ["--ntasks=16", "-o", "pmi=pmix"]

    def test_the_inner_one_of_two_managers(
        self, flux: dict[str, str], slurm: dict[str, str]
    ) -> None:
        assert dry(slurm | flux, "run", "x.cif")[0] == "flux"

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


class TestStaging:
    """``jobs/lib/staged.sh``, with an environment whose Python only tells how it was called."""

    TELLS = """\
#!/bin/sh
echo "$0 $PYTHONSAFEPATH $PYTHONPATH $*" $HPCBENCH_STAGED_WEIGHTS
exec sleep "${1:-0}"
"""

    @pytest.fixture
    def node(self, tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
        (tmp_path / "disk").mkdir()
        environment.pop("PYTHONPATH", None)
        return environment | {"TMPDIR": str(tmp_path / "disk"), "SLURM_TMPDIR": "/nowhere"}

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        return self.pack(tmp_path, "one")

    def pack(self, tmp_path: Path, name: str) -> Path:
        home = tmp_path / "shared"
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin" / "python").write_text(self.TELLS)
        (home / "bin" / "python").chmod(0o755)
        archive = tmp_path / f".hpcbench-{name}.tar"
        subprocess.run(["tar", "-C", home, "-cf", archive, "."], check=True)
        return archive

    def start(
        self, node: dict[str, str], archive: Path, *words: str, weights: Path | str = ""
    ) -> subprocess.Popen[str]:
        python = archive.with_name("shared") / "bin" / "python"
        return subprocess.Popen(
            [ROOT / "jobs" / "lib" / "staged.sh", archive, weights, python, *words],
            env=node,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(
        self, node: dict[str, str], archive: Path, *words: str, weights: Path | str = ""
    ) -> tuple[list[str], str]:
        output, errors = self.start(node, archive, *words, weights=weights).communicate(timeout=60)
        return output.split(), errors

    def copies(self, node: dict[str, str]) -> list[str]:
        (folder,) = Path(node["TMPDIR"]).iterdir()
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    def test_ranks_of_a_node_unpack_once(
        self, node: dict[str, str], archive: Path, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        tar = shutil.which("tar")
        node = with_tool(tmp_path, node, "tar", f'echo x >>{log}\nsleep 0.3\n{tar} "$@"')
        ranks = [self.start(node, archive, "0", "a b") for _ in range(4)]
        for rank in ranks:
            output, errors = rank.communicate(timeout=60)
            assert (rank.returncode, errors) == (0, "")
            python, safe, package, *words = output.split()
            assert python.startswith(node["TMPDIR"])
            assert (safe, words) == ("1", ["0", "a", "b"])
            assert package == str(Path(python).parents[1] / "package")
        assert log.read_text() == "x\n"
        assert self.copies(node) == ["hpcbench-one"]

    def test_an_unused_copy_makes_room_and_one_in_use_stays(
        self, node: dict[str, str], archive: Path, tmp_path: Path
    ) -> None:
        second, third = self.pack(tmp_path, "two"), self.pack(tmp_path, "three")
        self.answer(node, archive)
        with self.start(node, second, "60") as rank:
            assert rank.stdout is not None
            assert rank.stdout.readline()
            assert self.copies(node) == ["hpcbench-two"]
            self.answer(node, third)
            assert self.copies(node) == ["hpcbench-three", "hpcbench-two"]
            rank.kill()

    def test_weights_are_copied_once_and_again_when_they_change(
        self,
        node: dict[str, str],
        archive: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        original = tmp_path / "home folder" / "weights.pth"
        original.parent.mkdir()
        original.write_text("one")
        copied: list[tuple[int, str]] = []
        for content in ("one", "one", "another"):
            if content == "another":
                original.write_text(content)
                os.utime(original, (1.5e9, 1.5e9))
            words, errors = self.answer(node, archive, "0", weights=original)
            assert errors == ""
            monkeypatch.setenv("HPCBENCH_STAGED_WEIGHTS", words[-1])
            copy = on_this_node(original)
            assert copy.is_relative_to(node["TMPDIR"])
            copied.append((copy.stat().st_ino, copy.read_text()))
        assert copied[0] == copied[1]
        assert copied[2][1] == "another"
        assert copied[2][0] != copied[1][0]
        # Changed since they were copied.
        original.write_text("a third one")
        assert on_this_node(original) == original
        assert on_this_node(tmp_path / "others.pth") == tmp_path / "others.pth"

    def test_without_a_copy_of_the_weights_the_environment_is_staged_all_the_same(
        self, node: dict[str, str], archive: Path
    ) -> None:
        words, errors = self.answer(node, archive, "0", weights="/nowhere/weights.pth")
        assert words[0].startswith(node["TMPDIR"])
        assert words[-1] == "0"  # no folder of weights
        assert errors.count("\n") == 1
        assert "/nowhere/weights.pth is not staged" in errors

    @pytest.mark.parametrize(
        ("tool", "script", "why"),
        [
            ("df", "echo; echo x x x 7 x", "has 0 MB left"),
            ("stat", "echo nfs", "no disk of the node's own"),
            ("tar", "exit 2", "could not be unpacked"),
        ],
    )
    def test_a_rank_starts_as_ever_where_there_can_be_no_copy(
        self, tool: str, script: str, why: str, node: dict[str, str], archive: Path
    ) -> None:
        if tool == "stat":
            script = f'[ "$1" = -f ] && {script} || {shutil.which("stat")} "$@"'
        node = with_tool(archive.parent, node, tool, script)
        (python, *words), errors = self.answer(node, archive, "0")
        assert python == str(archive.with_name("shared") / "bin" / "python")
        assert words == ["0"]
        assert why in errors
        assert self.answer(node | {"SLURM_LOCALID": "1"}, archive, "0")[1] == ""
        if tool != "stat":
            assert self.copies(node) == []

    def test_not_in_a_rank(self, slurm: dict[str, str]) -> None:
        slurm["SLURM_STEP_NUM_TASKS"] = "8"
        answer = give(slurm, "--stage", "run", "x.cif")
        assert answer.returncode == 2
        assert "--stage" in answer.stderr


SCRIPTS = [LAUNCH, ROOT / ".ci" / "run", *sorted((ROOT / "jobs").rglob("*.sh"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_a_chain_knows_of_itself_whatever_sbatch_exports(tmp_path: Path) -> None:
    """With --export=NONE a job has no variables of the one that submitted it."""
    environment = {"PATH": os.environ["PATH"], "HPCBENCH_PYTHON": sys.executable}
    environment = with_tool(tmp_path, environment, "sbatch", 'echo submitted "$@" >&2; echo 17')
    environment = with_tool(tmp_path, environment, "srun", "exit 1")
    environment = with_tool(tmp_path, environment, "scancel", "exit 0")
    words = ["--export=NONE", "--nodes=2", "--", "jobs/demo", "--out", str(tmp_path / "s.h5")]
    script = ROOT / "jobs" / "slurm-chain.sh"
    for link in ("", "--finished-before=-1"):
        answer = subprocess.run(
            [script, *filter(None, [link]), *words],
            env=environment | {"SLURM_JOB_ID": "5", "SLURM_SUBMIT_DIR": str(ROOT)},
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        (line,) = (line for line in answer.stderr.splitlines() if line.startswith("submitted"))
        following = line.split("jobs/slurm-chain.sh ")[1].split()
        assert following == [f"--finished-before={'0' if link else '-1'}", *words]
        assert ("--dependency=afternotok:5" in line) == bool(link)
    # A link that follows one without a result ends the chain.
    answer = subprocess.run(
        [script, "--finished-before=0", *words],
        env=environment | {"SLURM_JOB_ID": "6", "SLURM_SUBMIT_DIR": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 1
    assert "submitted" not in answer.stderr
    assert "the chain ends" in answer.stdout


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


def two_ranks(crystals: Path, store: Path) -> tuple[str | Path, ...]:
    return ("-n", "2", "run", crystals, "--out", store, *QUICK)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """Crystals, the store of a run of two ranks, and what that has said."""
    folder = tmp_path_factory.mktemp("finished")
    crystals, store = write_crystals(folder), folder / "store.h5"
    return crystals, store, give(bare_environment(), *two_ranks(crystals, store))


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
        self, finished: tuple[Path, Path, subprocess.CompletedProcess[str]]
    ) -> None:
        crystals, store, first = finished
        assert first.returncode == 0, first.stderr
        assert f"store: {store}" in first.stdout
        assert (hpcbench.open(store).table["status"] == "done").sum() == 5
        again = give(bare_environment(), *two_ranks(crystals, store))
        assert again.returncode == 0, again.stderr
        assert "0 to compute" in again.stdout

    def test_other_settings_are_wrong_use_also_of_a_finished_store(
        self, finished: tuple[Path, Path, subprocess.CompletedProcess[str]]
    ) -> None:
        words = two_ranks(*finished[:2])
        answer = give(bare_environment(), *words, "--displacement", "0.02")
        assert answer.returncode == 2
        assert "displacement" in answer.stderr

    @pytest.mark.skipif(not system_calls.can_count(), reason="needs strace that may trace")
    def test_staged_weights_are_read_from_the_shared_disk_once_a_node(
        self,
        environment: dict[str, str],
        small_environment: dict[str, str],
        tmp_path: Path,
    ) -> None:
        ase.io.write(tmp_path / "salt.extxyz", [bulk("NaCl", "rocksalt", a=5.6)] * 2)
        model = "mattersim-v1.0.0-1M"
        weights = tmp_path / ".local/mattersim/pretrained_models" / f"{model}.pth"
        weights.parent.mkdir(parents=True)
        shutil.copy(DEMO_WEIGHTS, weights)
        disk = tmp_path / "disk"
        disk.mkdir()
        environment |= small_environment | {"TMPDIR": str(disk), "HOME": str(tmp_path)}
        log = tmp_path / "strace.log"
        answer = subprocess.run(
            ["strace", "-f", "-qq", "-e", "trace=openat", "-e", "signal=none", "-o", log,
             LAUNCH, "--stage", "-n", "2", "run", tmp_path / "salt.extxyz", "--out",
             tmp_path / "store.h5", "--model", model, "--device", "cpu", "--workers", "0",
             *in_file(max_edges=4000), "--max-steps", "1", "--mesh", "2", "2", "2", "--no-report",
             "--supercell", "2", "2", "2"],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert answer.returncode in (0, 1), answer.stderr
        assert len(hpcbench.open(tmp_path / "store.h5").table) == 1
        opened = [
            path
            for path in re.findall(r'openat\(AT_FDCWD, "([^"]*)", O_RDONLY', log.read_text())
            if path.endswith(str(weights))
        ]
        assert opened.count(str(weights)) == 1
        assert sum(path.startswith(str(disk)) for path in opened) >= 2

    def test_staged_weights_may_be_a_file_of_ones_own(
        self, environment: dict[str, str], small_environment: dict[str, str], tmp_path: Path
    ) -> None:
        own = shutil.copy(DEMO_WEIGHTS, tmp_path / "own.pth")
        (tmp_path / "hpcbench.toml").write_text(f'sources = ["jobs/demo"]\nmodel = "{own}"\n')
        answer = give(
            environment | small_environment,
            "--dry-run", "--stage", "-n", "2", "run", "--config", tmp_path / "hpcbench.toml",
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        assert f".tar {own} " in answer.stderr

    def test_results_that_cannot_join_a_damaged_store_are_no_success(
        self,
        finished: tuple[Path, Path, subprocess.CompletedProcess[str]],
        environment: dict[str, str],
        tmp_path: Path,
    ) -> None:
        crystals, undamaged, _ = finished
        store = tmp_path / "store.h5"
        words = ("--out", store, *QUICK)
        shutil.copy(undamaged, store)
        shutil.copytree(f"{undamaged}.run", f"{store}.run", symlinks=True)
        with h5py.File(store) as file:
            chunk = file["ragged/force_constants/values"].id.get_chunk_info(0)
        with store.open("r+b") as stream:
            stream.seek(chunk.byte_offset + chunk.size // 2)
            stream.write(b"damage")
        more = tmp_path / "more.extxyz"
        ase.io.write(more, [bulk("Pt", "fcc", a=3.9), bulk("Pd", "fcc", a=3.9)])
        answer = give(environment, "-n", "2", "run", crystals, more, *words)
        assert answer.returncode == 3, answer.stderr
        assert f"hpcbench repair {store}" in answer.stderr

    def test_failed_crystal(
        self, environment: dict[str, str], crystals: Path, tmp_path: Path
    ) -> None:
        # EMT has no iron.
        ase.io.write(crystals, [bulk("Cu", "fcc", a=3.6), bulk("Fe", "bcc", a=2.9)])
        answer = give(environment, "-n", "2", "run", crystals, "--out", tmp_path / "s.h5", *QUICK)
        assert answer.returncode == 1, answer.stderr

    # SIGUSR2: test_scheduler, test_slurm.
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped_and_continued(
        self, started: Callable[[], subprocess.Popen[str]], many: Path, number: int
    ) -> None:
        process = started()
        wait_for(many.with_name("many.h5"), "crystal", process)
        take(many.parent, 0.5)  # the others do not come to an end
        process.send_signal(number)
        output = process.communicate(timeout=240)[0]
        assert process.returncode == ASKED_TO_STOP, output
        store = hpcbench.open(many.with_name("many.h5"))
        assert 0 < len(store.table) < MANY
        assert not list(store.folder.segments.glob("*")), "consolidated at the end"
        assert not left_of(many)
        if number != signal.SIGINT:
            return
        take(many.parent, 0.0)
        process = started()
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
        assert len(hpcbench.open(many.with_name("many.h5")).table) == MANY

    def test_second_interrupt_ends_at_once(
        self, started: Callable[[], subprocess.Popen[str]], many: Path
    ) -> None:
        process = started()
        wait_for(many.with_name("many.h5"), "lease", process)
        take(many.parent, 1e6)  # a call that does not come to an end
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == ASKED_TO_STOP
        assert not left_of(many)

    def test_stopped_before_the_ranks_are_there(
        self, started: Callable[[], subprocess.Popen[str]], many: Path
    ) -> None:
        process = started()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("+ ")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == ASKED_TO_STOP
        assert not left_of(many)

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        """Crystals that take as long as a test lets them."""
        path = tmp_path / "many.extxyz"
        ase.io.write(path, [bulk("Cu", "fcc", a=3.5 + 0.02 * number) for number in range(MANY)])
        slow_potential(tmp_path, 0.05)
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
                [LAUNCH, "-n", "2", "run", many, "--out", store, *QUICK, *SLOWLY],
                env=environment,
                cwd=many.parent,
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


MANY = 10
SLOWLY = ("--model", SLOW, *in_file(block=1, commit_interval=0.3))


def left_of(path: Path) -> list[int]:
    """Processes that are still there a moment later: one that is ending closes its output first."""
    end = time.monotonic() + 5.0
    while processes_of(path) and time.monotonic() < end:
        time.sleep(0.1)
    return processes_of(path)


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


def test_variables_that_an_mpiexec_has_left_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcbench.errors import LaunchError
    from hpcbench.scheduler.world import join_world

    closed = os.open(os.devnull, os.O_RDONLY)
    os.close(closed)
    left = {"PMI_FD": str(closed), "PMI_SIZE": "4", "PMI_RANK": "0"}
    with pytest.raises(LaunchError, match="unset PMI_SIZE PMI_RANK PMI_FD"):
        join_world(left)


def test_where_there_is_no_srun_mpiexec_does_not_look_for_it(
    environment: dict[str, str],
) -> None:
    lines = 'source jobs/lib/launchers.sh; say() { echo "$@"; }; forget_slurm; env'
    variables = {"SLURM_JOB_ID": "7", "SLURM_NODELIST": "node[1-9]", "SLURM_JOB_END_TIME": "5"}
    answer = subprocess.run(
        ["bash", "-c", lines], cwd=ROOT, env=environment | variables, capture_output=True, text=True
    )
    assert "there is no srun here" in answer.stdout
    assert "SLURM_NODELIST" not in answer.stdout
    assert "SLURM_JOB_END_TIME=5" in answer.stdout
