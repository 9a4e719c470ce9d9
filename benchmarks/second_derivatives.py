"""Differentiate the forces of potentials, and compare with displacements.

    python benchmarks/second_derivatives.py chgnet
    python benchmarks/second_derivatives.py sevennet-0
    python benchmarks/second_derivatives.py nequix --weights nequix-oam-1.pt
    python benchmarks/second_derivatives.py mace

In double precision, for 2x2x2 supercells, AlN rattled: the response to the displacement of an atom
is the gradient of the force on it. It is compared with differences of forces over displacements of
0.04 to 0.0025 A, which have to approach it with the square of their length, and, extrapolated, with
its fourth power. MACE is measured with random parameters, as its package has no weights: that says
whether its layers can be differentiated twice, and what it takes. Each crystal has a process of its
own, which tells its memory. Results of earlier runs with other models are kept.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from machine import processor
from protocols import RESULTS

LENGTHS = (0.04, 0.02, 0.01, 0.005, 0.0025)
# Whose rows are computed.
ATOMS = 2
DIRECTION = np.array([0.48, 0.6, -0.64])
FILE = RESULTS / "second-derivatives.json"
PACKAGES = {"chgnet": "chgnet", "sevennet-0": "sevenn", "sevennet-l3i5": "sevenn"} | {
    "nequix": "nequix",
    "mace": "mace-torch",
}
# Forces and what they are differentiated by; told whether they are to be differentiated.
Model = Callable[[Atoms, bool], tuple[torch.Tensor, torch.Tensor]]


def crystals() -> dict[str, Atoms]:
    aln = bulk("AlN", "wurtzite", a=3.13, c=5.02).repeat(2)
    aln.rattle(0.05, seed=0)
    return {
        "MgO": bulk("MgO", "rocksalt", a=4.25).repeat(2),
        "Si": bulk("Si", "diamond", a=5.47).repeat(2),
        "AlN": aln,
    }


def chgnet(_: str) -> Model:
    from chgnet.model.model import BatchedGraph, CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    model = CHGNet.load(use_device="cpu", verbose=False).double()

    def forces(atoms: Atoms, _: bool) -> tuple[torch.Tensor, torch.Tensor]:
        structure = AseAtomsAdaptor.get_structure(atoms)
        single = model.graph_converter(structure)
        single.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
        single.lattice = torch.tensor(structure.lattice.matrix, requires_grad=True)
        single.neighbor_image = single.neighbor_image.double()
        graph = BatchedGraph.from_graphs(
            [single],
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
        )
        return model._compute(graph, compute_force=True)["f"][0], graph.atom_positions[0]

    return forces


def sevennet(name: str) -> Model:
    from sevenn import _keys as key
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.calculator import SevenNetCalculator
    from sevenn.nn.node_embedding import OnehotEmbedding
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    from hpcbench.potentials.registry import spec_of

    calculator = SevenNetCalculator(str(spec_of(name).weights_path()), device="cpu")
    model = calculator.model.double().requires_grad_(False)

    def doubled(module: OnehotEmbedding, _: Any, data: Any) -> Any:
        for where in (module.key_output, module.key_additional_output):
            if where is not None:
                data[where] = data[where].double()
        return data

    for module in model.modules():
        if isinstance(module, OnehotEmbedding):
            module.register_forward_hook(doubled)

    def forces(atoms: Atoms, differentiable: bool) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = unlabeled_atoms_to_graph(atoms, calculator.cutoff)
        vectors = torch.tensor(arrays[key.EDGE_VEC])  # which the next line makes single
        data = AtomGraphData.from_numpy_dict(arrays)
        shifts = torch.zeros((len(atoms), 3), dtype=torch.float64, requires_grad=True)
        sources, targets = data[key.EDGE_IDX]
        data[key.EDGE_VEC] = vectors + shifts[targets] - shifts[sources]
        model.force_output.training = differentiable
        return model(data)[key.PRED_FORCE], shifts

    return forces


def nequix(weights: str) -> Model:
    spec = importlib.util.find_spec("nequix")
    assert spec is not None, "pip install nequix"
    # Without its __init__, which imports jax.
    package = types.ModuleType("nequix")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["nequix"] = package
    from nequix.torch_impl.model import load_model

    torch.set_default_dtype(torch.float64)
    model, config = load_model(weights)
    model.double().eval().requires_grad_(False)
    index = {number: i for i, number in enumerate(config["atomic_numbers"])}

    def forces(atoms: Atoms, differentiable: bool) -> tuple[torch.Tensor, torch.Tensor]:
        found = neighbor_list("ijD", atoms, config["cutoff"])
        receivers, senders, vectors = (torch.from_numpy(one) for one in found)
        shifts = torch.zeros((len(atoms), 3), requires_grad=True)
        edges = vectors + shifts[senders] - shifts[receivers]
        species = torch.tensor([index[number] for number in atoms.numbers])
        energy = model.node_energies(edges, species, senders, receivers).sum()
        (found_forces,) = torch.autograd.grad(-energy, shifts, create_graph=differentiable)
        return found_forces, shifts

    return forces


def mace(_: str) -> Model:
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    # After mace, which lets torch load its constants.
    o3 = importlib.import_module("e3nn.o3")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    numbers = [7, 8, 12, 13, 14]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("64x0e+64x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=30,
        atomic_numbers=numbers,
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    model.eval().requires_grad_(False)
    table = tools.AtomicNumberTable(numbers)

    def forces(atoms: Atoms, differentiable: bool) -> tuple[torch.Tensor, torch.Tensor]:
        one = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=5.0)
        loader = torch_geometric.dataloader.DataLoader([one], batch_size=1, shuffle=False)
        batch = next(iter(loader)).to_dict()
        output = model(batch, training=differentiable, compute_force=True)
        return output["forces"], batch["positions"]

    return forces


LOADERS: dict[str, Callable[[str], Model]] = {
    "chgnet": chgnet,
    "sevennet-0": lambda _: sevennet("sevennet-0"),
    "sevennet-l3i5": lambda _: sevennet("sevennet-l3i5"),
    "nequix": nequix,
    "mace": mace,
}


def peak() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(name: str, weights: str, crystal: str) -> dict[str, Any]:
    """Measure one crystal, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model, atoms = LOADERS[name](weights), crystals()[crystal]
    before = peak()

    def forces(shifted: Atoms) -> np.ndarray:
        found: np.ndarray = model(shifted, False)[0].detach().numpy()
        return found

    def slope(length: float) -> np.ndarray:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0] += sign * length * DIRECTION
            ends.append(forces(moved))
        return (ends[0] - ends[1]) / (2 * length)

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        forces(atoms)
        seconds.append(time.perf_counter() - start)
    memory = [peak() - before]
    found, shifts = model(atoms, True)
    hessian, rows = [], []
    for atom in range(ATOMS):
        for axis in range(3):
            start = time.perf_counter()
            (row,) = torch.autograd.grad(found[atom, axis], shifts, retain_graph=True)
            rows.append(time.perf_counter() - start)
            hessian.append(row.numpy())
    memory.append(peak() - before)
    exact = np.einsum("a,aij->ij", DIRECTION, hessian[:3])
    matrix = np.reshape([row[:ATOMS] for row in hessian], (3 * ATOMS, 3 * ATOMS))
    slopes = {length: slope(length) for length in LENGTHS}
    extrapolated = {
        length: (4 * slopes[length / 2] - slopes[length]) / 3 for length in LENGTHS[:-1]
    }
    return {
        "atoms": len(atoms),
        "seconds of a force call": round(min(seconds), 3),
        "seconds of a row": round(float(np.median(rows)), 3),
        "MB above the model by force calls, and by rows": [round(one) for one in memory],
        "asymmetry, eV/A^2": float(np.abs(matrix - matrix.T).max()),
        "largest, eV/A^2": round(float(np.abs(matrix).max()), 4),
        "force over displacement, eV/A^2": {
            "exact": round(float(-exact[0] @ DIRECTION), 5),
            **{str(length): round(float(-one[0] @ DIRECTION), 5) for length, one in slopes.items()},
        },
        "furthest from exact, eV/A^2": {
            str(length): float(np.abs(one - exact).max()) for length, one in slopes.items()
        },
        "furthest from exact when extrapolated, eV/A^2": {
            str(length): float(np.abs(one - exact).max()) for length, one in extrapolated.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=LOADERS)
    parser.add_argument("--weights", default="", help="of Nequix, as its package saves them")
    parser.add_argument("--crystal", help="only this one, printed")
    options = parser.parse_args()
    if options.crystal:
        print(json.dumps(measured(options.model, options.weights, options.crystal)))
        return
    found = {}
    for crystal in crystals():
        command = [sys.executable, __file__, *sys.argv[1:], "--crystal", crystal]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[crystal] = json.loads(done.stdout.splitlines()[-1])
        print(crystal, json.dumps(found[crystal], indent=1), flush=True)
    package = PACKAGES[options.model]
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    results[options.model] = {
        "command": f"python benchmarks/second_derivatives.py {options.model}",
        "machine": {
            "date": date.today().isoformat(),
            "processor": processor(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("torch", "e3nn", package)},
        },
        "found": found,
    }
    FILE.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
