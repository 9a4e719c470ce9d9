"""Both protocols in one run: each as by itself, and one relaxation for both."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pandas
import pytest
import spglib
from conftest import DEMO

import hpcbench
from hpcbench.cli import main
from hpcbench.report.html import write_report

NAMES = (
    "C_start_rattled", "MgO_start_rattled", "Si_start_rattled", "Ti_bcc_start_strained",
    "SrTiO3_start_strained", "Cu_start_strained",
)  # fmt: skip


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
            mesh=(6, 6, 6),
            supercell=(2, 2, 2),
            band_points=31,
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


def test_false_modes_from_residual_strain_are_gone(stores: dict) -> None:  # type: ignore[type-arg]
    """Rattled diamond relaxes to 1e-4 of strain; its images are no longer equally far away."""
    store = stores["both"]
    key = store.find("C_start_rattled")
    here, literal = store.row(key), store.row(f"{key}:phononbench")
    assert literal["verdict_phononbench"] == "unstable"
    assert literal["min_frequency_path"] < -1.0
    # At commensurate q frequencies are exact, and show nothing of it.
    assert literal["min_frequency_commensurate"] > -1e-3
    assert here["verdict_phononbench"] == here["verdict_mesh"] == "stable"
    assert here["min_frequency_path"] > -1e-3
    assert here["displacements"] < literal["displacements"]


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
    assert list(here["spacegroup_numbers_before"]) == by_spglib
    assert list(here["spacegroup_numbers"]) == [227] * 5
    # Relaxed without being idealised, it is diamond to some digits only.
    assert literal["spacegroup_numbers"][0] != 227
    assert literal["spacegroup_numbers"][-1] == 227
    assert list(literal["spacegroup_numbers_before"]) == list(here["spacegroup_numbers_before"])


def test_the_report_shows_both(stores: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    page = " ".join(write_report(stores["both"], tmp_path / "r.html").read_text().split())
    assert "6 crystals are done by phononbench to the letter" in page
    assert '<td class="name">C_start_rattled</td>' in page
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
