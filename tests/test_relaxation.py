"""Relaxation against ASE by hand, and everything in which it can fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import by_hand
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from conftest import DEMO

from hpcbench.errors import CrystalError
from hpcbench.potentials.ase_calculator import CalculatorPotential, PotentialCalculator
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.protocol import Evaluation, PotentialInfo
from hpcbench.protocols import PROTOCOLS, Stage
from hpcbench.relaxation.relax import Relaxation, relax
from hpcbench.relaxation.symmetry import find_space_group, idealise

INFO = PotentialInfo("test", "test", "", "", "float64", "cpu", None)
TIGHT = (Stage(1e-4, 1e-4, 1000),)


def relax_one(atoms: Atoms, potential, stages=TIGHT, mode: str = "full") -> Relaxation:
    (result,) = relax([atoms], potential, mode=mode, stages=stages, symmetry_tolerance=0.01)
    assert isinstance(result, Relaxation), result
    return result


def failure(atoms: Atoms, potential, stages=TIGHT) -> CrystalError:
    (result,) = relax([atoms], potential, mode="full", stages=stages, symmetry_tolerance=0.01)
    assert isinstance(result, CrystalError), result
    return result


@pytest.fixture
def emt() -> CalculatorPotential:
    return CalculatorPotential(EMT(), INFO)


@pytest.mark.parametrize("name", ["NaCl_start_strained", "AlN_start_strained", "MgO_start_rattled"])
def test_same_cell_energy_and_steps_as_ase_by_hand(name: str, demo64) -> None:
    atoms = read(DEMO / f"{name}.cif")
    by_scripts = by_hand.relax(atoms, PotentialCalculator(demo64))
    assert by_scripts is not None
    expected, steps = by_scripts
    protocol = PROTOCOLS["phononbench"]
    got = relax_one(atoms, demo64, protocol.stages(protocol.fmax, protocol.max_steps))
    np.testing.assert_allclose(got.atoms.cell[:], expected.cell[:], atol=1e-9)
    np.testing.assert_allclose(got.atoms.positions, expected.positions, atol=1e-9)
    assert got.energy == pytest.approx(expected.get_potential_energy(), abs=1e-9)
    assert got.steps == steps
    np.testing.assert_array_equal(got.atoms.numbers, atoms.numbers)


def test_lattice_constant_of_emt_copper(emt) -> None:
    result = relax_one(bulk("Cu", a=3.8), emt)
    lattice_constant = (4 * result.atoms.get_volume()) ** (1 / 3)
    # The zero of EMT's pressure between two volumes, found without an optimiser.
    volumes = np.linspace(3.55, 3.65, 21)
    pressures = []
    for a in volumes:
        atoms = bulk("Cu", a=a)
        atoms.calc = EMT()
        pressures.append(atoms.get_stress()[:3].mean())
    assert lattice_constant == pytest.approx(np.interp(0, pressures, volumes), abs=1e-4)
    assert np.abs(result.stress).max() < 1e-4 / result.atoms.get_volume()


def test_robust_protocol_finds_the_exact_symmetry_of_a_nearly_symmetric_crystal(demo64) -> None:
    protocol = PROTOCOLS["robust"]
    result = relax_one(
        read(DEMO / "MgO_start_rattled.cif"), demo64, protocol.stages(protocol.fmax, 1000)
    )
    assert result.space_group_before.number == 1
    assert result.space_group_after.number == 225
    assert find_space_group(result.atoms, 1e-8).number == 225
    assert result.idealised
    assert result.fmax <= 0.001


def spglibs_groups(atoms: Atoms, *tolerances: float) -> list[int]:
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    return [spglib.get_symmetry_dataset(cell, symprec=t).number for t in tolerances]


def test_robust_protocol_ends_where_no_more_symmetry_appears(demo64) -> None:
    """Relaxed without any symmetry, this crystal is Cm within 0.01 A: that is then made exact."""
    robust = PROTOCOLS["robust"]
    result = relax_one(
        read(DEMO / "SrTiO3_start_rattled.cif"), demo64, robust.stages(robust.fmax, 1000)
    )
    groups = spglibs_groups(result.atoms, 1e-5, 1e-4, 1e-3, 1e-2)
    assert groups == [result.space_group_after.number] * 4 == [8] * 4
    assert result.complaints == ()
    assert result.fmax <= robust.fmax


def test_robust_protocol_with_the_cell_held_and_with_nothing_moved(emt) -> None:
    atoms = bulk("Cu", a=3.9, cubic=True)
    atoms.symbols[0] = "Au"
    atoms.positions += np.random.default_rng(0).normal(0, 0.03, (4, 3))
    given = atoms.copy()
    stages = PROTOCOLS["robust"].stages(0.001, 1000)
    held = relax_one(atoms, emt, stages, mode="positions")
    np.testing.assert_allclose(held.atoms.cell[:], given.cell[:], atol=1e-12)
    assert (
        spglibs_groups(held.atoms, 1e-5, 1e-2) == [held.space_group_after.number] * 2 == [221] * 2
    )
    same = relax_one(atoms, emt, stages, mode="none")
    np.testing.assert_array_equal(same.atoms.positions, given.positions)
    assert (len(same.rounds), same.space_group_after.number) == (1, 1)


def test_what_is_no_fixed_point_is_noted(demo64) -> None:
    atoms = read(DEMO / "SrTiO3_start_rattled.cif")
    coarse, exact = PROTOCOLS["robust"].stages(0.001, 1000)
    result = relax_one(atoms, demo64, (coarse, dataclasses.replace(exact, rounds=1)))
    here, nearly = spglibs_groups(result.atoms, 1e-5, 1e-2)
    assert here != nearly
    assert result.space_group_after.number == here
    (complaint,) = result.complaints
    assert f"({here}) exactly and" in complaint and f"({nearly}) within 0.01 A" in complaint


def test_literal_protocol_refuses_forces_that_its_last_refinement_brings(demo64) -> None:
    atoms = read(DEMO / "SrTiO3_start_rattled.cif")
    assert by_hand.relax(atoms, PotentialCalculator(demo64)) is None
    protocol = PROTOCOLS["phononbench"]
    error = failure(atoms, demo64, protocol.stages(protocol.fmax, protocol.max_steps))
    assert error.kind == "not converged"
    assert "in the cell refined to its symmetry" in str(error)


def test_only_positions_move_in_mode_positions(emt) -> None:
    atoms = Atoms("CuAu", [(0, 0, 0), (1.7, 1.9, 2.1)], cell=[3.8, 3.8, 3.8], pbc=True)
    result = relax_one(atoms, emt, (Stage(1e-3, 1e-3, 500),), mode="positions")
    np.testing.assert_allclose(result.atoms.cell[:], atoms.cell[:], atol=1e-12)
    assert np.abs(result.atoms.positions - atoms.positions).max() > 0.01


def test_nothing_moves_in_mode_none(emt) -> None:
    atoms = bulk("Cu", a=3.7)
    result = relax_one(atoms, emt, mode="none")
    np.testing.assert_array_equal(result.atoms.positions, atoms.positions)
    np.testing.assert_array_equal(result.atoms.cell[:], atoms.cell[:])
    assert (result.steps, result.idealised) == (0, False)


def test_input_is_left_alone_and_order_is_kept(emt, metals) -> None:
    before = [atoms.copy() for atoms in metals]
    results = relax(metals, emt, mode="full", stages=TIGHT, symmetry_tolerance=0.01)
    for atoms, copy, result in zip(metals, before, results, strict=True):
        assert atoms == copy
        assert isinstance(result, Relaxation)
        np.testing.assert_array_equal(result.atoms.numbers, atoms.numbers)


def test_too_few_steps_are_recorded(emt) -> None:
    error = failure(bulk("Cu", a=3.9), emt, (Stage(1e-6, 1e-6, 3),))
    assert error.kind == "not converged"
    assert "after 3 steps" in str(error)


class Strange(OneByOne):
    """A potential with forces of a chosen kind."""

    info = INFO

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        results = []
        for atoms in structures:
            forces = np.zeros((len(atoms), 3))
            tensor = np.zeros((3, 3))
            if self._kind == "nan":
                forces[:] = np.nan
            elif self._kind == "explodes":
                tensor = -np.eye(3) * 0.5
            elif self._kind == "hopeless":
                forces[0, 0] = 1e6
            results.append(Evaluation(0.0, forces, tensor))
        return results


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nan", "nan"), ("explodes", "flew apart"), ("hopeless", "flew apart")],
)
def test_wild_crystals_are_recorded_with_their_reason(kind: str, expected: str) -> None:
    atoms = Atoms("CuAu", [(0, 0, 0), (1.7, 1.9, 2.1)], cell=[3.8, 3.8, 3.8], pbc=True)
    assert failure(atoms, Strange(kind)).kind == expected


def test_one_failure_leaves_the_others(emt) -> None:
    crystals = [bulk("Cu", a=3.7), bulk("Cu", a=3.7)]
    crystals[0].positions += np.nan
    results = relax(crystals, emt, mode="full", stages=TIGHT, symmetry_tolerance=0.01)
    assert isinstance(results[0], CrystalError)
    assert isinstance(results[1], Relaxation)


@pytest.mark.parametrize("damage", ["nan position", "nan cell", "flat cell"])
def test_what_is_no_crystal_is_recorded_before_anything_is_asked_of_it(emt, damage: str) -> None:
    atoms = bulk("Cu", a=3.7)
    if damage == "nan position":
        atoms.positions[0, 0] = np.nan
    elif damage == "nan cell":
        atoms.cell[0, 0] = np.nan
    else:
        atoms.cell[0] = atoms.cell[1]
    assert failure(atoms, emt).kind == "nan"


def test_idealising_keeps_axes_setting_and_order() -> None:
    atoms = read(DEMO / "SrTiO3_start_strained.cif").repeat((2, 1, 1))
    rng = np.random.default_rng(1)
    noisy = atoms.copy()
    noisy.positions += rng.uniform(-2e-3, 2e-3, atoms.positions.shape)
    noisy.set_cell(atoms.cell[:] + rng.uniform(-2e-3, 2e-3, (3, 3)), scale_atoms=True)
    result = idealise(noisy, 0.02)
    assert result.succeeded
    assert find_space_group(result.atoms, 1e-7).number == 221
    np.testing.assert_allclose(result.atoms.cell[:], atoms.cell[:], atol=5e-3)
    np.testing.assert_array_equal(result.atoms.numbers, atoms.numbers)
    difference = result.atoms.get_scaled_positions(wrap=False) - atoms.get_scaled_positions()
    difference -= np.round(difference)
    np.testing.assert_allclose(difference - difference.mean(axis=0), 0, atol=2e-3)
    assert 0 < result.largest_shift < 0.01
