"""Nequix: against its own package, against itself in batches, against energies, and silicon."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from nequix_package import in_double, require_nequix

import hpcbench
from hpcbench.errors import ModelError, PotentialError
from hpcbench.potentials import fetch
from hpcbench.potentials.catalogue import BUILT_IN
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.nequix_weights import NequixWeights, read_nequix
from hpcbench.potentials.registry import load_potential
from hpcbench.potentials.selftest import self_test
from hpcbench.potentials.structures import DisplacedCopies, Structures

FOLDER = ".cache/nequix/models"


def rattled(name: str, structure: str, lattice: float, repeat: Any = 1, seed: int = 0) -> Atoms:
    atoms = bulk(name, structure, a=lattice).repeat(repeat)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.06, size=atoms.positions.shape)
    return atoms


MIXED = [
    rattled("NaCl", "rocksalt", 5.6, (2, 1, 1)),
    rattled("Si", "diamond", 5.5, seed=1),
    rattled("CsCl", "cesiumchloride", 4.1, seed=2),
    rattled("W", "bcc", 3.2, (1, 1, 2), seed=3),
]


@pytest.fixture(scope="session")
def nequix_folder() -> Path:
    beside = Path(__file__).parents[2] / "shared" / "data"
    data = Path(os.environ.get("HPCBENCH_REFERENCE_DATA", beside))
    folder = data.parent / "models" / "nequix"
    if not (folder / "nequix-oam-1.pt").is_file():
        pytest.skip(f"no weights of Nequix in {folder}: others', not part of the repository")
    pytest.importorskip("e3nn", reason="e3nn, with which Nequix is computed, is not installed")
    return folder


@pytest.fixture(scope="session")
def single(nequix_folder: Path) -> Any:
    return load_potential(str(nequix_folder / "nequix-oam-1.nqx"), max_edges=20_000)


@pytest.fixture(scope="session")
def double(nequix_folder: Path) -> Any:
    path = str(nequix_folder / "nequix-oam-1.pt")
    return load_potential(path, dtype="float64", max_edges=20_000)


def tensors_of(weights: NequixWeights) -> list[torch.Tensor]:
    layers = [
        (*layer.radial, *layer.first, *layer.second, *layer.skip, *layer.norm)
        for layer in weights.layers
    ]
    return [weights.atom_energies, weights.readout, *(one for layer in layers for one in layer)]


def test_the_original_and_what_the_package_converts_it_to_are_the_same(nequix_folder: Path) -> None:
    original, converted = (
        read_nequix(nequix_folder / f"nequix-oam-1.{ending}") for ending in ("nqx", "pt")
    )
    numbers = 0
    for one, other in zip(tensors_of(original), tensors_of(converted), strict=True):
        assert torch.equal(one, other)
        numbers += one.numel()
    assert 700_000 < numbers < 750_000


@pytest.mark.parametrize("name", ["nequix-oam-1", "nequix-oam-1-pft", "nequix-mp-1-pft"])
def test_energies_and_gradients_are_those_of_the_package(
    name: str, nequix_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nequix_folder / f"{name}.pt"
    package = require_nequix(monkeypatch)
    batch = Structures.from_atoms(MIXED)
    with in_double():
        theirs, configuration = package.load_model(path)
        edges = neighbour_list(batch, configuration["cutoff"])
        vectors = edge_vectors(batch, edges)
        order = sorted(configuration["atomic_numbers"])
        species = torch.tensor([order.index(int(z)) for z in batch.numbers])
        leaf = vectors.clone().requires_grad_(True)
        centre, neighbour = edges.edges
        expected = theirs.double().node_energies(leaf, species, neighbour, centre).squeeze(1)
        (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    for dtype, tolerance in (("float64", 1e-11), ("float32", 5e-6)):
        potential: Any = load_potential(str(path), dtype=dtype, max_edges=20_000)
        energies, slopes = potential._model(batch.numbers, edges.edges, vectors)
        assert energies.numpy() == pytest.approx(expected.detach().numpy(), abs=tolerance)
        np.testing.assert_allclose(slopes, gradient, atol=tolerance, rtol=0)


def test_a_batch_equals_one_by_one(single: Any, double: Any) -> None:
    for potential, tolerance in ((single, 6e-6), (double, 1e-13)):
        for atoms, batched in zip(MIXED, potential.evaluate(MIXED, stress=True), strict=True):
            (alone,) = potential.evaluate([atoms], stress=True)
            np.testing.assert_allclose(batched.forces, alone.forces, atol=tolerance, rtol=0)
            np.testing.assert_allclose(batched.stress, alone.stress, atol=tolerance, rtol=0)
    assert self_test(single) < 1e-5
    assert self_test(double) < 1e-12


def test_forces_and_stress_are_derivatives_of_the_energy(double: Any) -> None:
    atoms, step = MIXED[0], 1e-4
    (result,) = double.evaluate([atoms], stress=True)

    def energies(changes: list[Atoms]) -> list[float]:
        return [found.energy for found in double.evaluate(changes)]

    for atom, axis in [(0, 0), (3, 2)]:
        moved = [atoms.copy(), atoms.copy()]
        for sign, one in zip((1, -1), moved, strict=True):
            one.positions[atom, axis] += sign * step
        up, down = energies(moved)
        assert -(up - down) / (2 * step) == pytest.approx(result.forces[atom, axis], abs=1e-6)
    for i, j in [(0, 0), (1, 2)]:
        strained = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            changed = atoms.copy()
            changed.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            strained.append(changed)
        up, down = energies(strained)
        stress = (up - down) / (2 * step) / atoms.get_volume()
        assert stress == pytest.approx(result.stress[i, j], abs=1e-7)


def test_linear_forces_are_the_slopes_of_forces(double: Any) -> None:
    atoms = rattled("MgO", "rocksalt", 4.3, 2, seed=5)
    along = np.array([0.6, 0.0, 0.8])
    step = 1e-3
    copies = DisplacedCopies(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell[:],
        np.array([3, 3, 6]),
        np.array([step * along, -step * along, [0, step, 0]]),
    )
    prepared = double.prepare(copies)
    first, rest = double.linear_forces([(prepared, 0, 1), (prepared, 1, 3)])
    (forces,) = double.forces([(prepared, 0, 2)])
    assert np.abs(first).max() > 5.0 * step
    np.testing.assert_allclose(first[0], (forces[0] - forces[1]) / 2, atol=1e-5 * step * 20)
    np.testing.assert_allclose(rest[0], -first[0], atol=1e-12)
    # Force constants are symmetric.
    assert first[0][6, 1] / step == pytest.approx(rest[1][3] @ along / step, abs=1e-9)


@pytest.mark.slow
def test_silicon_is_that_of_the_weights_readme(nequix_folder: Path, tmp_path: Path) -> None:
    """Lattice constant 5.490 A and highest frequency 12.4 THz, with the package's calculator."""
    potential = load_potential(str(nequix_folder / "nequix-oam-1.nqx"), max_edges=20_000)
    hpcbench.run(
        [bulk("Si", a=5.45)], model=potential, out=tmp_path / "si.h5", workers=0,
        supercell=(2, 2, 2), mesh=(8, 8, 8),
    )  # fmt: skip
    store = hpcbench.open(tmp_path / "si.h5")
    (crystal,) = store.ids
    row, cell = store.row(crystal), store.phonopy(crystal).unitcell
    assert (8 * cell.volume / len(cell)) ** (1 / 3) == pytest.approx(5.490, abs=0.001)
    assert row["max_frequency"] == pytest.approx(12.4, abs=0.1)


def test_weights_are_found_where_nequix_keeps_them_in_either_format(
    nequix_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PotentialError, match=r"nequix-oam-1\.nqx\. .* models fetch nequix-oam-1"):
        load_potential("nequix-oam-1")
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for ending in (".pt", ".nqx"):
        shutil.copy(nequix_folder / f"nequix-oam-1{ending}", folder)
        info = load_potential("nequix-oam-1", max_edges=5_000).info
        assert (info.name, info.package, info.differentiable) == ("nequix-oam-1", "e3nn", True)
        assert info.elements == frozenset({*range(1, 84), *range(89, 95)})
        assert BUILT_IN["nequix-oam-1"].response


def test_fetching_brings_the_published_file(
    nequix_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO((nequix_folder / "nequix-oam-1.nqx").read_bytes())

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(fetch.urllib.request, "urlopen", urlopen)
    path = fetch.fetch_weights("nequix-oam-1")
    assert path == tmp_path / FOLDER / "nequix-oam-1.nqx"
    assert path.read_bytes() == (nequix_folder / "nequix-oam-1.nqx").read_bytes()
    (address,) = asked
    assert address.endswith("/models/nequix-oam-1.nqx")


def test_what_are_no_weights_is_said_so(nequix_folder: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.nqx"
    cut.write_bytes((nequix_folder / "nequix-oam-1.nqx").read_bytes()[:200_000])
    other = tmp_path / "other.pt"
    first, rest = (nequix_folder / "nequix-oam-1.pt").read_bytes().split(b"\n", 1)
    other.write_bytes(
        json.dumps({**json.loads(first), "index_weights": True}).encode() + b"\n" + rest
    )
    empty = tmp_path / "empty.nqx"
    empty.write_bytes(b"")
    for path, words in ((cut, "cut.nqx: no weights"), (other, "index_weights"), (empty, "empty")):
        with pytest.raises(PotentialError, match=words):
            load_potential(str(path))
    with pytest.raises(ModelError, match="no such file"):
        load_potential(str(tmp_path / "missing.nqx"))


def test_an_isolated_atom_has_an_energy_and_no_forces(double: Any) -> None:
    atoms = Atoms("Si", cell=np.eye(3) * 20.0, pbc=True)
    (result,) = double.evaluate([atoms], stress=True)
    assert np.isfinite(result.energy)
    np.testing.assert_array_equal(result.forces, 0.0)
