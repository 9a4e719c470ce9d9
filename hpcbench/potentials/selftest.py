"""A potential proves itself before it is trusted with a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii

from hpcbench.errors import (
    AnswerError,
    EvaluationError,
    HpcbenchError,
    PotentialError,
    TooLargeError,
)
from hpcbench.potentials.boundary import answering
from hpcbench.potentials.protocol import Potential

# eV/A. Wrong batching shows as 0.1 and more; these bounds stay above rounding, which for an
# untried potential in single precision may be 1e-4.
FORCE_TOLERANCE = {"float32": 1e-3, "float64": 1e-8}


def self_test(potential: Potential) -> float:
    """Check that batched = one by one, translated = not translated, and nothing is NaN.

    Returns the largest difference of forces seen, in eV/A.

    Raises
    ------
    PotentialError
        If the potential fails: a run with it would store nonsense.
    """
    name = potential.info.name
    try:
        with answering():
            return _self_test(potential)
    except AnswerError as error:
        raise PotentialError(f"self-test of {name} failed: it gave {error}") from error
    except (EvaluationError, TooLargeError) as error:
        raise PotentialError(f"{name} does not compute any more: {error}") from error


def _self_test(potential: Potential) -> float:
    name = potential.info.name
    structures = _structures(potential)
    if not structures:
        return 0.0
    shift = np.array([17.3, -41.1, 5.7])
    moved = [structure.copy() for structure in structures]
    for structure in moved:
        structure.positions += shift
    single = [potential.evaluate([structure])[0].forces for structure in structures]
    together = [result.forces for result in potential.evaluate(structures)]
    translated = [result.forces for result in potential.evaluate(moved)]
    if not all(np.isfinite(forces).all() for forces in (*single, *together, *translated)):
        raise PotentialError(f"self-test of {name} failed: forces that are not finite")
    tolerance = FORCE_TOLERANCE[potential.info.dtype]
    worst = 0.0
    for what, forces in (("in a batch", together), ("translated", translated)):
        error = max(float(np.abs(a - b).max()) for a, b in zip(single, forces, strict=True))
        worst = max(worst, error)
        if error > tolerance:
            raise PotentialError(
                f"self-test of {name} failed: forces {what} differ by {error:.1e} eV/A from "
                f"those computed alone, so its results cannot be trusted: try another version of "
                f"{potential.info.package} or torch, or another device"
            )
    return worst


def _structures(potential: Potential) -> Sequence[Atoms]:
    """Return small distorted crystals of different sizes that the potential can compute."""
    candidates = [
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("Si", "diamond", a=5.43, cubic=True),
        bulk("Al", "fcc", a=4.05).repeat((2, 1, 1)),
        bulk("Cu", "fcc", a=3.61, cubic=True),
    ]
    rng = np.random.default_rng(7)
    usable = []
    for atoms in candidates:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        known = potential.info.elements
        if known is not None:
            if known.issuperset(int(z) for z in atoms.numbers):
                usable.append(atoms)
            continue
        try:
            with answering():
                potential.evaluate([atoms])
        except AnswerError:
            raise
        except HpcbenchError:  # an ASE calculator says only by failing that it lacks an element
            continue
        usable.append(atoms)
    return usable or _of_known_elements(potential.info.elements or frozenset(), rng)


def _of_known_elements(elements: frozenset[int], rng: np.random.Generator) -> Sequence[Atoms]:
    """Return distorted crystals of elements of which the common ones are none, close packed."""
    found = []
    for number, times in zip(sorted(elements), (1, 2, 3), strict=False):
        side = 2**1.5 * covalent_radii[number]
        atoms = bulk(chemical_symbols[number], "fcc", a=side, cubic=True).repeat((times, 1, 1))
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found.append(atoms)
    return found
