"""Both protocols in one run: each as by itself, and one relaxation for both."""

from __future__ import annotations

from pathlib import Path

import ase.io
import by_hand
import numpy as np
import pandas
import pytest
import spglib
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.potentials.ase_calculator import PotentialCalculator
from hpcbench.report.html import write_report

NAMES = (
    "C_start_rattled", "MgO_start_rattled", "Si_start_rattled", "Ti_bcc_start_rattled",
    "Cu_start_strained",
)  # fmt: skip
# Ti_bcc_start_rattled is between: -1.7 THz by one protocol, -0.5 by the other.
LOOSE = ({"name": "loose", "place": "path", "threshold": -1.0},)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hpcbench.Store]:
    folder = tmp_path_factory.mktemp("both")
    crystals = [ase.io.read(DEMO / f"{name}.cif") for name in NAMES]
    for atoms, name in zip(crystals, NAMES, strict=True):
        atoms.info["name"] = name
    for protocol in ("both", "robust", "phononbench"):
        hpcbench.run(
            crystals,
            model="mattersim-demo",
            dtype="float64",
            protocol=protocol,
            criteria=LOOSE,
            criterion=None if protocol == "phononbench" else "loose",
            mesh=(6, 6, 6),
            supercell=(2, 2, 2),
            band_points=31,
            workers=0,
            out=folder / f"{protocol}.h5",
        )
    return {
        name: hpcbench.open(folder / f"{name}.h5") for name in ("both", "robust", "phononbench")
    }


def beside(store: hpcbench.Store) -> pandas.DataFrame:
    return store.beside.table.set_index("parent")


def test_the_literal_protocol_is_the_same_beside_as_alone(stores: dict) -> None:  # type: ignore[type-arg]
    alone, both = stores["phononbench"].table, beside(stores["both"])
    assert set(both.index) == set(alone.index)
    both = both.loc[alone.index]
    for column in ("verdict", "verdict_mesh", "relaxation_steps", "displacements", "spacegroup"):
        assert list(both[column]) == list(alone[column]), column
    np.testing.assert_allclose(both["min_frequency_path"], alone["min_frequency_path"], atol=1e-6)
    np.testing.assert_allclose(both["energy"], alone["energy"], atol=1e-9)


def test_the_runs_own_protocol_ends_where_it_ends_alone(stores: dict) -> None:  # type: ignore[type-arg]
    alone, both = stores["robust"].table, stores["both"].table.loc[stores["robust"].table.index]
    for column in ("verdict", "verdict_mesh", "displacements", "spacegroup", "idealised"):
        assert list(both[column]) == list(alone[column]), column
    # Both stop below 0.001 eV/A, at other places.
    stiff = alone["min_frequency_mesh"] > 0
    np.testing.assert_allclose(
        both["min_frequency_mesh"][stiff], alone["min_frequency_mesh"][stiff], rtol=0.02
    )
    np.testing.assert_allclose(both["energy"], alone["energy"], atol=1e-4)


def test_the_relaxation_is_shared(stores: dict) -> None:  # type: ignore[type-arg]
    steps = {name: int(store.table["relaxation_steps"].sum()) for name, store in stores.items()}
    assert steps["both"] < 1.15 * max(steps["robust"], steps["phononbench"])
    assert (beside(stores["both"])["relaxation_steps"] > 0).all()


def test_false_modes_from_residual_strain_are_gone(stores: dict, demo64) -> None:  # type: ignore[type-arg,no-untyped-def]
    """Rattled diamond relaxes to 1e-4 of strain; its images are no longer equally far away."""
    store = stores["both"]
    key = store.find("C_start_rattled")
    calculator = PotentialCalculator(demo64)
    strained, _ = by_hand.minimise(
        ase.io.read(DEMO / "C_start_rattled.cif"), calculator, 0.0025, 500
    )
    phonon = by_hand.phonons(strained, calculator, (2, 2, 2))
    bands, _, _ = by_hand.get_band_qpoints_by_seekpath(phonon.primitive, 31, True)
    assert phonon.run_qpoints(np.concatenate(bands)).frequencies.min() < -1.0
    # Both protocols bring it to its symmetry before they displace it.
    for row in (store.row(store.computations(key)[0]), store.row(f"{key}:phononbench")):
        assert row["verdict_phononbench"] == row["verdict_mesh"] == "stable"
        assert row["min_frequency_path"] > -1e-3
        assert row["displacements"] == 1 < len(phonon.displacements)
        assert row["idealised"]


def test_symmetry_is_told_at_several_tolerances(stores: dict) -> None:  # type: ignore[type-arg]
    store = stores["both"]
    key = store.find("Si_start_rattled")
    here, literal = store.row(key), store.row(f"{key}:phononbench")
    given = ase.io.read(DEMO / "Si_start_rattled.cif")
    by_spglib = [
        spglib.get_symmetry_dataset(
            (given.cell[:], given.get_scaled_positions(), given.numbers), symprec=tolerance
        ).number
        for tolerance in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    ]
    assert by_spglib[0] != 227
    for row in (here, literal):
        assert list(row["spacegroup_numbers_before"]) == by_spglib
        assert list(row["spacegroup_numbers"]) == [227] * 5
        assert row["spacegroup_number"] == 227


def test_the_report_shows_both(stores: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    page = " ".join(write_report(stores["both"], tmp_path / "r.html").read_text().split())
    assert "5 crystals are done by phononbench to the letter" in page
    # Relaxed on from 0.0025 eV/A, a soft mode is another one.
    assert '<td class="name">Ti_bcc_start_rattled</td>' in page
    assert "path, -0.001 THz" in page
    assert "Two protocols" not in write_report(stores["robust"], tmp_path / "q.html").read_text()


def test_a_reanalysis_has_both(stores: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    out = tmp_path / "again.h5"
    words = ["reanalyse", str(stores["both"].path), "--out", str(out), "--workers", "0"]
    assert main([*words, "--mesh", "5", "5", "5"]) == 0
    first, again = beside(stores["both"]), beside(hpcbench.open(out))
    again = again.loc[first.index]
    assert list(again["verdict"]) == list(first["verdict"])
    np.testing.assert_allclose(again["min_frequency_path"], first["min_frequency_path"], atol=1e-6)


def test_what_the_literal_protocol_gave_outlives_the_failure_of_the_other(tmp_path: Path) -> None:
    atoms = ase.io.read(DEMO / "Si_start_rattled.cif")
    out = tmp_path / "s.h5"
    # Not to be reached.
    table = hpcbench.run(
        [atoms], model="mattersim-demo", protocol="both", fmax=1e-12, max_steps=3,
        mesh=(3, 3, 3), band_points=7, out=out, supercell=(2, 2, 2),
    ).table  # fmt: skip
    assert list(table["status"]) == ["failed"]
    literal = beside(hpcbench.open(out))
    assert list(literal["status"]) == ["done"]


def test_a_crystal_that_the_literal_protocol_refuses_goes_on_by_the_other(tmp_path: Path) -> None:
    atoms = ase.io.read(DEMO / "SrTiO3_start_rattled.cif")
    out = tmp_path / "s.h5"
    table = hpcbench.run(
        [atoms], model="mattersim-demo", protocol="both", dtype="float64", supercell=(1, 1, 1),
        mesh=(2, 2, 2), band_points=7, out=out,
    ).table  # fmt: skip
    assert list(table["status"]) == ["done"]
    assert list(table["spacegroup_number"]) == [8]
    literal = beside(hpcbench.open(out))
    assert list(literal["status"]) == ["failed"]
    assert "refined to its symmetry" in literal["reason"].iloc[0]
