"""Verdicts from q at which frequencies are exact, and suspicions that are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator

import hpcbench
from hpcbench.cli import main
from hpcbench.criteria import BETWEEN_Q, EXACT, LONG_WAVES

K = 2.0  # eV/A^2
CELL = np.diag([3.0, 3.0, 2.5])


class Springs(Calculator):
    """A crystal of one atom on springs to its neighbours, however far: exactly harmonic.

    Along c, 2x2x6 cells do not see sixth neighbours, and interpolate as if they were not there.
    """

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, springs: dict[tuple[int, int, int], float]) -> None:
        super().__init__()
        self._springs = springs

    def calculate(self, atoms: Atoms, *_: Any) -> None:
        reduced = atoms.positions @ np.linalg.inv(CELL)
        cells = np.rint(reduced)
        moved = (reduced - cells) @ CELL
        lattice = atoms.cell[:] @ np.linalg.inv(CELL)
        forces, energy = np.zeros_like(moved), 0.0
        for step, k in self._springs.items():
            to = (cells[:, None] + step - cells[None]) @ np.linalg.inv(lattice)
            neighbour = np.abs(to - np.rint(to)).max(axis=2).argmin(axis=1)
            pull = k * (moved[neighbour] - moved)
            energy += float((k * (moved[neighbour] - moved) ** 2).sum()) / 2
            forces += pull
            np.subtract.at(forces, neighbour, pull)
        self.results = {"energy": energy, "forces": forces, "stress": np.zeros(6)}


ACROSS = {(1, 0, 0): 5 * K, (0, 1, 0): 5 * K}
SOFT = {**ACROSS, (0, 0, 1): K, (0, 0, 2): -0.9 * K, (0, 0, 3): 0.55 * K}
# Sixth neighbours along c decide whether waves of four cells are soft.
FALSE, TRUE = {**SOFT, (0, 0, 6): 0.3 * K}, SOFT


def computed(tmp_path: Path, springs: dict[tuple[int, int, int], float], **settings: Any) -> Any:
    atoms = Atoms("Cu", cell=CELL, pbc=True)
    atoms.info["name"] = "crystal"
    settings = {"relax": "none", "supercell": (2, 2, 6), "mesh": (10, 10, 10)} | settings
    hpcbench.run([atoms], model=Springs(springs), out=tmp_path / "s.h5", **settings)
    store = hpcbench.open(tmp_path / "s.h5")
    return store, store.row(store.ids[0])


def test_a_false_mode_is_refuted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, row = computed(tmp_path, FALSE)
    assert row["min_frequency_path"] < -0.1
    assert row["verdict_phononbench_v3"] == "unstable"
    assert (row["verdict"], row["verdict_exact_q"], row["cause"]) == ("stable", "stable", "")
    assert row["open_regions"] == 0
    assert row["margin"] > 0.0
    frequencies = np.reshape(row["computed_frequencies"], (-1, 3))
    for qpoint, found in zip(row["computed_qpoints"], frequencies, strict=True):
        # m w^2 = 2 sum of k (1 - cos 2 pi n.q), with phonopy's unit.
        square = sum(2 * k * (1 - np.cos(2 * np.pi * np.dot(n, qpoint))) for n, k in FALSE.items())
        np.testing.assert_allclose(found, 15.633302 * np.sqrt(square / 63.546), atol=1e-4)
    assert len(row["mode_frequencies"]) == 0  # what is only interpolated is no unstable mode
    assert main(["show", "crystal", "--store", str(store.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "but computed at" in shown


def test_a_true_mode_is_confirmed(tmp_path: Path) -> None:
    _, row = computed(tmp_path, TRUE)
    assert row["min_frequency_commensurate"] > -1e-3
    assert (row["verdict"], row["cause"]) == ("unstable", "")
    assert min(row["mode_frequencies"]) < -0.1
    assert row["margin"] < 0.0
    assert row["verdict_loew"] == "stable"


def test_what_is_left_open_is_undetermined(tmp_path: Path) -> None:
    _, row = computed(tmp_path, FALSE, q_checks=0)
    assert (row["verdict"], row["cause"]) == ("undetermined", BETWEEN_Q)
    assert row["open_regions"] > 0
    # Another criterion computes none, and says what it did not.
    _, row = computed(tmp_path / "other", FALSE, criterion="loew")
    assert (row["verdict"], row["verdict_exact_q"]) == ("stable", "undetermined")
    assert len(row["computed_qpoints"]) == 0


def test_long_waves_are_undetermined(tmp_path: Path) -> None:
    # Four cells along c see a wave that softens towards Gamma; fourth neighbours hold it.
    springs = {**ACROSS, (0, 0, 1): K, (0, 0, 2): -0.45 * K, (0, 0, 4): 0.3 * K}
    _, row = computed(tmp_path, springs, supercell=(2, 2, 4))
    assert row["min_frequency_commensurate"] > -0.1
    assert row["long_waves"] < -0.1
    assert (row["verdict"], row["cause"]) == ("undetermined", LONG_WAVES)


def test_reanalysis_and_verification_know_what_was_computed(tmp_path: Path) -> None:
    for springs, verdict in ((FALSE, "stable"), (TRUE, "unstable")):
        folder = tmp_path / verdict
        store, row = computed(folder, springs)
        out = folder / "again.h5"
        assert main(["reanalyse", str(store.path), "--out", str(out), "--workers", "0"]) == 0
        again = hpcbench.open(out)
        found = again.row(again.ids[0])
        for name in ("verdict", "verdict_exact_q", "cause", "open_regions", "margin", "notes"):
            assert found[name] == row[name], name
        for name in ("computed_frequencies", "mode_frequencies", "mode_eigenvectors"):
            np.testing.assert_allclose(found[name], row[name], atol=1e-6)
        assert main(["verify", str(store.path)]) == 0


def test_it_is_what_robust_asks() -> None:
    assert hpcbench.RunConfig().resolved().criterion == EXACT
