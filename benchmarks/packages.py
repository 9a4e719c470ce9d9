"""Potentials in batches against the loop with their own packages' calculators, interleaved.

    python benchmarks/throughput.py --packages nequix-oam-1 chgnet sevennet-0 [--output NAME.json]

What is computed is the same for both: the forces on all displaced 2x2x2 supercells of generated
crystals, and energies, forces and stresses of the crystals themselves, strained a little, as in the
steps of a relaxation. The loop gives one structure after the other to the package's ASE calculator;
hpcbench gives them to its potential as a run does. Both take turns, crystal by crystal, in one
process with one thread; what counts is processor time, so that other work on the machine falls on
both alike. Memory by edge is the peak of a process, of a pass of twice as many edges less that of
one.

Nequix's calculator needs jax where it loads: its torch model is called here as the calculator calls
it, with the same list of neighbours (``NEQUIX_PACKAGE`` names the folder of its package).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

DISTRIBUTIONS = {"nequix": "e3nn", "chgnet": "chgnet", "sevennet": "sevenn", "m3gnet": "matgl",
                 "tensornet": "matgl"}  # fmt: skip
STEPS = 6
"""Strained copies of each crystal, as in a relaxation."""


class NequixLoop(Calculator):
    """Nequix's torch model behind ASE, as its own calculator does it."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, path: Path) -> None:
        super().__init__()
        folder = os.environ["NEQUIX_PACKAGE"]
        bare = types.ModuleType("nequix")
        bare.__path__ = [folder]
        sys.modules["nequix"] = bare
        package = importlib.import_module("nequix.torch_impl.model")
        # It reads its own .pt alone.
        self.model, self.config = package.load_model(path.with_suffix(".pt"))
        self.model.eval()
        self.index = {z: i for i, z in enumerate(sorted(self.config["atomic_numbers"]))}

    def calculate(
        self, atoms: Any = None, properties: Any = None, changes: Any = all_changes
    ) -> None:
        import matscipy.neighbours

        super().calculate(atoms)
        i, j, shift = matscipy.neighbours.neighbour_list("ijS", atoms, self.config["cutoff"])
        single = torch.float32
        answers = self.model(
            torch.tensor([self.index[z] for z in atoms.numbers]),
            torch.tensor(atoms.positions, dtype=single),
            torch.tensor(shift, dtype=single),
            torch.tensor(np.stack([j, i]), dtype=torch.int64),
            torch.tensor(atoms.cell[:], dtype=single)[None],
            torch.tensor([len(atoms)]),
            torch.tensor([len(i)]),
            torch.zeros(len(atoms), dtype=torch.int64),
        )
        energies, forces, stress = (answer.detach().numpy() for answer in answers)
        self.results = {
            "energy": float(energies.sum()), "forces": forces,
            "stress": stress[0].flat[[0, 4, 8, 5, 2, 1]],
        }  # fmt: skip


def calculator_of(name: str) -> Any:
    """The calculator of the potential's own package."""
    from hpcbench.potentials.registry import spec_of

    path = spec_of(name).weights_path()
    assert path is not None
    if name.startswith("nequix"):
        return NequixLoop(path)
    if name == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu", on_isolated_atoms="error")
    if name.startswith("sevennet"):
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(str(path), device="cpu")
    import matgl
    from matgl.ext.ase import PESCalculator

    return PESCalculator(matgl.load_model(path.parent), stress_unit="eV/A3")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    answer = work()
    return answer, time.process_time() - begin


def compare(name: str, crystals: list[Atoms], displaced: Callable[[Atoms], Any]) -> dict[str, Any]:
    """Times of both ways, and the largest difference of their forces."""
    from hpcbench.phonons.supercells import displaced_copies
    from hpcbench.potentials.neighbours import neighbour_list
    from hpcbench.potentials.registry import load_potential
    from hpcbench.potentials.structures import Structures

    with contextlib.redirect_stdout(io.StringIO()):
        potential: Any = load_potential(name, device="cpu")
        calculator = calculator_of(name)

    def loop(structures: list[Atoms], *, stress: bool) -> list[np.ndarray]:
        forces = []
        for atoms in structures:
            atoms.calc = calculator
            forces.append(np.array(atoms.get_forces()))
            if stress:
                atoms.get_stress()
        return forces

    def packed(copies: Any) -> list[np.ndarray]:
        prepared = potential.prepare(copies)
        step = max(1, int(potential.capacity / prepared.cost))
        firsts = range(0, len(copies), step)
        parts = [(prepared, n, min(n + step, len(copies))) for n in firsts]
        return [forces for part in parts for forces in potential.forces([part])[0]]

    rng = np.random.default_rng(0)
    seconds = {"phonons": [0.0, 0.0], "relaxation": [0.0, 0.0]}
    edges, worst, largest = 0, 0.0, 0.0
    relaxing = []
    loop([crystals[0].copy()], stress=True)
    potential.evaluate(crystals[:1], stress=True)
    for atoms in crystals:
        phonon = displaced(atoms)
        copies = displaced_copies(phonon)
        supercells = [
            Atoms(numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True)
            for cell in phonon.supercells_with_displacements
        ]
        theirs, by_loop = timed(lambda cells=supercells: loop(cells, stress=False))
        ours, by_us = timed(lambda copies=copies: packed(copies))
        seconds["phonons"][0] += by_loop
        seconds["phonons"][1] += by_us
        prepared = potential.prepare(copies)
        edges += prepared.cost * len(copies)
        for a, b in zip(theirs, ours, strict=True):
            # NaN stays NaN.
            worst = float(np.maximum(worst, np.abs(a - b).max()))
            largest = max(largest, np.abs(a).max())
        for _ in range(STEPS):
            strained = atoms.copy()
            strain = np.eye(3) + rng.normal(scale=0.003, size=(3, 3))
            strained.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            relaxing.append(strained)
    # Crystals relax together in a run: one batch of each step.
    for step in range(STEPS):
        batch = relaxing[step::STEPS]
        _, by_loop = timed(lambda batch=batch: loop(batch, stress=True))
        _, by_us = timed(lambda batch=batch: potential.evaluate(batch, stress=True))
        seconds["relaxation"][0] += by_loop
        seconds["relaxation"][1] += by_us
    small = neighbour_list(Structures.from_atoms(relaxing), potential._model.cutoff).nedges
    distribution = DISTRIBUTIONS[name.partition("-")[0]]
    found = {
        "potential": name, distribution: version(distribution), "capacity": potential.capacity,
        "supercells": sum(len(displaced_copies(displaced(a))) for a in crystals), "edges": edges,
        "edges_per_second": edges / seconds["phonons"][1],
        "edges_per_second_of_crystals": small / seconds["relaxation"][1],
        "largest_force": float(largest), "largest_difference": worst,
        **{f"{what}_loop": pair[0] for what, pair in seconds.items()},
        **{f"{what}_hpcbench": pair[1] for what, pair in seconds.items()},
        **{f"{what}_ratio": pair[0] / pair[1] for what, pair in seconds.items()},
        "bytes_per_edge": bytes_per_edge(name),
    }  # fmt: skip
    print(
        f"{name:28} supercells {found['phonons_ratio']:5.2f} x the loop, crystals "
        f"{found['relaxation_ratio']:5.2f} x, {found['edges_per_second']:7.0f} edges/s, "
        f"{found['bytes_per_edge'] / 1e3:5.0f} kB an edge, forces differ by {worst:.1e} of "
        f"{largest:.1f} eV/A",
        flush=True,
    )
    return found


def bytes_per_edge(name: str) -> float:
    """The slope of a process's peak memory with the edges of a pass."""
    points = []
    for size in (4_000, 12_000):
        command = [sys.executable, __file__, "--peak", name, str(size)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        points.append(json.loads(answer.splitlines()[-1]))
    (few, low), (many, high) = points
    return float((high - low) / (many - few))


def one_pass(name: str, size: int) -> None:
    from hpcbench.potentials.memory import made_up_crystals
    from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
    from hpcbench.potentials.registry import load_potential

    torch.set_num_threads(1)
    potential: Any = load_potential(name, device="cpu", max_edges=10**6)
    model = potential._model
    batch = made_up_crystals(size, torch.device("cpu"), model.cutoff)
    found = neighbour_list(batch, model.cutoff)
    model(batch.numbers, found.edges, edge_vectors(batch, found))
    # Not ru_maxrss: that begins with the peak of the parent.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps([found.nedges, 1024 * peak]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2, required=True)
    name, size = parser.parse_args().peak
    one_pass(name, int(size))
