"""Runs by linear response, and those that check interpolated frequencies with it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.criteria import LONG_WAVES
from hpcbench.engine.response_tasks import plan_check
from hpcbench.errors import EvaluationError
from hpcbench.phonons.exact_q import Answer, decide_checked
from hpcbench.phonons.rational import NO_SUSPICIONS, Suspicions
from hpcbench.phonons.supercells import displace, half_again
from hpcbench.potentials.columns import Columns, Response
from hpcbench.potentials.protocol import Linearised
from hpcbench.results.analysis_settings import phonon_settings
from hpcbench.results.checked_columns import surely_below

QUICK: dict[str, Any] = {"mesh": (6, 6, 6), "band_points": 21, "report": False}


def computed(tmp_path: Path, potential: Any, name: str, **settings: Any) -> hpcbench.Store:
    atoms = read(DEMO / f"{name}.cif")
    atoms.info["name"] = name
    hpcbench.run([atoms], model=potential, out=tmp_path / "store.h5", **QUICK, **settings)
    return hpcbench.open(tmp_path / "store.h5")


@pytest.fixture(scope="module")
def nitride(tmp_path_factory: pytest.TempPathFactory, demo32: Any) -> hpcbench.Store:
    """AlN in 2x2x2, whose negative frequency at (0.02, 0, 0) is of the interpolation alone."""
    folder = tmp_path_factory.mktemp("nitride")
    return computed(folder, demo32, "AlN_start_strained", supercell=(2, 2, 2))


def test_a_false_mode_goes_with_more_q(nitride: hpcbench.Store) -> None:
    (key,) = nitride.ids
    row, first = nitride.row(key), nitride.row(f"{key}:first")
    assert first["min_frequency_path"] < -0.3
    assert first["verdict_phononbench_v3"] == "unstable"
    # It was computed where interpolation has it lowest, and is not negative there.
    assert (first["computed_frequencies"] > -0.1).all()
    assert first["interpolation_error"] > 0.3
    assert (row["verdict"], row["cause"], row["again"]) == ("stable", "", "refined")
    assert (first["derivative"], row["derivative"]) == ("displacement", "response")
    assert row["interpolation_error"] <= 0.1
    assert row["min_frequency_path"] > -0.1
    assert row["response_columns"] > 0
    assert row["displacements"] == 0
    assert np.diag(row["supercell_matrix"]).min() > 2


def test_what_was_computed_decides_a_reanalysis_too(
    nitride: hpcbench.Store, tmp_path: Path
) -> None:
    out = tmp_path / "other.h5"
    words = ["reanalyse", str(nitride.path), "--out", str(out), "--workers", "0"]
    assert main([*words, "--band-points", "21", "--mesh", "6", "6", "6"]) == 0
    other = hpcbench.open(out)
    for key in (*nitride.ids, *nitride.history.ids):
        before, after = nitride.row(key), other.row(key)
        for name in ("verdict", "cause", "derivative", "response_columns", "within_noise"):
            assert before[name] == after[name], name
        np.testing.assert_array_equal(before["elastic_constants"], after["elastic_constants"])
        np.testing.assert_array_equal(before["computed_qpoints"], after["computed_qpoints"])
    # On another path the lowest long wave of the first computation is one that was not computed.
    words[3] = str(tmp_path / "finer.h5")
    assert main([*words, "--band-points", "31", "--mesh", "6", "6", "6"]) == 0
    finer = hpcbench.open(words[3])
    assert finer.row(nitride.ids[0])["verdict"] == "stable"
    first = finer.row(f"{nitride.ids[0]}:first")
    assert (first["verdict"], first["cause"]) == ("undetermined", "long waves")


def test_the_report_tells_of_it(
    nitride: hpcbench.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", nitride.ids[0], str(nitride.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "linear response at more q" in shown
    row = nitride.row(nitride.ids[0])
    assert f"linear response {row['response_columns']} columns, q of 5 x 5 x" in shown
    lowest = row["computed_frequencies"].min()
    assert f"lowest, computed q {lowest:.4f} THz at (" in shown
    assert f"off by {row['interpolation_error']:.3f} THz at most, at" in shown
    assert f"lowest eigenvalue {row['lowest_stiffness']:.1f}" in shown


def test_elastic_constants_of_a_run(nitride: hpcbench.Store) -> None:
    """Hexagonal: by symmetry C11 = C22, C66 = (C11 - C12) / 2."""
    constants = nitride.row(nitride.ids[0])["elastic_constants"]
    assert constants[0, 0] == pytest.approx(constants[1, 1], rel=1e-3)
    assert constants[5, 5] == pytest.approx((constants[0, 0] - constants[0, 1]) / 2, rel=1e-3)
    assert 0 < nitride.row(nitride.ids[0])["lowest_stiffness"] < constants[0, 0]
    assert 3000 < nitride.row(nitride.ids[0])["slowest_sound"] < 8000


def test_both_ways_in_one_run(tmp_path: Path, demo64: Any) -> None:
    store = computed(
        tmp_path, demo64, "MgO_start_strained", supercell=(3, 3, 3), derivative="both",
        interpolation_error=0.0, dtype="float64",
    )  # fmt: skip
    (key,) = store.ids
    kinds = [store.row(one)["again"] for one in store.computations(key)]
    assert kinds[0] == "first"
    assert kinds[-1] == "response"
    last, first = store.row(key), store.row(f"{key}:first")
    assert (first["derivative"], last["derivative"]) == ("displacement", "response")
    change = np.abs(last["force_constants"] - first["force_constants"]).max()
    assert 1e-6 < change < 0.02  # the length of the displacements
    assert last["min_frequency_mesh"] == pytest.approx(first["min_frequency_mesh"], abs=0.02)


def test_the_protocol_exact(tmp_path: Path, demo32: Any) -> None:
    store = computed(tmp_path, demo32, "Cu_start_strained", protocol="exact")
    row = store.row(store.ids[0])
    assert (row["verdict"], row["derivative"], row["again"]) == ("stable", "response", "")
    assert row["displacements"] == 0
    assert row["interpolation_error"] < 0.1
    assert store.settings["derivative"] == "response"
    assert len(store.phonopy(store.ids[0]).supercell) == 216


def test_a_crystal_that_is_not_at_its_minimum_is_told_of(tmp_path: Path, demo32: Any) -> None:
    store = computed(
        tmp_path, demo32, "MgO_start_rattled", protocol="exact", relax="none", supercell=(2, 2, 2)
    )
    row = store.row(store.ids[0])
    assert row["status"] == "done"
    assert f"not at its minimum: forces of up to {row['fmax']:.2g} eV/A" in row["notes"]


def test_the_papers_protocol_is_left_as_it_is(tmp_path: Path, demo32: Any) -> None:
    store = computed(tmp_path, demo32, "MgO_start_strained", protocol="phononbench")
    row = store.row(store.ids[0])
    assert store.computations(store.ids[0]) == store.ids
    assert (row["derivative"], row["response_columns"]) == ("displacement", 0)
    assert np.isnan(row["interpolation_error"])


class Failing:
    """The demo, whose response fails at q of a third."""

    def __init__(self, potential: Any) -> None:
        self._potential = potential

    def __getattr__(self, name: str) -> Any:
        return getattr(self._potential, name)

    def respond(self, linearised: Linearised, columns: list[Columns]) -> list[Response]:
        thirds = 3 * columns[0].qpoints
        if (np.abs(thirds - np.rint(thirds)) < 1e-6).any(where=columns[0].qpoints > 0.1):
            raise EvaluationError("made up")
        found: list[Response] = self._potential.respond(linearised, columns)
        return found


def test_what_was_compared_stays_when_the_rest_fails(tmp_path: Path, demo32: Any) -> None:
    store = computed(tmp_path, Failing(demo32), "AlN_start_strained", supercell=(2, 2, 2))
    row = store.row(store.ids[0])
    assert (row["status"], row["again"], row["derivative"]) == ("done", "", "displacement")
    assert row["interpolation_error"] > 0.3
    assert "not computed again (at more q): made up" in row["notes"]
    assert row["verdict"] != "unstable"


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.diag([2, 2, 2]), np.diag([3, 3, 2])),  # layers along c: c is high enough, and stays
        (np.diag([1, 1, 4]), np.diag([2, 2, 4])),
        (np.diag([8, 8, 3]), np.diag([8, 8, 3])),  # no more room
    ],
)
def test_no_direction_becomes_lower(matrix: Any, expected: Any) -> None:
    cell = np.diag([3.1, 3.1, 12.3])
    positions = np.array([[0.0, 0.0, 2.0], [1.5, 1.5, 5.0], [1.5, 0.0, 8.0], [0.0, 1.5, 11.0]])
    np.testing.assert_array_equal(half_again(cell, positions, matrix, 1000), expected)


def test_what_was_computed_below_stays_below(demo32: Any) -> None:
    """A q of the first supercell that the next one does not hold."""
    q = np.array([0.5, 0.0, 0.0])
    columns = {
        "verdict_exact_q": "unstable", "min_q_commensurate": q, "min_frequency_commensurate": -0.2,
        "computed_qpoints": [np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])],
        "computed_frequencies": np.array([-0.15, 1.0, 0.2, 1.0]),
    }  # fmt: skip
    settings = phonon_settings(hpcbench.RunConfig().resolved())
    found = surely_below(columns, settings)
    np.testing.assert_array_equal(found, [q, [0.1, 0.2, 0.3]])
    assert surely_below(columns | {"verdict_exact_q": "undetermined"}, settings) == []
    phonon = displace(
        read(DEMO / "MgO_start_strained.cif"), supercell_matrix=np.diag([3, 3, 3]),
        primitive_matrix="auto", displacement=0.01, symprec=1e-5,
    )  # fmt: skip
    natoms = len(phonon.primitive), len(phonon.supercell)
    row = {
        "force_constants": np.zeros((*natoms, 3, 3)), "commensurate_qpoints": np.zeros((1, 3)),
        "min_q_path": np.zeros(3), "min_q_mesh": np.zeros(3),
    }  # fmt: skip
    planned, _ = plan_check(pickle.dumps(phonon), row, NO_SUSPICIONS, found)
    np.testing.assert_array_equal(planned.qpoints[:2], found)


def test_a_long_wave_that_was_not_computed_stays_open() -> None:
    found = Suspicions((), 0, np.nan, -0.3)
    assert decide_checked(found, [], -0.1, lowest_seen=False) == Answer("undetermined", LONG_WAVES)
    assert decide_checked(found, [], -0.1, lowest_seen=True) == Answer("stable")
