"""Exact force constants of potentials whose forces can be differentiated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.io import write
from ase.neighborlist import neighbor_list

import hpcbench
from hpcbench.cli import main
from hpcbench.errors import OutOfMemoryError, UsageError
from hpcbench.potentials.ase_calculator import CalculatorPotential, DifferentiablePotential
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.edge_gradients import DifferentiableEdges
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.potentials.registry import load_potential

INFO = PotentialInfo("springs", "toy", "", "", "float64", "cpu", None, differentiable=True)
REACH = 3.2
STIFF, CUBIC, LENGTH = 2.0, -3.0, 2.6  # eV/A^2, eV/A^3, A


def pairs(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    i, j, vectors = neighbor_list("ijD", atoms, REACH)
    return i, j, vectors


class AnharmonicSprings(Calculator):
    """Pairs of atoms with energy s x^2 / 2 + c x^3 / 3 of what they are longer than their length.

    The energy is smooth, and zero to second order at ``REACH``.
    """

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms: Atoms, *_: Any) -> None:
        forces, _ = forces_of(atoms)
        self.results = {
            "energy": 0.0,
            "forces": forces.detach().numpy(),
            "stress": np.zeros(6),
        }


def forces_of(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    i, j, vectors = (torch.from_numpy(found) for found in pairs(atoms))
    shifts = torch.zeros((len(atoms), 3), dtype=torch.float64, requires_grad=True)
    x = torch.linalg.norm(vectors + shifts[j] - shifts[i], dim=1) - LENGTH
    energy = (STIFF * x**2 / 2 + CUBIC * x**3 / 3).sum() / 2
    (gradient,) = torch.autograd.grad(energy, shifts, create_graph=True)
    return -gradient, shifts


def hessian_of(atoms: Atoms) -> np.ndarray:
    """Second derivatives on paper, shape (natoms, natoms, 3, 3)."""
    found = np.zeros((len(atoms), len(atoms), 3, 3))
    for i, j, vector in zip(*pairs(atoms), strict=True):
        length = np.linalg.norm(vector)
        along = np.outer(vector, vector) / length**2
        x = length - LENGTH
        slope, bend = STIFF * x + CUBIC * x**2, STIFF + 2 * CUBIC * x
        block = bend * along + slope / length * (np.eye(3) - along)
        found[i, i] += block
        found[i, j] -= block
    return found


def toy(**changes: Any) -> DifferentiablePotential:
    info = dataclasses.replace(INFO, **changes)
    return DifferentiablePotential(AnharmonicSprings(), info, forces_of)


def rattled() -> Atoms:
    atoms = bulk("Cu", a=3.65).repeat(2)
    atoms.rattle(0.1, seed=1)
    return atoms


def copies_of(atoms: Atoms, displaced: list[int], displacements: Any) -> DisplacedCopies:
    return DisplacedCopies(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell[:],
        np.array(displaced),
        np.array(displacements, dtype=np.float64),
    )


def test_linear_forces_are_second_derivatives() -> None:
    atoms, potential = rattled(), toy()
    displacements = np.random.default_rng(0).normal(0, 0.3, (3, 3))
    copies = copies_of(atoms, [0, 5, 5], displacements)
    prepared = potential.prepare(copies)
    first, rest = potential.linear_forces([(prepared, 0, 1), (prepared, 1, 3)])
    hessian = hessian_of(atoms)
    for found, atom, displacement in zip([*first, *rest], copies.atoms, displacements, strict=True):
        np.testing.assert_allclose(found, -hessian[:, atom] @ displacement, atol=1e-12)


def test_one_forward_pass_serves_all_displacements_and_goes_with_them() -> None:
    calls = 0

    def counted(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        return forces_of(atoms)

    potential = DifferentiablePotential(AnharmonicSprings(), INFO, counted)
    prepared = potential.prepare(copies_of(rattled(), [0, 1], 0.01 * np.eye(3)[:2]))
    potential.forces([(prepared, 0, 2)])
    assert calls == 0
    for index in range(2):
        potential.linear_forces([(prepared, index, index + 1)])
    assert calls == 1


def test_too_little_memory_is_said_as_such() -> None:
    def greedy(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    potential = DifferentiablePotential(AnharmonicSprings(), INFO, greedy)
    prepared = potential.prepare(copies_of(rattled(), [0], [[0.01, 0, 0]]))
    with pytest.raises(OutOfMemoryError, match="second derivatives"):
        potential.linear_forces([(prepared, 0, 1)])


def computed(tmp_path: Path, atoms: Atoms, derivative: str, **settings: Any) -> Any:
    out = tmp_path / f"{derivative}.h5"
    settings = {"relax": "none", "supercell": (2, 2, 2), "mesh": (4, 4, 4)} | settings
    hpcbench.run([atoms], model=toy(), out=out, derivative=derivative, workers=0, **settings)
    store = hpcbench.open(out)
    return store, store.row(store.ids[0])


def test_a_run_by_response_has_the_force_constants_on_paper(tmp_path: Path) -> None:
    atoms = bulk("Cu", a=3.65, cubic=True)
    atoms.rattle(0.05, seed=2)
    store, row = computed(tmp_path, atoms, "response")
    assert row["derivative"] == "response"
    phonon = store.phonopy(row["id"])
    supercell = phonon.supercell
    exact = hessian_of(
        Atoms(numbers=supercell.numbers, cell=supercell.cell, positions=supercell.positions, pbc=1)
    )
    found = np.asarray(phonon.force_constants)
    np.testing.assert_allclose(found, exact[phonon.primitive.p2s_map], atol=1e-8)
    # No symmetry: three directions for each of four atoms, and none of them twice.
    assert row["displacements"] == 12
    assert row["cause"] not in ("rounding", "length")
    assert row["force_noise"] < 1e-12
    # Displacements of 0.01 A are off by their length.
    _, other = computed(tmp_path, atoms, "displacement")
    assert other["derivative"] == "displacement"
    off = np.abs(np.reshape(other["force_constants"], found.shape) - found).max()
    assert 1e-6 < off < 1e-2


def test_both_has_both_and_the_response_decides(tmp_path: Path) -> None:
    store, row = computed(tmp_path, bulk("Cu", a=3.65), "both")
    assert row["derivative"] == "response"
    earlier = store.row(f"{row['id']}:first")
    assert earlier["derivative"] == "displacement"
    assert (row["displacements"], earlier["displacements"]) == (1, 1)


def test_the_limit_of_linear_forces_takes_one_length() -> None:
    from hpcbench.phonons.limit import fit_limit
    from hpcbench.phonons.supercells import displace, displaced_copies

    atoms, potential = bulk("Cu", a=3.65), toy()
    phonon = displace(
        atoms,
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix="P",
        displacement=0.01,
        symprec=1e-5,
        opposite=False,
    )
    copies = displaced_copies(phonon)
    (forces,) = potential.linear_forces([(potential.prepare(copies), 0, len(copies))])
    limit = fit_limit(phonon, forces)
    assert limit.error is None
    assert limit.rounding < 1e-12
    supercell = phonon.supercell
    exact = hessian_of(
        Atoms(numbers=supercell.numbers, cell=supercell.cell, positions=supercell.positions, pbc=1)
    )
    np.testing.assert_allclose(phonon.force_constants, exact[:1], atol=1e-10)


@pytest.mark.parametrize("model", ["chgnet", "ase.calculators.emt:EMT"])
@pytest.mark.parametrize("how", [["--derivative", "response"], ["--protocol", "exact"]])
def test_a_potential_without_response_is_refused_at_once(
    model: str, how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cu.cif", bulk("Cu"))
    out = tmp_path / "s.h5"
    words = ["run", str(tmp_path / "cu.cif"), "--model", model, "--out", str(out), *how]
    assert main(words) == 2
    sentence = capsys.readouterr().err.strip()
    assert sentence.startswith(f"hpcbench: --derivative response: {model} cannot compute linear")
    assert "mattersim-v1.0.0-5M" in sentence
    assert "sevennet-0" in sentence
    assert "Give --derivative displacement" in sentence
    assert not out.exists()
    assert not Path(f"{out}.run").exists()


def test_a_potential_from_python_is_refused_as_well(tmp_path: Path) -> None:
    bare = CalculatorPotential(AnharmonicSprings(), dataclasses.replace(INFO, differentiable=False))
    for derivative in ("response", "both"):
        with pytest.raises(UsageError, match=f"{derivative}: springs cannot compute linear"):
            hpcbench.run(
                [bulk("Cu")], model=bare, out=tmp_path / "s.h5", derivative=derivative, workers=0
            )


@pytest.mark.filterwarnings("ignore")  # SevenNet's own
def test_sevennet_has_second_derivatives() -> None:
    pytest.importorskip("sevenn", reason="SevenNet is not installed")
    potential = load_potential("sevennet-0")
    assert potential.info.differentiable
    atoms = bulk("MgO", "rocksalt", a=4.25).repeat(2)
    atoms.rattle(0.03, seed=1)
    along = np.array([0.6, 0.0, 0.8])
    lengths = 0.04, 0.02
    displacements = [sign * length * along for length in lengths for sign in (1, -1)]
    copies = copies_of(atoms, [3] * 4, displacements)
    prepared = potential.prepare(copies)
    assert isinstance(potential, DifferentiableEdges)
    (row,) = potential.linear_forces([(prepared, 0, 1)])
    (forces,) = potential.forces([(prepared, 0, 4)])
    long, short = (
        (forces[2 * n] - forces[2 * n + 1]) / (2 * length) for n, length in enumerate(lengths)
    )
    found, limit = row[0] / lengths[0], (4 * short - long) / 3
    assert np.abs(limit).max() > 5.0
    # As exact as differences in single precision are; those of one length are off by 1e-2.
    np.testing.assert_allclose(found, limit, atol=2e-3)
    assert np.abs(long - found).max() > 5e-3
