"""Test the analysis of stored force constants with other settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from launching import in_file, mpiexec

import hpcbench
from hpcbench.cli import main
from hpcbench.errors import StoreError
from hpcbench.store.run_folder import RunFolder

METALS = ("Cu", "Al", "Ag", "Pt")
TEMPERATURES = ("0", "75", "150", "300", "600")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metals, one of them unstable and one crystal that cannot be computed."""
    path = tmp_path_factory.mktemp("parent") / "metals.h5"
    crystals = [bulk(symbol) for symbol in METALS] + [bulk("Au", "sc", a=2.8), bulk("Si")]
    for crystal, name in zip(crystals, (*METALS, "Au sc", "Si"), strict=True):
        crystal.info["name"] = name
    hpcbench.run(
        crystals,
        model="ase.calculators.emt:EMT",
        out=path,
        mesh=(4, 4, 4),
        supercell=(2, 2, 2),
        band_points=11,
        dtype="float64",
        keep_dos=True,
    )
    return path


def reanalyse(parent: Path, out: Path, *arguments: str) -> hpcbench.Store:
    words = ["reanalyse", str(parent), "--out", str(out), "--workers", "0", *arguments]
    assert main(words) == 1, "one crystal has no phonons"
    return hpcbench.open(out)


@pytest.mark.parametrize(
    ("mesh", "cutoff"), [(("20", "20", "20"), "0"), (("75",), "0.1")], ids=["loew", "lee-xia"]
)
def test_thermal_properties_are_phonopys(
    mesh: tuple[str, ...], cutoff: str, parent: Path, tmp_path: Path
) -> None:
    """As Loew et al. have them, and as Lee and Xia."""
    settings = ("--mesh", *mesh, "--cutoff-frequency", cutoff, "--temperatures", *TEMPERATURES)
    store = reanalyse(parent, tmp_path / "t.h5", *settings, "--keep-dos")
    original = hpcbench.open(parent)
    for name in (*METALS, "Au sc"):
        row, phonon = store.row(store.find(name)), original.phonopy(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shifted meshes
            phonon.run_mesh(float(mesh[0]) if len(mesh) == 1 else [int(n) for n in mesh])
        thermal = phonon.run_thermal_properties(
            temperatures=[float(t) for t in TEMPERATURES], cutoff_frequency=float(cutoff)
        )
        for quantity in ("free_energy", "entropy", "heat_capacity"):
            theirs = np.array(getattr(thermal, quantity))
            np.testing.assert_allclose(row[quantity], theirs, rtol=1e-8, atol=1e-8)
        assert row["min_frequency_mesh"] == pytest.approx(phonon.mesh.frequencies.min(), abs=1e-6)
        dos = phonon.run_total_dos()
        np.testing.assert_allclose(row["dos_frequencies"], dos.frequency_points, atol=1e-6)
        np.testing.assert_allclose(row["dos"], dos.dos, atol=1e-4)
        if name != "Au sc":
            # All states of one atom. Gold's has peaks that are narrower than the step.
            states = np.trapezoid(row["dos"], row["dos_frequencies"])
            assert states == pytest.approx(3.0, abs=0.01)


def test_a_run_keeps_the_density_of_states_if_asked(parent: Path) -> None:
    store = hpcbench.open(parent)
    row = store.row(store.find("Cu"))
    assert np.trapezoid(row["dos"], row["dos_frequencies"]) == pytest.approx(3.0, abs=0.02)


def test_what_is_changed_is_changed_and_the_rest_is_as_it_was(parent: Path, tmp_path: Path) -> None:
    before = parent.read_bytes()
    (tmp_path / "own.toml").write_text(
        '[[criteria]]\nname = "own"\nplace = "mesh"\nthreshold = 1.0\n'
    )
    store = reanalyse(
        parent, tmp_path / "c.h5", "--criteria", str(tmp_path / "own.toml"),
        "--criterion", "own", "--band-points", "31",
    )  # fmt: skip
    assert parent.read_bytes() == before
    original = hpcbench.open(parent)
    assert store.ids == original.ids
    assert store.settings["criterion"] == "own"
    assert store.settings["reanalysis_of"] == original.settings["hash"]
    for key in ("protocol", "model", "mesh", "displacement"):
        assert store.settings[key] == original.settings[key]
    for result in store:
        old = original.row(result.id)
        assert (result.status, result.reason) == (old["status"], old["reason"])
        if result.status != "done":
            continue
        row = result.row
        assert row["verdict"] == row["verdict_own"]
        assert (row["verdict"] == "stable") == (row["min_frequency_mesh"] >= 1.0)
        assert row["verdict_phononbench_v3"] == old["verdict_phononbench_v3"]
        assert row["energy"] == old["energy"]
        assert row["min_frequency_mesh"] == pytest.approx(old["min_frequency_mesh"], abs=1e-9)
        assert len(row["band_qpoints"]) > 2 * len(old["band_qpoints"])
        assert result.force_constants is None
    with pytest.raises(StoreError, match="in the store that was analysed"):
        store.phonopy("Cu")
    assert main(["verify", str(tmp_path / "c.h5")]) == 0
    assert main(["diff", str(parent), str(tmp_path / "c.h5")]) == 1
    assert main(["report", str(tmp_path / "c.h5")]) == 0


def test_the_same_command_again_does_nothing_and_another_is_refused(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again.h5"
    reanalyse(parent, out, "--mesh", "5", "5", "5")
    capsys.readouterr()
    reanalyse(parent, out, "--mesh", "5", "5", "5")
    assert "0 to compute" in capsys.readouterr().out
    assert main(["reanalyse", str(parent), "--out", str(out), "--mesh", "6", "6", "6"]) != 0
    assert "mesh" in capsys.readouterr().err
    assert main(["reanalyse", str(out), "--mesh", "6", "6", "6"]) != 0
    assert "is a reanalysis itself" in capsys.readouterr().err
    assert hpcbench.open(out).settings["hash"] != hpcbench.open(parent).settings["hash"]


def test_by_default_it_is_written_beside_the_store(parent: Path) -> None:
    assert main(["reanalyse", str(parent), "--mesh", "3", "3", "3", "--workers", "1"]) == 1
    beside = parent.with_name("metals.again.h5")
    assert hpcbench.open(beside).settings["mesh"] == [3, 3, 3]


@pytest.mark.mpi
def test_ranks_share_the_work_and_survive_a_death(parent: Path, tmp_path: Path) -> None:
    whole = reanalyse(parent, tmp_path / "one.h5", "--mesh", "7", "7", "7")
    out = tmp_path / "many.h5"
    command = [sys.executable, "-m", "hpcbench", "reanalyse", str(parent), "--out", str(out)]
    command += ["--mesh", "7", "7", "7", "--workers", "0", *in_file(commit_interval=0)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*mpiexec(2), *command], env=environment) as process:
        events = RunFolder(out).events
        end = time.monotonic() + 60
        while not list(events.glob("rank-00001*")) and time.monotonic() < end:
            time.sleep(0.05)
        (log,) = events.glob("rank-00001*")
        pid = next(int(line.split('"pid": ')[1].split(",")[0].rstrip("}\n"))
                   for line in _lines(log, '"pid"'))  # fmt: skip
        os.kill(pid, signal.SIGKILL)
        process.wait(timeout=120)
    subprocess.run(command, check=False, env=environment, timeout=120)
    store = hpcbench.open(out)
    assert set(store.ids) == set(whole.ids)
    for key in whole.ids:
        one, other = whole.row(key), store.row(key)
        for name in ("verdict", "min_frequency_mesh", "heat_capacity", "status"):
            np.testing.assert_array_equal(one[name], other[name])


def _lines(path: Path, words: str) -> list[str]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [line for line in path.read_text().splitlines() if words in line]
        if found:
            return found
        time.sleep(0.05)
    return []
