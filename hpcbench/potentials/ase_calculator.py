"""Bridges between ASE calculators and potentials, both ways."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
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
from hpcbench.potentials.boundary import answering, numbers_of
from hpcbench.potentials.memory import is_out_of_memory
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.protocol import Evaluation, Potential, PotentialInfo, PreparedCopies
from hpcbench.potentials.registry import find_module
from hpcbench.texts import shown_reason

if TYPE_CHECKING:
    from chgnet.graph.crystalgraph import CrystalGraph
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from hpcbench.potentials.structures import DisplacedCopies

DOUBLE = "float64"
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
        """Energies, forces and, if asked, stresses; see the protocol."""
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
        """Evaluate the structure and keep the results as ASE asks."""
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
    """An ASE calculator that a program made as a potential; recorded as single precision."""
    kind = type(calculator)
    package = kind.__module__.partition(".")[0]
    info = PotentialInfo(
        f"{kind.__module__}:{kind.__qualname__}",
        package,
        _version(package),
        "",
        "float32",
        "cpu",
        None,
    )
    return CalculatorPotential(calculator, info)


def load_callable(path: str, dtype: str, device: str) -> CalculatorPotential:
    """The potential of ``module:callable``, where the callable returns an ASE calculator.

    Raises
    ------
    ModelError
        If the module or the callable is missing, needs arguments, or makes no calculator.
    PotentialError
        If importing or calling it fails.
    """
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
    _require_no_arguments(path, factory)
    try:
        with answering():
            calculator = factory()
    except EvaluationError as error:
        raise PotentialError(f"--model {path}: {error}") from error
    if not hasattr(calculator, "get_potential_energy"):
        made = shown_reason(repr(calculator))
        raise ModelError(f"--model {path}: it returned no ASE calculator but {made}")
    package = module_name.partition(".")[0]
    return CalculatorPotential(
        calculator, PotentialInfo(path, package, _version(package), "", dtype, device, None)
    )


def _require_no_arguments(path: str, factory: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of a class or function that is written in C
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ModelError(f"--model {path}: it needs arguments ({error})") from None


def load_chgnet(dtype: str, device: str) -> CalculatorPotential:
    """CHGNet 0.3.0 with the weights of its package (extra ``chgnet``)."""
    try:
        from chgnet.model import CHGNet
        from chgnet.model.dynamics import CHGNetCalculator
    except ImportError as error:
        raise _missing("chgnet", "chgnet", error) from error
    model = CHGNet.load(verbose=False, use_device=device)
    calculator = CHGNetCalculator(model, use_device=device, on_isolated_atoms="error")
    if dtype == DOUBLE:
        model.double()
        # It counts atoms, in single precision: energies are the same to 1e-7, forces have no share.
        model.composition_model.float()
        model.graph_converter = _DoubleGraphs(model.graph_converter)
    info = PotentialInfo(
        "chgnet", "chgnet", _version("chgnet"), "", dtype, device, frozenset(range(1, 95))
    )
    return CalculatorPotential(calculator, info)


class _DoubleGraphs(torch.nn.Module):
    """CHGNet's graphs, with positions and cell in the precision of the structure."""

    def __init__(self, converter: torch.nn.Module) -> None:
        super().__init__()
        self._converter = converter

    def forward(self, structure: Structure) -> CrystalGraph:
        graph = self._converter(structure)
        graph.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
        graph.lattice = torch.tensor(structure.lattice.matrix, requires_grad=True)
        graph.neighbor_image = graph.neighbor_image.double()
        return graph


SEVENNET_KEYWORDS = {"sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5"}


def load_sevennet(name: str, dtype: str, device: str) -> DifferentiablePotential:
    """A SevenNet potential with the weights of its package (extra ``sevennet``)."""
    _require_float32(name, dtype)
    try:
        from sevenn.calculator import SevenNetCalculator
    except ImportError as error:
        raise _missing(name, "sevennet", error) from error
    calculator = SevenNetCalculator(SEVENNET_KEYWORDS[name], device=device)
    calculator.model.requires_grad_(False)  # its parameters; positions keep theirs
    elements = frozenset(int(z) for z in calculator.type_map)
    info = PotentialInfo(
        name, "sevenn", _version("sevenn"), "", dtype, device, elements, differentiable=True
    )
    return DifferentiablePotential(calculator, info, functools.partial(_of_sevennet, calculator))


def _of_sevennet(calculator: Any, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    """Forces of SevenNet, and the shifts of the atoms that they can be differentiated by."""
    from sevenn import _keys as key
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    data = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, calculator.cutoff))
    data.to(calculator.device)
    vectors = data[key.EDGE_VEC]
    shifts = torch.zeros(
        (len(atoms), 3), dtype=torch.float64, device=vectors.device, requires_grad=True
    )
    sources, targets = data[key.EDGE_IDX]
    data[key.EDGE_VEC] = vectors + (shifts[targets] - shifts[sources]).to(vectors.dtype)
    # It keeps what differentiating takes in training alone.
    last = calculator.model.force_output
    last.training = True
    try:
        output = calculator.model(data)
    finally:
        last.training = False
    return output[key.PRED_FORCE], shifts


def how_to_install(extra: str) -> str:
    """What to do to get the packages of an extra."""
    return f"./launch.sh setup {extra}, or pip install '.[{extra}]' in hpcbench's folder"


def _require_float32(name: str, dtype: str) -> None:
    if dtype != "float32":
        raise PotentialError(
            f"{name} computes in float32 only; --dtype {dtype} is there for MatterSim and CHGNet"
        )


def _missing(name: str, extra: str, error: ImportError) -> PotentialError:
    return PotentialError(f"{name} needs its package ({error}): {how_to_install(extra)}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
