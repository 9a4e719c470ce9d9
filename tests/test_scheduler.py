"""Sharing out, leases, progress, worlds; one rank and several, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from launching import (
    EMT,
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
from hpcbench.crystal import Crystal, content_id
from hpcbench.errors import (
    DeviceError,
    LaunchError,
    PotentialError,
    StoreMismatchError,
    TooLargeError,
)
from hpcbench.events import EventLog, ProgressReader, duration, read_events
from hpcbench.planning.blocks import make_blocks
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.scheduler import devices
from hpcbench.scheduler.devices import choose_device
from hpcbench.scheduler.world import SingleProcess, find_launcher, join_world


def test_every_row_is_in_one_block_most_expensive_first() -> None:
    rng = np.random.default_rng(0)
    costs = rng.lognormal(sigma=2, size=1000)
    rows = list(range(1000))
    blocks = make_blocks(rows, costs, ranks=8)
    assert sorted(row for block in blocks for row in block.rows) == rows
    flat = [costs[row] for block in blocks for row in block.rows]
    assert flat == sorted(flat, reverse=True)
    share = costs.sum() / (8 * 8)
    for block in blocks:
        assert len(block.rows) == 1 or sum(costs[row] for row in block.rows) <= share
    assert max(len(block.rows) for block in blocks) > 1
    assert all(len(block.rows) <= 2 for block in make_blocks(rows, costs, 8, largest=2))
    assert make_blocks([], [], 4) == []


def test_longest_first_keeps_ranks_busy_on_a_skewed_list() -> None:
    costs = np.random.default_rng(1).lognormal(sigma=1.2, size=5000)
    blocks = make_blocks(range(2000), costs, ranks=32)
    ranks = np.zeros(32)
    for block in blocks:
        ranks[ranks.argmin()] += sum(costs[row] for row in block.rows)
    assert ranks.mean() / ranks.max() > 0.97


def test_launchers_are_known_by_their_variables() -> None:
    assert find_launcher({}) is None
    assert find_launcher({"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_launcher({"SLURM_NTASKS": "4"}) is None  # a batch script, not a step
    launcher = find_launcher({"SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "4"})
    assert launcher is not None
    assert (launcher.name, launcher.size) == ("srun", 4)
    assert isinstance(join_world({}), SingleProcess)


def test_processes_that_do_not_find_each_other_are_refused() -> None:
    """As with srun and the wrong --mpi: every process would do all the work."""
    script = (
        "from hpcbench.scheduler.world import join_world\n"
        "from hpcbench.errors import LaunchError\n"
        "try: join_world()\n"
        "except LaunchError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "SLURM"))}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"SLURM_STEP_NUM_TASKS": "4"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "started 4 processes, but MPI sees a world of 1" in result.stdout
    assert "--mpi=pmi2" in result.stdout


class ToyWorld(SingleProcess):
    """A world of which this process sees all ranks' values."""

    def __init__(self, others: list[tuple]) -> None:
        self.others = others
        self.size = 1 + len(others)

    def share(self, value):  # type: ignore[no-untyped-def]
        return [value, *self.others]


def test_two_ranks_on_one_gpu_are_refused_with_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_local_device", lambda wanted, rank: ("cuda:0", "GPU-aaaa"))
    monkeypatch.setattr(devices.socket, "gethostname", lambda: "node1")
    same = ToyWorld([(1, "node1", "cuda:0", "GPU-aaaa", "")])
    with pytest.raises(DeviceError, match=r"node1 GPU-aaaa: ranks \[0, 1\]"):
        choose_device("auto", same, share_gpu=False)
    assert choose_device("auto", same, share_gpu=True) == "cuda:0"
    elsewhere = ToyWorld(
        [(1, "node2", "cuda:0", "GPU-aaaa", ""), (2, "node1", "cuda:1", "GPU-b", "")]
    )
    assert choose_device("auto", elsewhere, share_gpu=False) == "cuda:0"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:97"])
def test_devices_that_do_not_exist_are_said_so(device: str) -> None:
    with pytest.raises(DeviceError, match=r"unknown device|torch sees"):
        choose_device(device, SingleProcess(), share_gpu=False)


def test_another_ranks_device_problem_ends_all() -> None:
    world = ToyWorld([(1, "node2", "cpu", "", "torch sees 0 GPUs here")])
    with pytest.raises(DeviceError, match="rank 1 on node2: torch sees 0 GPUs"):
        choose_device("cpu", world, share_gpu=False)


def test_progress_is_read_from_logs_being_written(tmp_path: Path) -> None:
    old, new = EventLog(tmp_path, 0, "1"), EventLog(tmp_path, 0, "2")
    old.write("start", total=9, before=0)
    old.write("crystal", id="z", status="done", verdict="stable")
    # Kept back for a while otherwise, on a machine that halts in between.
    old.flush()
    reader = ProgressReader(tmp_path)
    assert reader.read().finished == 1
    new.write("start", total=10, before=4)
    new.write("crystal", id="a", status="done", verdict="stable")
    new.write("crystal", id="b", status="failed", verdict="")
    new.write("crystal", id="a", status="done", verdict="stable")  # computed twice: counts once
    new.flush()
    with (tmp_path / "rank-00000.jsonl").open("a") as stream:
        stream.write('{"time": 1, "launch": "2", "ev')  # a line not yet whole
    progress = reader.read()
    assert (progress.total, progress.before, progress.done) == (10, 4, 1)
    assert (progress.failed, progress.stable, progress.finished) == (1, 1, 6)
    assert progress.line().startswith("6/10 crystals, 1 stable, 1 failed")
    events, _ = read_events(tmp_path / "rank-00000.jsonl")
    assert {"time", "rank", "launch", "event"} <= events[0].keys()


def test_durations_for_people() -> None:
    assert [duration(s) for s in (45, 600, 12_600, 200_000)] == ["45 s", "10 min", "3.5 h", "2.3 d"]


@pytest.fixture
def crystals(tmp_path: Path, metals: list[Atoms]) -> Path:
    folder = tmp_path / "crystals"
    folder.mkdir()
    for number, atoms in enumerate(metals):
        write(folder / f"metal-{number}.cif", atoms)
    # One that EMT does not know, one that is no crystal.
    write(folder / "silicon.cif", bulk("Si"))
    (folder / "broken.cif").write_text("data_\n_cell_length_a nonsense\n")
    return folder


@pytest.mark.mpi
def test_one_and_three_ranks_give_the_same(
    tmp_path: Path, crystals: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # One process says that some crystals failed; ranks leave that to `status --exit-code`.
    assert run_here([str(crystals), "--out", str(tmp_path / "1.h5")]) == 1
    said = {1: capfd.readouterr().out}
    # With processes beside the ranks', too.
    result = run([str(crystals), "--out", str(tmp_path / "3.h5"), "--workers", "1"], 3)
    assert result.returncode == 0, result.stderr
    said[3] = result.stdout
    for ranks, text in said.items():
        assert f"on {ranks} rank" in text
        assert "metal-0" in text
    first, other = (hpcbench.open(tmp_path / f"{ranks}.h5") for ranks in said)
    assert sorted(first.table["status"]) == ["done"] * 5 + ["failed", "unreadable"]
    assert set(other.ids) == set(first.ids)
    for key in first.ids:
        a, b = first.row(key), other.row(key)
        for name in ("name", "origins", "status", "reason", "verdict", "spacegroup"):
            assert a[name] == b[name]
        for name in ("relaxed_positions", "force_constants", "energy"):
            np.testing.assert_allclose(a[name], b[name], atol=1e-9, rtol=0)
        # Stored rounded: noise may tip one over to the next step.
        np.testing.assert_allclose(a["band_frequencies"], b["band_frequencies"], atol=1e-5, rtol=0)
    # The work was shared.
    ranks = set(other.table.query("status == 'done'")["rank"])
    assert ranks <= {0, 1, 2}
    assert len(ranks) > 1


MANY = 8


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run of crystals that take as long as a test lets them."""
    names = ("Cu", "Al", "Ni", "Ag")
    frames = [bulk(names[n % 4], "fcc", a=3.7 + 0.01 * n) for n in range(MANY)]
    write(tmp_path / "many.extxyz", frames)
    slow_potential(tmp_path, 0.05)
    monkeypatch.chdir(tmp_path)
    return ["many.extxyz", "--out", "s.h5", "--model", SLOW, *in_file(block=1, commit_interval=0.3)]


def require_goes_on(many: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The same command computes what is left, and nothing again."""
    out = Path("s.h5")
    before = hpcbench.open(out)
    assert 0 < len(before) < MANY
    finished_at = dict(before.table["finished"])
    take(Path(), 0.0)
    capfd.readouterr()
    assert run_here(many) == 0
    assert f"{MANY} crystals, {MANY - len(before)} to compute" in capfd.readouterr().out
    after = hpcbench.open(out)
    assert len(after) == len(set(after.ids)) == MANY
    assert after.folder.segment_paths() == []
    # Finished crystals were not computed again.
    for key, when in finished_at.items():
        assert after.table.loc[key, "finished"] == when
    assert run_here(many) == 0
    assert f"{MANY} crystals, 0 to compute" in capfd.readouterr().out


# SIGTERM: test_launch.
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGUSR2])
def test_a_run_that_was_stopped_goes_on_where_it_was(
    many: list[str], number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "hpcbench", "run", *QUICK, "--no-report", *many]
    with subprocess.Popen(command) as process:
        # SIGKILL asks for a committed segment, the others commit what they have.
        event = "commit" if number == signal.SIGKILL else "crystal"
        wait_for(Path("s.h5"), event, process)
        take(Path(), 0.5)  # the others do not come to an end
        process.send_signal(number)
        code = process.wait(240)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    require_goes_on(many, capfd)


@pytest.mark.mpi
def test_ranks_that_are_all_killed_leave_a_run_that_goes_on(
    many: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "hpcbench", "run", *QUICK, "--no-report", *many]
    with subprocess.Popen([*mpiexec(2), *command], stdout=subprocess.DEVNULL) as process:
        wait_for(Path("s.h5"), "commit", process)
        take(Path(), 0.5)
        for path in Path("s.h5.run", "events").glob("*.jsonl"):
            start = json.loads(path.read_text().splitlines()[0])
            os.kill(start["pid"], signal.SIGKILL)
        process.wait(240)
    require_goes_on(many, capfd)


@pytest.mark.mpi
def test_a_rank_without_its_potential_leaves_the_work_to_the_others(
    tmp_path: Path, crystals: Path
) -> None:
    (tmp_path / "flaky.py").write_text(
        "import os\n"
        "from ase.calculators.emt import EMT\n"
        "def make():\n"
        "    if os.environ.get('PMI_RANK') == '1': raise RuntimeError('no weights here')\n"
        "    return EMT()\n"
    )
    out = tmp_path / "s.h5"
    result = run(
        [str(crystals), "--out", str(out), "--model", "flaky:make"],
        ranks=2,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 3
    assert "no weights here" in result.stderr
    store = hpcbench.open(out)
    assert store.unfinished_ids() == []
    assert set(store.table.query("status == 'done'")["rank"]) == {0}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        # Another process took the GPU's memory: no crystal is too large.
        TooLargeError("the memory of cuda:0 did not suffice"),
    ],
)
def test_a_potential_that_breaks_does_not_fail_the_rest_of_the_list(
    error: Exception, tmp_path: Path, metals: list[Atoms]
) -> None:
    sound = hpcbench.load_potential(EMT, dtype="float64")
    seen: set[str] = set()

    class Broken(OneByOne):
        info = sound.info

        def evaluate(self, structures, *, stress=False):  # type: ignore[no-untyped-def]
            seen.add(str(structures[0].symbols))
            if len(seen) > 4:
                raise error
            return sound.evaluate(structures, stress=stress)

    class Unwilling(OneByOne):
        """Refuses one crystal, and is well otherwise."""

        info = sound.info

        def evaluate(self, structures, *, stress=False):  # type: ignore[no-untyped-def]
            if set(structures[0].symbols) == refused:
                raise RuntimeError("not this one")
            return sound.evaluate(structures, stress=stress)

    out = tmp_path / "s.h5"
    with pytest.raises(PotentialError, match="does not compute any more"):
        hpcbench.run(
            metals, model=Broken(), out=out, mesh=(4, 4, 4), supercell=(2, 2, 2), workers=0
        )
    table = hpcbench.open(out).table
    assert 0 < len(table) < len(metals)
    assert (table["status"] == "done").all()
    left = [atoms for atoms in metals if Crystal.from_ase(atoms).id not in table.index]
    refused = set(left[-1].symbols)
    result = hpcbench.run(metals, model=Unwilling(), out=out, mesh=(4, 4, 4), supercell=(2, 2, 2))
    expected = ["failed" if set(a.symbols) == refused else "done" for a in left]
    ids = [Crystal.from_ase(atoms).id for atoms in left]
    assert list(result.table.loc[ids, "status"]) == expected
    reason = result.table.loc[ids[-1], "reason"]
    assert reason == "potential: RuntimeError: not this one"


def test_a_start_that_failed_leaves_no_store_behind(tmp_path: Path, metals: list[Atoms]) -> None:
    out = tmp_path / "s.h5"
    with pytest.raises(PotentialError, match="has no Nothing"):
        hpcbench.run(metals[:1], model="ase.calculators.emt:Nothing", out=out)
    assert not out.exists()
    result = hpcbench.run(metals[:1], model=EMT, out=out, mesh=(4, 4, 4), supercell=(2, 2, 2))
    assert list(result.table["status"]) == ["done"]


def test_ase_calculators_may_be_given_as_they_are(metals: list[Atoms]) -> None:
    from ase.calculators.emt import EMT as Calculator  # noqa: N811

    result = hpcbench.run(metals[:2], model=Calculator(), mesh=(4, 4, 4), supercell=(2, 2, 2))
    assert list(result.table["status"]) == ["done", "done"]
    with pytest.raises(hpcbench.HpcbenchError, match="give a name, a loaded potential"):
        hpcbench.run(metals[:2], model=Calculator)
    with pytest.raises(hpcbench.HpcbenchError, match="give a list"):
        hpcbench.run(metals[0], model=Calculator())
    with pytest.raises(hpcbench.HpcbenchError, match="loaded in float32"):
        hpcbench.run(metals[:2], model=Calculator(), dtype="float64")


def test_a_calculator_without_stress_will_do_where_none_is_needed(metals: list[Atoms]) -> None:
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.calculators.emt import EMT as Calculator  # noqa: N811

    class Stressless(Calculator):
        def get_stress(self, atoms=None):  # type: ignore[no-untyped-def]
            raise PropertyNotImplementedError("stress")

    for mode in ("none", "positions"):
        result = hpcbench.run(
            metals[:1], model=Stressless(), relax=mode, mesh=(4, 4, 4), supercell=(2, 2, 2)
        )
        assert list(result.table["status"]) == ["done"], result.table["reason"].iloc[0]


def test_ids_do_not_depend_on_wrapping_nor_on_rounding_at_half_steps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        cell = np.round(np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-1, 1, (3, 3)), 2)
        fractional = np.round(rng.uniform(0, 1, (8, 3)), 4)
        numbers = rng.integers(1, 80, 8)
        shifts = rng.integers(-2, 3, (8, 3))
        ids = {
            content_id(cell, positions @ cell, numbers)
            for positions in (fractional, fractional + shifts)
        }
        assert len(ids) == 1


def test_ctrl_c_in_a_program_loses_nothing_that_is_finished(
    tmp_path: Path, metals: list[Atoms]
) -> None:
    sound = hpcbench.load_potential(EMT, dtype="float64")
    seen: set[str] = set()

    class Interrupted(OneByOne):
        info = sound.info

        def evaluate(self, structures, *, stress=False):  # type: ignore[no-untyped-def]
            seen.add(str(structures[0].symbols))
            if len(seen) > 4:
                raise KeyboardInterrupt
            return sound.evaluate(structures, stress=stress)

    out = tmp_path / "s.h5"
    with pytest.raises(KeyboardInterrupt):
        hpcbench.run(
            metals, model=Interrupted(), out=out, mesh=(4, 4, 4), supercell=(2, 2, 2), workers=0
        )
    assert 0 < len(hpcbench.open(out)) < len(metals)
    result = hpcbench.run(metals, model=sound, out=out, mesh=(4, 4, 4), supercell=(2, 2, 2))
    assert (result.table["status"] == "done").all()


def test_changed_settings_are_refused(tmp_path: Path, metals: list[Atoms]) -> None:
    import ase.calculators.emt

    from hpcbench.potentials.ase_calculator import CalculatorPotential
    from hpcbench.potentials.protocol import PotentialInfo

    info = PotentialInfo("emt", "ase", "", "", "float64", "cpu", None)
    potential = CalculatorPotential(ase.calculators.emt.EMT(), info)
    out = tmp_path / "s.h5"
    hpcbench.run(metals[:1], model=potential, out=out, mesh=(4, 4, 4), supercell=(2, 2, 2))
    with pytest.raises(StoreMismatchError, match=r"displacement: 0\.01 in the store, 0\.02 now"):
        hpcbench.run(
            metals[:1],
            model=potential,
            out=out,
            mesh=(4, 4, 4),
            supercell=(2, 2, 2),
            displacement=0.02,
        )
    # Where and how much at a time may change.
    result = hpcbench.run(
        metals[:2], model=potential, out=out, mesh=(4, 4, 4), supercell=(2, 2, 2), block=1
    )
    assert list(result.table["status"]) == ["done", "done"]


def test_python_call_returns_the_table_in_the_order_given(metals: list[Atoms]) -> None:
    before = set(os.listdir())
    result = hpcbench.run(metals, model=EMT, mesh=(4, 4, 4), supercell=(2, 2, 2), dtype="float64")
    assert [Crystal.from_ase(atoms).id for atoms in metals] == list(result.table["id"])
    assert result.store is None
    assert set(os.listdir()) == before
    assert result.table["verdict"].isin(["stable", "unstable"]).all()


def test_launch_error_is_a_setup_error() -> None:
    assert LaunchError("x").exit_code == 3
