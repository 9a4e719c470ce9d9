"""The re-arranged M3GNet against MatterSim's own code: the same numbers."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from conftest import DEMO
from mattersim_layers import LayeredM3GNet, require_known_layers, require_mattersim
from numpy.typing import NDArray

from hpcbench.errors import PotentialError
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_constants import BASES, DEFAULTS, constants
from hpcbench.potentials.m3gnet_weights import UnknownArchitectureError
from hpcbench.potentials.mattersim import REARRANGED, MatterSim
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.registry import load_potential
from hpcbench.potentials.structures import Structures
from hpcbench.potentials.weights import DEMO_WEIGHTS

SHAPES = {"1M": (3, 128), "5M": (4, 256)}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CPU = torch.device("cpu")


def m3gnet(shape: str) -> Any:
    """MatterSim's model: the demo's weights, or random ones in a published shape."""
    require_mattersim()
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    if shape == "demo":
        checkpoint = torch.load(DEMO_WEIGHTS, weights_only=True)
        model = M3Gnet(device="cpu", **checkpoint["model_args"])
        model.load_state_dict(checkpoint["model"])
        return model.eval()
    blocks, units = SHAPES[shape]
    torch.manual_seed(1)
    model = M3Gnet(num_blocks=blocks, units=units, device="cpu")
    # Energies of some eV an atom and differences between elements, as trained weights have.
    model.normalizer.scale.copy_(torch.linspace(50.0, 100.0, 95))
    model.normalizer.shift.copy_(torch.linspace(-5.0, 1.0, 95))
    return model.eval()


def both(shape: str, precision: str) -> tuple[RearrangedM3GNet, LayeredM3GNet]:
    require_known_layers()
    dtype = DTYPES[precision]
    model = m3gnet(shape)
    ours = RearrangedM3GNet(model.model_args, model.state_dict(), CPU, dtype)
    return ours, LayeredM3GNet(m3gnet(shape), dtype)


def graph(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = Structures.from_atoms([atoms])
    neighbours = neighbour_list(batch, 5.0)
    return batch.numbers, neighbours.edges, edge_vectors(batch, neighbours)


def rattled(atoms: Atoms, scale: float = 0.05) -> Atoms:
    atoms = atoms.copy()
    rng = np.random.default_rng(len(atoms))
    atoms.positions += rng.normal(scale=scale, size=atoms.positions.shape)
    return atoms


STRUCTURES = {
    "diamond, dense": rattled(bulk("C", "diamond", a=3.5, cubic=True)),
    "salt": rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True)),
    "molecules apart": Atoms("N2", [(0, 0, 0), (1.1, 0.1, 0)], cell=np.eye(3) * 11, pbc=True),
    "beyond three bodies": Atoms("ArAr", [(0, 0, 0), (4.4, 0.3, 0)], cell=np.eye(3) * 13, pbc=True),
    "heavy and light": rattled(bulk("PuH", "zincblende", a=5.2, cubic=True)),
    "tiny cell": Atoms("Po", cell=np.eye(3) * 2.2, pbc=True),
}


@pytest.mark.parametrize("shape", ["demo", "1M", "5M"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("float64", 1e-9)])
def test_same_energies_and_gradients_as_mattersims_layers(
    shape: str, precision: str, tolerance: float
) -> None:
    ours, theirs = both(shape, precision)
    for name, atoms in STRUCTURES.items():
        if name == "tiny cell":  # all collinear: see the test below
            continue
        energies, gradient = ours(*graph(atoms))
        expected_energies, expected = theirs(*graph(atoms))
        scale = max(float(expected.abs().max()), 1e-2)
        assert float((gradient - expected).abs().max()) < tolerance * scale, name
        torch.testing.assert_close(energies, expected_energies, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", ["demo", "5M"])
def test_collinear_atoms_are_smooth(shape: str) -> None:
    """MatterSim bounds the cosine to be able to take its arc; here nothing diverges."""
    ours, theirs = both(shape, "float64")
    for atoms in (STRUCTURES["tiny cell"], bulk("NaCl", "rocksalt", a=5.64, cubic=True)):
        numbers, edges, vectors = graph(atoms)
        energies, gradient = ours(numbers, edges, vectors)
        expected_energies, _ = theirs(numbers, edges, vectors)
        torch.testing.assert_close(energies, expected_energies, rtol=1e-6, atol=1e-6)
        forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
        forces.index_add_(0, edges[0], gradient).index_add_(0, edges[1], gradient, alpha=-1)
        assert float(forces.abs().max()) < 1e-12


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_gradient_is_the_derivative_of_the_energy(precision: str) -> None:
    """Of every component that differs in kind, by central differences in double precision."""
    numbers, edges, vectors = graph(STRUCTURES["diamond, dense"])
    ours, _ = both("1M", precision)
    exact, _ = both("1M", "float64")
    _, gradient = ours(numbers, edges, vectors)
    rng = np.random.default_rng(0)
    step = 1e-4
    tolerance = 1e-7 if precision == "float64" else 2e-5
    for edge, axis in zip(rng.integers(0, len(vectors), 12), rng.integers(0, 3, 12), strict=True):
        energies = []
        for sign in (1, -1):
            moved = vectors.clone()
            moved[edge, axis] += sign * step
            energies.append(float(exact(numbers, edges, moved)[0].sum()))
        expected = (energies[0] - energies[1]) / (2 * step)
        assert float(gradient[edge, axis]) == pytest.approx(expected, abs=tolerance)


def test_atoms_without_neighbours() -> None:
    atoms = Atoms("SiGe", [(0, 0, 0), (9, 9, 9)], cell=np.eye(3) * 20, pbc=True)
    ours, theirs = both("1M", "float64")
    energies, gradient = ours(*graph(atoms))
    assert gradient.shape == (0, 3)
    expected, _ = theirs(*graph(atoms))
    torch.testing.assert_close(energies, expected)


def own_results(potential: Any, atoms: Atoms) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Energy, forces, stress (eV/A^3) by MatterSim's converter and ``Potential.forward``."""
    from ase.units import GPa
    from mattersim.datasets.utils.build import build_dataloader

    loader = build_dataloader([atoms.copy()], batch_size=1, only_inference=True)
    energies, forces, stresses = potential.predict_properties(
        loader, include_forces=True, include_stresses=True
    )
    return energies[0], forces[0], stresses[0] * GPa


# numpy's complaint about how MatterSim turns tensors into arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("shape", ["demo", "1M", "5M"])
def test_real_crystals_as_mattersims_own_potential(
    shape: str, reference_data: Path, tmp_path: Path
) -> None:
    """Energy, forces and stress of 105 generated crystals of all densities (35 for each shape).

    In single precision, through all of MatterSim's own code: converter, batching, autograd.
    """
    require_mattersim()
    from mattersim.forcefield.potential import Potential

    path = tmp_path / "model.pth"
    model = m3gnet(shape)
    torch.save({"model": model.state_dict(), "model_args": model.model_args}, path)
    ours = MatterSim(path, "model")
    assert ours.info.forward_pass == REARRANGED
    theirs = Potential(m3gnet(shape), device="cpu", model_name="m3gnet", allow_tf32=False)
    crystals = read(reference_data / "generated" / "mix-1000.extxyz", index=":")
    crystals = [c for c in crystals if len(c) <= 12 and shortest_distance(c) > 0.9]
    crystals.sort(key=lambda c: len(c) / c.get_volume())
    offset = ["demo", "1M", "5M"].index(shape)
    chosen = [crystals[i] for i in np.linspace(offset, len(crystals) - 3 + offset, 35).astype(int)]
    for atoms, result in zip(chosen, ours.evaluate(chosen, stress=True), strict=True):
        energy, forces, stress = own_results(theirs, atoms)
        scale = max(np.abs(forces).max(), np.abs(stress).max() * atoms.get_volume(), 0.1)
        name = f"{atoms.get_chemical_formula()}, {len(atoms) / atoms.get_volume():.3f} atoms/A^3"
        assert result.energy == pytest.approx(energy, abs=2e-5 * len(atoms), rel=2e-6), name
        np.testing.assert_allclose(result.forces, forces, atol=5e-5 * scale, rtol=0, err_msg=name)
        assert result.stress is not None
        np.testing.assert_allclose(
            result.stress, stress, atol=5e-5 * scale / atoms.get_volume(), rtol=0, err_msg=name
        )


def shortest_distance(atoms: Atoms) -> float:
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, 9.0)
    return float(distances.min())


def test_single_precision_is_no_noisier_than_mattersims_layers() -> None:
    """The force noise of float32 decides the noise of the spectra: it may not grow."""
    exact, _ = both("demo", "float64")
    ours, theirs = both("demo", "float32")
    noise = {"ours": [], "theirs": []}  # type: ignore[var-annotated]
    for path in sorted(DEMO.glob("*_start_strained.cif")):
        numbers, edges, vectors = graph(rattled(read(path), 0.02))
        _, expected = exact(numbers, edges, vectors)
        for name, model in (("ours", ours), ("theirs", theirs)):
            _, gradient = model(numbers, edges, vectors)
            noise[name].append(float((gradient - expected).square().mean().sqrt()))
    assert np.mean(noise["ours"]) < 1.2 * np.mean(noise["theirs"])


@pytest.mark.parametrize("what", ["max_l", "extra weight", "unknown argument"])
def test_an_unknown_architecture_is_refused_with_the_calculator_to_use_instead(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_mattersim()
    from mattersim.forcefield import MatterSimCalculator
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    arguments = dict(m3gnet("demo").model_args) | ({"max_l": 3} if what == "max_l" else {})
    torch.manual_seed(0)
    state = M3Gnet(device="cpu", **arguments).state_dict()
    if what == "extra weight":
        state["graph_conv.0.attention.weight"] = torch.ones(3)
    if what == "unknown argument":
        arguments["attention"] = True
    with pytest.raises(UnknownArchitectureError):
        RearrangedM3GNet(arguments, state, CPU, torch.float32)
    path = tmp_path / "other.pth"
    torch.save({"model_name": "m3gnet", "model": state, "model_args": arguments}, path)
    with pytest.raises(PotentialError, match="not the M3GNet of MatterSim v1") as caught:
        load_potential(str(path))
    # What it says is done to the letter.
    lines = [line.strip() for line in str(caught.value).splitlines() if line.startswith("    ")]
    (file,) = re.findall(r"into a file (\S+)", str(caught.value))
    (model,) = re.findall(r"give --model (\S+)$", str(caught.value))
    (tmp_path / file).write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_mattersim", raising=False)
    atoms = STRUCTURES["salt"].copy()
    (result,) = load_potential(model).evaluate([atoms])
    monkeypatch.delitem(sys.modules, "own_mattersim")
    atoms.calc = MatterSimCalculator(load_path=str(path), device="cpu")
    np.testing.assert_allclose(result.forces, atoms.get_forces(), atol=1e-6)


@pytest.mark.parametrize("shape", ["demo", "1M"])
def test_what_an_older_checkpoint_leaves_out_is_what_mattersim_adds(
    shape: str, tmp_path: Path
) -> None:
    model = m3gnet(shape)
    state = model.state_dict()
    for name, ours in constants(5.0).items():
        torch.testing.assert_close(ours, state[name], rtol=3e-7, atol=0)
    assert constants(5.0).keys() == BASES
    torch.save({"model": state, "model_args": model.model_args}, tmp_path / "whole.pth")
    for name in BASES:
        state.pop(name)
    arguments = {name: model.model_args[name] for name in ("num_blocks", "units")}
    torch.save({"model": state, "model_args": arguments}, tmp_path / "older.pth")
    atoms = STRUCTURES["diamond, dense"]
    (whole,), (older,) = (
        MatterSim(tmp_path / name, shape, dtype="float64").evaluate([atoms])
        for name in ("whole.pth", "older.pth")
    )
    scale = np.abs(whole.forces).max()
    np.testing.assert_allclose(older.forces, whole.forces, atol=2e-6 * scale, rtol=0)


def test_the_defaults_are_mattersims() -> None:
    require_mattersim()
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    parameters = inspect.signature(M3Gnet.__init__).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
