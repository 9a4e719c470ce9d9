"""M3GNet and TensorNet on our edges: against matgl's calculator, in batches, strained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from hpcbench.errors import PotentialError
from hpcbench.potentials.catalogue import BUILT_IN
from hpcbench.potentials.registry import listed_potentials, load_potential, weights_sha256
from hpcbench.potentials.selftest import self_test

NAMES = ("m3gnet-mp-2021.2.8", "tensornet-matpes-pbe-2025.1")

# What matgl and the packages below it say when they are imported and used.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the weights."""
    pytest.importorskip("matgl", reason="package matgl is not installed")
    beside = Path(__file__).parents[2] / "shared" / "data"
    data = Path(os.environ.get("HPCBENCH_REFERENCE_DATA", beside))
    models = data.parent / "models" / "m3gnet"
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES:
        weights: Any = BUILT_IN[name].weights
        folder = models / Path(weights.folder).name
        if not folder.is_dir():
            pytest.skip(f"no weights of matgl in {folder}: others', not part of the repository")
        (tmp_path / weights.folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / weights.folder).symlink_to(folder)
    return tmp_path


def crystals() -> list[Atoms]:
    found = [
        bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1)),
        bulk("Si", "diamond", a=5.4),
        bulk("Cu", "fcc", a=3.7, cubic=True),
    ]
    rng = np.random.default_rng(0)
    for atoms in found:
        atoms.positions += rng.normal(scale=0.07, size=atoms.positions.shape)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_crystals_are_as_by_the_package(name: str, home: Path, reference_data: Path) -> None:
    import matgl
    from matgl.ext.ase import PESCalculator

    potential = load_potential(name, max_edges=3_000)
    known: Any = potential.info.elements
    generated = [
        atoms
        for atoms in read(reference_data / "generated" / "mix-1000.extxyz", ":")
        if 2 <= len(atoms) <= 12 and known.issuperset(atoms.numbers.tolist())
    ][::12][:30]
    frames = [*crystals(), *generated]
    weights: Any = BUILT_IN[name].weights
    model = matgl.load_model(home / weights.folder)
    calculator = PESCalculator(model, stress_unit="eV/A3")
    for atoms, ours in zip(frames, potential.evaluate(frames, stress=True), strict=True):
        theirs = atoms.copy()
        theirs.calc = calculator
        energy, forces = float(theirs.get_potential_energy()), theirs.get_forces()
        scale = max(1.0, float(np.abs(forces).max()))
        assert ours.energy == pytest.approx(energy, abs=1e-5 * len(atoms) * scale)
        tolerance = 5e-5 * scale
        np.testing.assert_allclose(ours.forces, forces, atol=tolerance, rtol=0)
        # matgl gives GPa where it is not asked for this unit.
        stress = theirs.get_stress(voigt=False)
        np.testing.assert_allclose(ours.stress, stress, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)])
def test_a_batch_equals_one_by_one(name: str, dtype: str, tolerance: float, home: Path) -> None:
    potential, frames = load_potential(name, dtype=dtype, max_edges=3_000), crystals()
    for atoms, batched in zip(frames, potential.evaluate(frames, stress=True), strict=True):
        (alone,) = potential.evaluate([atoms], stress=True)
        np.testing.assert_allclose(batched.forces, alone.forces, atol=tolerance, rtol=0)
        np.testing.assert_allclose(batched.stress, alone.stress, atol=tolerance, rtol=0)
    assert self_test(potential) < tolerance
    assert potential.info.weights_sha256 == weights_sha256(name)


@pytest.mark.parametrize("name", NAMES)
def test_forces_and_stress_are_derivatives_of_the_energy(name: str, home: Path) -> None:
    potential, atoms = load_potential(name, dtype="float64", max_edges=3_000), crystals()[0]
    (result,) = potential.evaluate([atoms], stress=True)
    step = 1e-4
    moved = [atoms.copy(), atoms.copy()]
    strained = [atoms.copy(), atoms.copy()]
    for sign, one, other in zip((1, -1), moved, strained, strict=True):
        one.positions[2, 1] += sign * step
        strain = np.eye(3)
        strain[0, 1] = strain[1, 0] = sign * step / 2
        other.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
    up, down = (found.energy for found in potential.evaluate(moved))
    assert -(up - down) / (2 * step) == pytest.approx(result.forces[2, 1], abs=1e-6)
    up, down = (found.energy for found in potential.evaluate(strained))
    stress = (up - down) / (2 * step) / atoms.get_volume()
    assert stress == pytest.approx(result.stress[0, 1], abs=1e-7)


def test_missing_weights_say_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PotentialError, match=r"\.cache/matgl/M3GNet-MP-2021.2.8-PES/state\.pt"):
        load_potential("m3gnet-mp-2021.2.8")
    line = next(line for line in listed_potentials() if line.name == "m3gnet-mp-2021.2.8")
    assert not line.available
    assert "hpcbench models fetch m3gnet-mp-2021.2.8" in line.state
