"""MACE on our edges, with random weights of its architecture: against its own calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from hpcbench.errors import PotentialError
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.registry import load_potential
from hpcbench.potentials.selftest import self_test

ELEMENTS = (11, 12, 8, 14, 17)

# What MACE and its older e3nn say when they are imported and loaded.
pytestmark = pytest.mark.filterwarnings("ignore")


def save_random_model(path: Path) -> None:
    """A model of the architecture of MACE-MP's small ones, with fewer channels."""
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    blocks = modules.interaction_classes
    torch.set_default_dtype(torch.float64)
    try:
        model = modules.ScaleShiftMACE(
            r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3,
            interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
            num_interactions=2, num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps("16x0e + 16x1o"),
            MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu,
            atomic_energies=np.linspace(-3.0, -1.0, len(ELEMENTS)), avg_num_neighbors=20.0,
            atomic_numbers=sorted(ELEMENTS), correlation=3,
            atomic_inter_scale=0.8, atomic_inter_shift=0.1,
        )  # fmt: skip
        torch.save(model, path)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mace", reason="package mace-torch is not installed")
    path = tmp_path_factory.mktemp("mace") / "random.model"
    save_random_model(path)
    return path


def crystals() -> list[Atoms]:
    found = [
        bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1)),
        bulk("Si", "diamond", a=5.4),
        bulk("MgO", "rocksalt", a=4.2, cubic=True),
    ]
    rng = np.random.default_rng(0)
    for atoms in found:
        atoms.positions += rng.normal(scale=0.07, size=atoms.positions.shape)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_crystals_are_as_by_its_calculator(file: Path, dtype: str, tolerance: float) -> None:
    from mace.calculators import MACECalculator

    potential = load_potential(str(file), dtype=dtype, max_edges=3_000)
    assert potential.info.elements == frozenset(ELEMENTS)
    frames = crystals()
    answers = potential.evaluate(frames, stress=True)
    calculator = MACECalculator(model_paths=str(file), device="cpu", default_dtype=dtype)
    torch.set_default_dtype(torch.float32)  # it sets its own
    for atoms, ours in zip(frames, answers, strict=True):
        atoms.calc = calculator
        assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=10 * tolerance)
        np.testing.assert_allclose(ours.forces, atoms.get_forces(), atol=tolerance, rtol=0)
        stress = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(ours.stress, stress, atol=tolerance, rtol=0)
    assert self_test(potential) < max(tolerance, 1e-9)


def test_linear_forces_are_the_slopes_of_forces(file: Path) -> None:
    potential: Any = load_potential(str(file), dtype="float64", max_edges=9_000)
    atoms, step = bulk("MgO", "rocksalt", a=4.2).repeat(2), 1e-3
    copies = DisplacedCopies(
        atoms.numbers.astype(np.int64), atoms.positions, atoms.cell[:],
        np.array([3, 3]), np.array([[0, step, 0], [0, -step, 0]]),
    )  # fmt: skip
    prepared = potential.prepare(copies)
    (linear,) = potential.linear_forces([(prepared, 0, 1)])
    (forces,) = potential.forces([(prepared, 0, 2)])
    slope = (forces[0] - forces[1]) / 2
    # What is left is the third order of the displacement.
    np.testing.assert_allclose(linear[0], slope, atol=1e-4 * np.abs(slope).max())


def test_what_is_no_model_is_said_so(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.model"
    torch.save({"weights": torch.zeros(3)}, other)
    with pytest.raises(PotentialError, match="no model of MACE but dict"):
        load_potential(str(other))


def test_without_its_package_it_is_said_what_to_do(tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("mace"):
        pytest.skip("package mace-torch is installed")
    path = tmp_path / "some.model"
    path.write_bytes(b"")
    with pytest.raises(PotentialError, match="needs package mace-torch, in an environment of"):
        load_potential(str(path))
