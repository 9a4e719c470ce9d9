"""Fine-tune the demo potential on an exported training set, by MatterSim's own training.

    python benchmarks/training.py

``mattersim-demo`` knows aluminium and copper, and none of their alloys. Twelve crystals of seven
compositions are relaxed with CHGNet, and exported as a training set that it labels. The errors of
the forces on compositions that are in the test part alone are those before and after the training.
Needs the extra ``chgnet``, and ``wandb``, which MatterSim's script imports.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.spacegroup import crystal
from machine import processor
from protocols import RESULTS

import hpcbench
from hpcbench.interop.exporting import export_training_set
from hpcbench.interop.training_recipe import PARTS, Recipe
from hpcbench.potentials.registry import weights_file

LABELS, MODEL = "chgnet", "mattersim-demo"
RECIPE = Recipe(per_crystal=4, atoms=(24, 60), split=(0.6, 0.15, 0.25))
EPOCHS, BATCH, RATE = 12, 4, 5e-4


def crystals() -> dict[str, Atoms]:
    """Return alloys of aluminium and copper, in structures that alloys have."""
    found = {"Al": bulk("Al"), "Cu": bulk("Cu"), "AlCu B2": bulk("AlCu", "cesiumchloride", a=2.95)}
    found["AlCu L10"] = crystal(
        ("Al", "Cu"),
        [(0, 0, 0), (0.5, 0.5, 0.5)],
        spacegroup=123,
        cellpar=[2.7, 2.7, 3.7] + [90] * 3,
    )
    found["AlCu B32"] = fcc(("Al", "Cu"), [(0, 0, 0), (0.5, 0.5, 0.5)], 227, 6.0)
    for one, other in (("Al", "Cu"), ("Cu", "Al")):
        a = 3.65 if other == "Cu" else 3.9
        places = [(0, 0, 0), (0.5, 0.5, 0)]
        found[f"{one}{other}3 L12"] = crystal(
            (one, other), places, spacegroup=221, cellpar=[a] * 3 + [90] * 3
        )
        places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
        found[f"{one}{other}3 D03"] = fcc((one, other, other), places, 225, a * 1.6)
        found[f"{one}{other}2 C11b"] = crystal(
            (one, other), [(0, 0, 0), (0, 0, 1 / 3)], spacegroup=139,
            cellpar=[a * 0.8, a * 0.8, a * 2.4] + [90] * 3, primitive_cell=True,
        )  # fmt: skip
    found["Al2Cu C16"] = crystal(
        ("Cu", "Al"), [(0, 0, 0.25), (0.158, 0.658, 0)], spacegroup=140,
        cellpar=[6.06, 6.06, 4.87] + [90] * 3, primitive_cell=True,
    )  # fmt: skip
    for name, atoms in found.items():
        atoms.info["name"] = name
    return found


def fcc(symbols: tuple[str, ...], places: list[tuple[float, ...]], group: int, a: float) -> Atoms:
    """Return the primitive cell of a face-centred cubic crystal."""
    return crystal(
        symbols, places, spacegroup=group, cellpar=[a] * 3 + [90] * 3, primitive_cell=True
    )


def errors(model: str, folder: Path) -> dict[str, float]:
    """Return the mean absolute error of the forces of each part, in meV/A."""
    potential = hpcbench.load_potential(model)
    found = {}
    for part in PARTS:
        frames = read(folder / f"{part}.extxyz", ":")
        results = potential.evaluate(frames)
        differences = [
            (result.forces - atoms.get_forces()).ravel()
            for atoms, result in zip(frames, results, strict=True)
        ]
        found[part] = round(1e3 * float(np.abs(np.concatenate(differences)).mean()), 1)
    return found


def train_by_script(folder: Path, to: Path) -> float:
    """Run MatterSim's script, which learns energies too; return its processor time in s."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "-m"]
    words += ["mattersim.training.finetune_mattersim", f"--load_model_path={weights_file(MODEL)}"]
    words += [f"--train_data_path={folder / 'train.extxyz'}"]
    words += [f"--valid_data_path={folder / 'validation.extxyz'}"]
    words += [f"--epochs={EPOCHS}", f"--batch_size={BATCH}", f"--lr={RATE}", "--include_forces"]
    words += ["--device=cpu", f"--save_path={to}", "--save_checkpoint"]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train_on_forces(folder: Path, to: Path) -> float:
    """Train on forces alone, as Lee and Xia; return the processor time in s."""
    import torch
    from mattersim.datasets.utils.build import build_dataloader
    from mattersim.forcefield.potential import Potential

    def loader(part: str) -> Any:
        frames = read(folder / f"{part}.extxyz", ":")
        energies = [atoms.get_potential_energy() for atoms in frames]
        forces = [atoms.get_forces() for atoms in frames]
        return build_dataloader(frames, energies, forces, batch_size=BATCH, shuffle=True)

    start = time.process_time()
    torch.manual_seed(42)
    potential = Potential.from_checkpoint(
        str(weights_file(MODEL)), load_training_state=False, device="cpu", lr=RATE
    )
    potential.train_model(
        loader("train"), loader("validation"), torch.nn.HuberLoss(delta=0.01),
        include_energy=False, include_forces=True, epochs=EPOCHS, save_checkpoint=True,
        save_path=str(to),
    )  # fmt: skip
    return time.process_time() - start


def main() -> None:
    """Measure, print, and write the results."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        store = hpcbench.run(
            crystals().values(), model=LABELS, out=here / "s.h5", supercell=(2, 2, 2), fmax=0.005,
            workers=0, mesh=(4, 4, 4), band_points=11,
        ).store  # fmt: skip
        assert store is not None
        summary = export_training_set(store, here / "set", RECIPE)
        trained = {"before": errors(MODEL, here / "set")}
        seconds = {}
        for name, train in {"script": train_by_script, "forces alone": train_on_forces}.items():
            seconds[name] = round(train(here / "set", here / name))
            trained[name] = errors(str(here / name / "best_model.pth"), here / "set")
        table = (here / "set" / "crystals.csv").read_text().splitlines()
    results = {
        "labels": LABELS,
        "model": MODEL,
        "crystals": dict(summary.crystals),
        "supercells": dict(summary.supercells),
        "left_out": summary.left_out,
        "training": {"epochs": EPOCHS, "batch_size": BATCH, "lr": RATE},
        "force_mae_meV_per_A": trained,
        "processor_seconds": seconds,
        "table": table,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("mattersim", "chgnet", "torch", "ase")},
        "processor": processor(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(results, indent=1))
    (RESULTS / "training.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
