"""Labels of a training set: energies, forces and stresses by the potential of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from hpcbench.errors import (
    EvaluationError,
    HpcbenchError,
    PotentialError,
    StoreMismatchError,
    UsageError,
)
from hpcbench.interop.one_crystal import MODEL
from hpcbench.potentials.boundary import answering
from hpcbench.potentials.registry import load_potential, weights_sha256

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.protocol import Potential
    from hpcbench.store.reader import Store

_INSTEAD = "--unlabelled writes supercells without labels"


def potential_of(store: Store) -> Potential:
    """Load and self-test the potential of a store, as a run does, on a GPU if there is one.

    Raises
    ------
    UsageError
        If the store is an import, or its potential is not known here.
    StoreMismatchError
        If the weights are not those that the store was computed with.
    PotentialError
        If it cannot be loaded.
    """
    settings = store.settings
    model = str(settings["model"])
    if model == MODEL:
        raise UsageError(f"{store.path} is an import, and has no potential: {_INSTEAD}")
    try:
        if weights_sha256(model) != settings["weights_sha256"]:
            raise StoreMismatchError(
                f"{store.path} was computed with other weights of {model} than are here: {_INSTEAD}"
            )
        import torch

        from hpcbench.potentials.selftest import self_test

        device = "cuda" if torch.cuda.is_available() else "cpu"
        potential = load_potential(model, dtype=settings["dtype"], device=device)

        self_test(potential)
    except PotentialError as error:
        raise type(error)(f"{error} ({_INSTEAD})") from error
    return potential


def gives_stress(potential: Potential, structures: Sequence[Atoms]) -> bool | None:
    """Tell whether a potential has a stress, by the first structure that it computes at all.

    Some calculators have none.

    Parameters
    ----------
    potential : Potential
        The potential.
    structures : sequence of Atoms
        Structures to try.

    Returns
    -------
    bool or None
        ``None`` if it computes none of them.
    """
    for atoms in structures:
        if _works(potential, atoms, True):
            return True
        if _works(potential, atoms, False):
            return False
    return None


def _works(potential: Potential, atoms: Atoms, stress: bool) -> bool:
    try:
        with answering():
            potential.evaluate([atoms], stress=stress)
    except HpcbenchError:
        return False
    return True


def label(potential: Potential, supercells: Sequence[Atoms], *, stress: bool) -> dict[int, str]:
    """Evaluate supercells in as few passes as they fit into; each gets its labels.

    Labels are written twice: as ASE's results, which MatterSim reads, and under MACE's names
    (``REF_energy``, ``REF_forces``, ``REF_stress``), which ASE leaves alone. Energies are in eV,
    forces in eV/A, stresses in eV/A^3 with ASE's sign.

    Parameters
    ----------
    potential : Potential
        The potential.
    supercells : sequence of Atoms
        They get a calculator with the results.
    stress : bool
        Whether stresses are wanted.

    Returns
    -------
    dict
        Reasons why supercells have no labels, by their index.
    """
    from hpcbench.potentials.structures import Structures

    batch = Structures.from_atoms(supercells, potential.device)
    try:
        with answering():
            result = potential.evaluate_batch(batch, stress=stress)
    except EvaluationError as error:
        return dict.fromkeys(range(len(supercells)), str(error))
    reasons = {index: str(problem) for index, problem in result.problems.items()}
    energies = result.energies.cpu().numpy()
    forces = np.split(result.forces.cpu().numpy(), batch.first_atom[1:-1])
    stresses = None if result.stresses is None else result.stresses.cpu().numpy()
    for index, atoms in enumerate(supercells):
        labels: dict[str, Any] = {"energy": float(energies[index]), "forces": forces[index]}
        if stresses is not None:
            labels["stress"] = stresses[index]
        if index in reasons:
            continue
        if not all(np.isfinite(value).all() for value in labels.values()):
            reasons[index] = f"{potential.info.name} gave numbers that are not finite"
            continue
        _attach(atoms, labels)
    return reasons


def _attach(atoms: Atoms, labels: dict[str, Any]) -> None:
    atoms.info["REF_energy"] = labels["energy"]
    atoms.arrays["REF_forces"] = labels["forces"]
    results = dict(labels)
    if "stress" in labels:
        # Nine numbers in a row, which MACE makes a matrix of; ASE would write a matrix as JSON.
        atoms.info["REF_stress"] = labels["stress"].ravel()
        results["stress"] = full_3x3_to_voigt_6_stress(labels["stress"])
    atoms.calc = SinglePointCalculator(atoms, **results)
