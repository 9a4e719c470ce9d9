"""Bridges between ASE calculators and potentials, both ways."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from hpcbench.errors import (
    AnswerError,
    EvaluationError,
    ModelError,
    OutOfMemoryError,
    PotentialError,
)
from hpcbench.package_versions import installed
from hpcbench.potentials.boundary import answering, numbers_of
from hpcbench.potentials.memory import is_out_of_memory
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.protocol import Evaluation, Potential, PotentialInfo, PreparedCopies
from hpcbench.potentials.registry import find_module
from hpcbench.potentials.spec import LoadRequest
from hpcbench.texts import shown_reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hpcbench.potentials.structures import DisplacedCopies

# In fractions of lattice vectors: rounding of positions that were wrapped.
WRAPPED = 1e-8


class CalculatorPotential(OneByOne):
    """An ASE calculator as a potential: structures are evaluated one after the other.

    ``dtype`` in its info is what the caller says; a calculator keeps its own precision.
    """

    def __init__(self, calculator: Any, info: PotentialInfo) -> None:
        self._calculator = calculator
        self.info = info

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Evaluate structures one after the other; see the protocol.

        Parameters
        ----------
        structures : sequence of Atoms
            All are taken as periodic.
        stress : bool
            Whether stresses are wanted.
        """
        results = []
        for structure in structures:
            self.at = structure
            with answering():
                results.append(self._evaluate(structure, stress))
        return results

    def _evaluate(self, structure: Atoms, stress: bool) -> Evaluation:
        atoms = structure.copy()
        atoms.set_constraint()
        atoms.calc = self._calculator
        forces = numbers_of(atoms.get_forces(), (len(structure), 3), "forces")
        tensor = numbers_of(atoms.get_stress(voigt=False), (3, 3), "a stress") if stress else None
        # Some give an array of one number.
        energy = np.squeeze(np.asarray(atoms.get_potential_energy()))
        energy = numbers_of(energy, (), "an energy")
        if not _is_same(atoms, structure):
            raise AnswerError("it changed the atoms that it was to compute")
        return Evaluation(float(energy), forces, tensor)


def _is_same(atoms: Atoms, structure: Atoms) -> bool:
    """Tell whether it is the same crystal still; some calculators wrap positions into the cell."""
    if not (
        np.array_equal(atoms.numbers, structure.numbers)
        and np.array_equal(atoms.cell, structure.cell)
    ):
        return False
    moved = atoms.positions - structure.positions
    if not moved.any():
        return True
    turns = np.linalg.solve(structure.cell[:].T, moved.T)
    return bool(np.abs(turns - np.round(turns)).max() < WRAPPED)


ForcesOf = Callable[[Atoms], tuple[torch.Tensor, torch.Tensor]]
"""Computes forces (natoms, 3), and the shifts of the atoms by which they can be differentiated."""


class DifferentiablePotential(CalculatorPotential):
    """An ASE calculator whose forces can be differentiated.

    Force constants are symmetric. So what the displacement of an atom does to the forces on all, to
    first order, is the gradient of the force on that atom along the displacement: one way back for
    each displacement, and one forward pass for all displacements of a supercell.

    Parameters
    ----------
    calculator : Calculator
        For everything else.
    info : PotentialInfo
        Says that it is differentiable.
    forces_of : callable
        See ``ForcesOf``.
    """

    def __init__(self, calculator: Any, info: PotentialInfo, forces_of: ForcesOf) -> None:
        super().__init__(calculator, info)
        self._forces_of = forces_of

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """See the protocol: what they share is the forward pass, when linear forces are wanted."""
        supercell = Atoms(
            numbers=copies.numbers, positions=copies.positions, cell=copies.cell, pbc=True
        )
        # Once for all copies, and gone with them: copies that want forces alone never ask for it.
        forward = functools.cache(lambda: self._forces_of(supercell))
        return PreparedCopies(copies, 1, forward)

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """See the protocol."""
        try:
            return [self._rows(*part) for part in parts]
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"second derivatives: {error}") from error
            raise

    def _rows(self, prepared: PreparedCopies, first: int, end: int) -> NDArray[np.float64]:
        copies = prepared.copies
        forces, shifts = prepared.shared()
        rows = []
        for atom, displacement in zip(
            copies.atoms[first:end], copies.displacements[first:end], strict=True
        ):
            along = torch.as_tensor(displacement, dtype=forces.dtype, device=forces.device)
            (row,) = torch.autograd.grad(forces[int(atom)] @ along, shifts, retain_graph=True)
            rows.append(row.double().cpu().numpy())
        return np.array(rows)


class PotentialCalculator(Calculator):
    """A potential as an ASE calculator, for ASE's optimisers.

    ``calls`` counts the evaluations.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, potential: Potential, *, stress: bool = True) -> None:
        super().__init__()
        self._potential = potential
        self._stress = stress
        self.calls = 0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate the structure, and keep the results as ASE asks.

        Parameters
        ----------
        atoms : Atoms, optional
            The structure.
        properties, system_changes : list of str, optional
            As ASE gives them. All properties are computed, whatever is asked for.
        """
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        (evaluation,) = self._potential.evaluate([self.atoms], stress=self._stress)
        self.results = {
            "energy": evaluation.energy,
            "free_energy": evaluation.energy,
            "forces": evaluation.forces,
        }
        if evaluation.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(evaluation.stress)


def from_calculator(calculator: Any) -> CalculatorPotential:
    """Return a calculator that a program made as a potential, recorded as single precision."""
    kind = type(calculator)
    package = kind.__module__.partition(".")[0]
    info = PotentialInfo(
        f"{kind.__module__}:{kind.__qualname__}",
        package,
        installed(package),
        "",
        "float32",
        "cpu",
        None,
    )
    return CalculatorPotential(calculator, info)


def load_callable(request: LoadRequest) -> CalculatorPotential:
    """Load the potential of ``module:callable``, where the callable returns an ASE calculator.

    It is given ``device`` and ``dtype`` as keyword arguments, each if it has a parameter of that
    name, and nothing else: ``cpu``, ``cuda`` or ``cuda:N``, and ``float32`` or ``float64``.

    Raises
    ------
    ModelError
        If the module or the callable is missing, needs other arguments, or makes no calculator.
    PotentialError
        If importing or calling it fails.
    """
    path = request.spec.name
    module_name, _, attribute = path.partition(":")
    find_module(path)
    try:
        with answering():
            factory = importlib.import_module(module_name)
    except EvaluationError as error:  # the user's code may raise anything
        kind = ModelError if isinstance(error.__cause__, ModuleNotFoundError) else PotentialError
        raise kind(f"--model {path}: {error}; is its package installed?") from error
    try:
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except AttributeError as error:
        raise ModelError(f"--model {path}: {module_name} has no {attribute}") from error
    if not callable(factory):
        raise ModelError(f"--model {path}: {attribute} cannot be called")
    arguments = _arguments_of(path, factory, device=request.device, dtype=request.dtype)
    try:
        with answering():
            calculator = factory(**arguments)
    except EvaluationError as error:
        raise PotentialError(f"--model {path}: {error}") from error
    return calculator_potential(calculator, request)


def calculator_potential(calculator: Any, request: LoadRequest) -> CalculatorPotential:
    """Return an ASE calculator as the potential of a request.

    Parameters
    ----------
    calculator : Calculator
        Made in the precision and on the device of the request.
    request : LoadRequest
        As the loader was given it.

    Raises
    ------
    ModelError
        If it is no ASE calculator.
    PotentialError
        As :meth:`LoadRequest.info`.
    """
    if not hasattr(calculator, "get_potential_energy"):
        made = shown_reason(repr(calculator))
        raise ModelError(f"--model {request.spec.name}: it returned no ASE calculator but {made}")
    return CalculatorPotential(calculator, request.info())


def _arguments_of(path: str, factory: Callable[..., Any], **offered: str) -> dict[str, str]:
    """Return those of the arguments that a callable has parameters for.

    Raises
    ------
    ModelError
        If it needs more.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of a class or function that is written in C
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {
        name: value
        for name, value in offered.items()
        if name in signature.parameters and signature.parameters[name].kind in by_name
    }
    try:
        signature.bind(**taken)
    except TypeError as error:
        raise ModelError(f"--model {path}: it needs arguments ({error})") from None
    return taken
