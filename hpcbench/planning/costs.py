"""Costs of crystals: the work in them, and the seconds that a rank takes for it.

The work is counted from the crystal as given. A model with four rates turns it into seconds; the
rates are fitted to measured times of runs, and guessed before the first run. This module does not
load torch.
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
from hpcbench.potentials.spec import USUAL_CUTOFF

# Evaluations in the relaxation of a crystal with one free parameter, and the power of their
# number with which they grow: medians of generated crystals (results/scaling-works.json of the
# benchmarks).
STEPS, GROWTH = 28.0, 0.52
# Weight of the guess's proportions of the rates in a fit: squared, a rate that is off by a factor
# of e counts as a tenth of a crystal that is.
TRUST_IN_GUESS = 0.3


# Guess of edges per second on one core, for potentials whose entry in the table has none; a GPU
# is assumed to be as fast as a hundred cores.
GUESSED_RATE = 1e4
GPU_TO_CORE = 100.0
# Uncertainty of a sum of seconds over many crystals: of a guess, and of a measured model where
# the list is of another kind than that of the measurement.
FACTOR_OF_GUESS, FACTOR_OF_MEASURED = 4.0, 1.25

GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Work:
    """The work in a crystal, counted in edges of the neighbour graph.

    Attributes
    ----------
    relaxation : float
        Edges that the potential evaluates in the relaxation: edges of the cell times steps.
    forces : float
        Edges evaluated for displaced supercells, with those that give the noise of forces.
    copies : int
        Number of displaced supercells.
    supercell_atoms : int
        Number of atoms of a supercell.
    """

    relaxation: float
    forces: float
    copies: int
    supercell_atoms: int

    @property
    def largest(self) -> float:
        """Return the edges of one supercell, the least that a forward pass must hold."""
        return self.forces / (self.copies + CHECKS) if self.copies else 0.0


@dataclass(frozen=True)
class CostModel:
    """Rates that turn work into seconds of a rank.

    Attributes
    ----------
    relaxation, forces : float
        Seconds per edge, in the relaxation and in displaced supercells.
    crystal : float
        Seconds per crystal, independent of its size.
    analysis : float
        Seconds per squared number of atoms of the supercell: phonopy's work, as far as the
        potential waits for it.
    spread : float
        Geometric standard deviation of the ratio of actual to predicted seconds of a crystal.
    crystals : int
        Number of crystals of the fit; 0 for a guess.
    where : str
        Device and date of the measurement; or the device that the guess is for.
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
        """Tell whether the rates are measured, not guessed."""
        return self.crystals > 0

    def seconds(self, work: Work) -> float:
        """Return the seconds that a rank takes for a crystal's work."""
        return float(_terms([work])[0] @ self.rates)

    @property
    def factor(self) -> float:
        """Return the factor by which a sum over many crystals may be wrong."""
        return FACTOR_OF_MEASURED if self.measured else FACTOR_OF_GUESS

    @property
    def rates(self) -> NDArray[np.float64]:
        """Return the four rates in the order of the fields, shape (4,)."""
        return np.array([self.relaxation, self.forces, self.crystal, self.analysis])


def predict_work(
    crystal: Crystal,
    supercell_matrix: NDArray[np.integer],
    symmetry_tolerance: float,
    relax: str = "full",
) -> Work:
    """Predict the work in a crystal from its size, density and symmetry.

    This takes about a millisecond.

    Parameters
    ----------
    crystal : Crystal
        The crystal as given.
    supercell_matrix : ndarray, shape (3, 3)
        As phonopy defines it.
    symmetry_tolerance : float
        Tolerance in A at which its symmetry is found.
    relax : str
        Value of ``--relax``.
    """
    volume = abs(float(np.linalg.det(crystal.cell)))
    if volume == 0.0:
        return Work(0.0, 0.0, 0, 0)
    supercell_atoms = crystal.natoms * abs(round(float(np.linalg.det(supercell_matrix))))
    edges_per_atom = 4 / 3 * math.pi * USUAL_CUTOFF**3 * crystal.natoms / volume
    counts = count(crystal, supercell_matrix, symmetry_tolerance)
    steps = 1.0 if relax == "none" else STEPS * counts.freedom**GROWTH
    return Work(
        edges_per_atom * crystal.natoms * steps,
        edges_per_atom * supercell_atoms * (counts.copies + CHECKS),
        counts.copies,
        supercell_atoms,
    )


def fit(works: Sequence[Work], seconds: NDArray[np.float64]) -> CostModel:
    """Fit rates to measured times of crystals.

    The fit is of the logarithms of the times, so that relative errors of small and large crystals
    count the same; a robust loss lets outliers count less. Then all rates are scaled so that the
    sum of the seconds is right. Rates that similar crystals do not determine keep the proportions
    of the guess.

    Parameters
    ----------
    works : sequence of Work
        Predicted work of the crystals; at least one.
    seconds : ndarray, shape (len(works),)
        Measured seconds of a rank for each; all positive.
    """
    # All ranks load this module, only one fits: loading scipy takes a second on a slow disk.
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
    """Return rates for a potential that was not measured.

    Parameters
    ----------
    model : str
        Name of the potential; empty for a typical one.
    kind : str
        Kind of device, ``cpu`` or ``cuda``.
    """
    spec = None
    with contextlib.suppress(ModelError):  # the potential of another machine may be unknown here
        spec = known_potential(model)
    rate = (spec.edges_per_second if spec else None) or GUESSED_RATE
    if spec:
        # Work is counted in edges within the usual cutoff.
        rate *= (USUAL_CUTOFF / spec.cutoff) ** 3
    if kind == "cpu":
        return CostModel(1 / rate, 1 / rate, 0.1, 2e-5, 3.0, where="one core of a CPU")
    rate *= GPU_TO_CORE
    return CostModel(1 / rate, 1 / rate, 0.05, 5e-6, 3.0, where="a GPU of a data centre")


def load_cost_model(model: str, weights_sha256: str, dtype: str, device: str) -> CostModel:
    """Return the rates of a potential: those measured last, or a guess.

    Rates measured on this device are preferred to those of another of its kind.

    Parameters
    ----------
    model, dtype, device : str
        Settings of the run; ``auto`` is a GPU where this machine has one.
    weights_sha256 : str
        SHA-256 of the file of weights; empty if there is none.
    """
    kind = kind_of(device)
    entries = _known().get(_key(model, weights_sha256, dtype), {})
    here = device_name(kind)
    found: list[tuple[bool, str, CostModel]] = []
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        # An entry of another version, or an invalid one, must not prevent the start of a run.
        with contextlib.suppress(TypeError, KeyError, ValueError):
            if entry["kind"] == kind:
                found.append((name == here, entry["date"], _read(entry["rates"])))
    return max(found, key=lambda item: item[:2])[2] if found else guess(model, kind)


def keep_cost_model(
    model: str, weights_sha256: str, dtype: str, device: str, rates: CostModel
) -> None:
    """Save measured rates for later runs, in ``$XDG_CACHE_HOME/hpcbench/rates.json``.

    Does nothing if the file cannot be written.

    Parameters
    ----------
    model, dtype, device : str
        Settings of the run.
    weights_sha256 : str
        SHA-256 of the file of weights; empty if there is none.
    rates : CostModel
        The rates.
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
        # Written to another file and renamed: if several processes do this at once, the last wins.
        aside = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        aside.write_text(json.dumps(known, indent=1))
        aside.replace(path)


def kind_of(device: str) -> str:
    """Return ``cpu`` or ``cuda`` for a device as the settings name it."""
    if device == "auto":
        return "cuda" if GPUS.is_dir() and any(GPUS.iterdir()) else "cpu"
    return device.partition(":")[0]


def device_name(kind: str) -> str:
    """Return the name of this machine's devices of a kind; empty if there are none."""
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
    # Weights are identified by their content: the same file may lie in another folder.
    name = Path(model).name if weights_sha256 else model
    return f"{name} | {weights_sha256} | {dtype}"


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hpcbench" / "rates.json"


def _terms(works: Sequence[Work]) -> NDArray[np.float64]:
    """Return the factors of the rates, shape (nworks, 4)."""
    return np.array(
        [[work.relaxation, work.forces, 1.0, float(work.supercell_atoms) ** 2] for work in works]
    )
