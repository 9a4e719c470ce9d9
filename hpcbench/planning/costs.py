"""What crystals cost: the work in them, and the seconds that a rank takes for it.

The work is counted from the crystal as given. How long it takes is a model with four rates; they
are fitted to what runs took (``rates``), and a guess before the first one. Loads no torch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.crystal import Crystal
from hpcbench.errors import ModelError
from hpcbench.phonons.supercells import CHECKS
from hpcbench.planning.displacements import count
from hpcbench.potentials.catalogue import known_potential

# Of a typical potential, in A; the number of edges needs to be right only in proportion.
CUTOFF = 5.0
# Evaluations in the relaxation of a crystal with one free parameter, and the power of their
# number with which they grow: medians of generated crystals (results/scaling-works.json of the
# benchmarks).
STEPS, GROWTH = 28.0, 0.52
# How much a fit trusts the guess's proportions of the rates: as much as one crystal in ten
# that is off by a factor of e.
TRUST_IN_GUESS = 0.3


# Edges a second of one core before anything was measured, of potentials whose entry in the table
# says none; a GPU is taken for a hundred cores.
GUESSED_RATE = 1e4
GPU_TO_CORE = 100.0
# Of a sum of seconds of many crystals: a guess may be off by so much, a measured model where
# the list is of another kind than the one it was measured with.
FACTOR_OF_GUESS, FACTOR_OF_MEASURED = 4.0, 1.25

GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Work:
    """The work in a crystal.

    Attributes
    ----------
    relaxation : float
        Edges that the potential evaluates in the relaxation: edges of the cell times steps.
    forces : float
        Edges evaluated for displaced supercells, and for those that tell the noise.
    copies : int
        Displaced supercells.
    supercell_atoms : int
        Atoms of a supercell.
    """

    relaxation: float
    forces: float
    copies: int
    supercell_atoms: int

    @property
    def largest(self) -> float:
        """Edges of a supercell: what a forward pass has to hold at least."""
        return self.forces / (self.copies + CHECKS) if self.copies else 0.0


@dataclass(frozen=True)
class CostModel:
    """How long a rank takes for work.

    Attributes
    ----------
    relaxation, forces : float
        Seconds for an edge, in the relaxation and in displaced supercells.
    crystal : float
        Seconds for a crystal, whatever its size.
    analysis : float
        Seconds for a squared atom of the supercell: phonopy's work, as far as it is not hidden
        beside the potential's.
    spread : float
        Typical factor between predicted and actual seconds of a crystal (its geometric standard
        deviation).
    crystals : int
        Of how many crystals the times are that it was fitted to; 0 for a guess.
    where : str
        Device that they were measured on, and when; or what the guess is of.
    """

    relaxation: float
    forces: float
    crystal: float
    analysis: float
    spread: float
    crystals: int = 0
    where: str = ""

    @property
    def measured(self) -> bool:
        """Whether it is more than a guess."""
        return self.crystals > 0

    def seconds(self, work: Work) -> float:
        """Seconds that a rank takes for a crystal's work."""
        return float(_terms([work])[0] @ self.rates)

    @property
    def factor(self) -> float:
        """By how much the sum over many crystals may be off."""
        return FACTOR_OF_MEASURED if self.measured else FACTOR_OF_GUESS

    @property
    def rates(self) -> NDArray[np.float64]:
        """Its four rates, in the order of the fields."""
        return np.array([self.relaxation, self.forces, self.crystal, self.analysis])


def predict_work(
    crystal: Crystal,
    supercell_matrix: NDArray[np.integer],
    symmetry_tolerance: float,
    relax: str = "full",
) -> Work:
    """The work in a crystal, from its size, density and symmetry as given.

    Takes about a millisecond.

    Parameters
    ----------
    crystal : Crystal
        As given.
    supercell_matrix : ndarray, shape (3, 3)
        In phonopy's sense.
    symmetry_tolerance : float
        Tolerance in A at which its symmetry is found.
    relax : str
        As ``--relax`` takes it.
    """
    volume = abs(float(np.linalg.det(crystal.cell)))
    if volume == 0.0:
        return Work(0.0, 0.0, 0, 0)
    supercell_atoms = crystal.natoms * abs(round(float(np.linalg.det(supercell_matrix))))
    edges_per_atom = 4 / 3 * math.pi * CUTOFF**3 * crystal.natoms / volume
    counts = count(crystal, supercell_matrix, symmetry_tolerance)
    steps = 1.0 if relax == "none" else STEPS * counts.freedom**GROWTH
    return Work(
        edges_per_atom * crystal.natoms * steps,
        edges_per_atom * supercell_atoms * (counts.copies + CHECKS),
        counts.copies,
        supercell_atoms,
    )


def fit(works: Sequence[Work], seconds: NDArray[np.float64]) -> CostModel:
    """Fit rates to what crystals took.

    Factors between predicted and actual are made small, not differences: a second matters as
    much for a small crystal as an hour for a large one, and crystals that took strangely long
    count less. Then all rates are scaled so that the sum of the seconds is right. What the
    crystals cannot tell, since all are alike, keeps the proportions of the guess.

    Parameters
    ----------
    works : sequence of Work
        Of the crystals, as predicted; at least one.
    seconds : ndarray, shape (len(works),)
        That a rank took for each; all positive.
    """
    # Each rank loads this module, and one fits: scipy takes a second on a slow file system.
    from scipy.optimize import least_squares

    terms = _terms(works)
    start = np.log(guess("", "cpu").rates)
    start += np.median(np.log(seconds) - np.log(terms @ np.exp(start)))

    def deviations(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        factors = np.log(terms @ np.exp(logarithms)) - np.log(seconds)
        return np.concatenate([factors, TRUST_IN_GUESS * (logarithms - start)])

    rates = np.exp(least_squares(deviations, start, loss="soft_l1").x)
    predicted = terms @ rates
    spread = math.exp(float(np.std(np.log(seconds / predicted))))
    rates *= seconds.sum() / predicted.sum()
    relaxation, forces, crystal, analysis = (float(rate) for rate in rates)
    return CostModel(relaxation, forces, crystal, analysis, spread, len(works))


def guess(model: str, kind: str) -> CostModel:
    """Rates before anything was measured; ``kind`` of device is ``cpu`` or ``cuda``."""
    spec = None
    with contextlib.suppress(ModelError):  # of a store from elsewhere, it may be unknown here
        spec = known_potential(model)
    rate = (spec.edges_per_second if spec else None) or GUESSED_RATE
    if kind == "cpu":
        return CostModel(1 / rate, 1 / rate, 0.1, 2e-5, 3.0, where="one core of a CPU")
    rate *= GPU_TO_CORE
    return CostModel(1 / rate, 1 / rate, 0.05, 5e-6, 3.0, where="a GPU of a data centre")


def load_cost_model(model: str, weights_sha256: str, dtype: str, device: str) -> CostModel:
    """The rates of a potential: those measured last, or a guess.

    Measured on this device if possible, else on another of its kind.

    Parameters
    ----------
    model, dtype, device : str
        As the settings have them; ``auto`` is a GPU where this machine has one.
    weights_sha256 : str
        Of the weights' file; empty where there is none.
    """
    kind = kind_of(device)
    entries = _known().get(_key(model, weights_sha256, dtype), {})
    here = device_name(kind)
    found: list[tuple[bool, str, CostModel]] = []
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        # An entry of another version, or spoilt by hand, must not keep a run from starting.
        with contextlib.suppress(TypeError, KeyError, ValueError):
            if entry["kind"] == kind:
                found.append((name == here, entry["date"], _read(entry["rates"])))
    return max(found, key=lambda item: item[:2])[2] if found else guess(model, kind)


def keep_cost_model(
    model: str, weights_sha256: str, dtype: str, device: str, rates: CostModel
) -> None:
    """Keep measured rates for the runs to come, in ``$XDG_CACHE_HOME/hpcbench/rates.json``.

    Parameters are those of :func:`load_cost_model`. A file that cannot be written is passed over.
    """
    kind = kind_of(device)
    known = _known()
    key = _key(model, weights_sha256, dtype)
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    entry = {"kind": kind, "date": date, "rates": asdict(rates)}
    others = known.get(key)
    known[key] = {**(others if isinstance(others, dict) else {}), device_name(kind): entry}
    path = _cache_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: others may do this at once, and the last one wins.
        aside = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        aside.write_text(json.dumps(known, indent=1))
        aside.replace(path)


def kind_of(device: str) -> str:
    """``cpu`` or ``cuda``, for a device as the settings name it."""
    if device == "auto":
        return "cuda" if GPUS.is_dir() and any(GPUS.iterdir()) else "cpu"
    return device.partition(":")[0]


def device_name(kind: str) -> str:
    """What the devices of this kind on this machine are called; empty if there are none."""
    paths, title = [Path("/proc/cpuinfo")], "model name"
    if kind != "cpu":
        paths, title = sorted(GPUS.glob("*/information")), "Model"
    with contextlib.suppress(OSError):
        for path in paths:
            for line in path.read_text().splitlines():
                if line.startswith(title):
                    return line.partition(":")[2].strip()
    return platform.machine() if kind == "cpu" else ""


def _read(entry: dict[str, Any]) -> CostModel:
    rates = CostModel(**entry)
    if not all(math.isfinite(value) and value >= 0.0 for value in rates.rates):
        raise ValueError("no rates")
    return rates


def _known() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(_cache_file().read_text())
        if isinstance(known, dict):
            return known
    return {}


def _key(model: str, weights_sha256: str, dtype: str) -> str:
    # Weights are known by their content: the same file may lie in another folder.
    name = Path(model).name if weights_sha256 else model
    return f"{name} | {weights_sha256} | {dtype}"


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hpcbench" / "rates.json"


def _terms(works: Sequence[Work]) -> NDArray[np.float64]:
    """What the rates are multiplied with, shape (number of works, 4)."""
    return np.array(
        [[work.relaxation, work.forces, 1.0, float(work.supercell_atoms) ** 2] for work in works]
    )
