"""Born effective charges and the dielectric tensor, as phonopy's ``nac_params`` in A and eV.

With them phonopy adds the long-range interaction of point dipoles, by Gonze and Lee (Phys. Rev. B
55, 10355 (1997); phonopy's default) or, if a file asks for it, by Wang et al. (J. Phys.: Condens.
Matter 22, 202201 (2010)). Keys are phonopy's: ``born`` of each atom, shape (natoms, 3, 3), in units
of the elementary charge; ``dielectric``, shape (3, 3), of high frequency; ``factor`` in eV A;
``method``; and, if a file sets them, ``G_cutoff`` and ``Lambda`` in 1/A. Tensors are Cartesian.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, StoreError
from hpcbench.json_text import json_of

if TYPE_CHECKING:
    from phonopy.physical_units import CalculatorPhysicalUnits
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import Primitive, Supercell

NAC_PARAMS = "nac_params"
"""The key of ASE's ``Atoms.info`` under which a crystal keeps them during its relaxation."""
KIND = "Born charges"
"""The kind of failure of a crystal whose Born charges cannot be used."""
METHODS = {"gonze": "Gonze-Lee", "wang": "Wang"}
"""Names of the methods, by phonopy's keywords."""
_ARRAYS = ("born", "dielectric")


def read_nac_params(
    given: Mapping[str, Any] | None,
    born: Path | None,
    primitive: PhonopyAtoms,
    units: CalculatorPhysicalUnits,
) -> dict[str, Any] | None:
    """Return the Born charges of a calculation's primitive cell; ``None`` if there are none.

    Parameters
    ----------
    given : mapping or None
        From phonopy's YAML file, in the units of its calculator. It takes precedence, as in
        phonopy.
    born : Path or None
        A BORN file, with the charges of symmetrically different atoms: phonopy expands them.
    primitive : PhonopyAtoms
        The file's primitive cell, lengths in A.
    units : CalculatorPhysicalUnits
        Units of the file's calculator.

    Raises
    ------
    CrystalError
        If they cannot be read, or are not those of the primitive cell.
    """
    from phonopy.file_IO import parse_BORN
    from phonopy.interface.calculator import get_force_constant_conversion_factor

    if given is None and born is None:
        return None
    where = "the YAML file" if born is None or given is not None else born.name
    try:
        params = dict(given if given is not None else parse_BORN(primitive, filename=str(born)))
        for name in _ARRAYS:
            params[name] = np.array(params[name], dtype=np.float64)
        to_angstrom = units.distance_to_A
        params.setdefault("factor", units.nac_factor)
        # It is in the unit of force constants times a volume.
        to_ev = float(get_force_constant_conversion_factor(units.force_constants_unit, None))
        params["factor"] = float(params["factor"]) * to_ev * to_angstrom**3
        for name in ("G_cutoff", "Lambda"):
            if name in params:
                params[name] = float(params[name]) / to_angstrom
    except Exception as error:  # phonopy raises many kinds
        message = " ".join(str(error).split())
        raise CrystalError(
            KIND, f"{where}: {type(error).__name__}: {message}; correct or remove them"
        ) from error
    params.setdefault("method", "gonze")
    if problem := _problem(params, len(primitive)):
        raise CrystalError(KIND, f"{where}: {problem}; correct or remove them")
    return params


def _problem(params: Mapping[str, Any], natoms: int) -> str:
    """Return a problem with them; empty if there is none."""
    charges, dielectric = (params[name] for name in _ARRAYS)
    if charges.shape != (natoms, 3, 3):
        return f"charges of {len(charges)} atoms, but the primitive cell has {natoms}"
    if dielectric.shape != (3, 3):
        return "the dielectric tensor is not 3 x 3"
    if not all(np.isfinite(params[name]).all() for name in (*_ARRAYS, "factor")):
        return "not all numbers are finite"
    if np.linalg.eigvalsh((dielectric + dielectric.T) / 2).min() <= 0:
        return "the dielectric tensor is not positive"
    if params["method"] not in METHODS:
        return f"no method {params['method']!r} is known"
    return ""


def matrix_between(unitcell: PhonopyAtoms, primitive: PhonopyAtoms) -> NDArray[np.float64]:
    """Return the primitive matrix of a file that contains the cells only.

    Parameters
    ----------
    unitcell, primitive : PhonopyAtoms
        The two cells of the file.
    """
    matrix = np.linalg.solve(unitcell.cell.T, primitive.cell.T)
    # All centrings are thirds and halves.
    simple = np.rint(matrix * 6) / 6
    return np.asarray(simple if np.abs(matrix - simple).max() < 1e-6 else matrix)


def of_cell(
    params: Mapping[str, Any], primitive: Primitive, supercell: Supercell
) -> dict[str, Any]:
    """Convert parameters of the primitive cell to those of the unit cell.

    Atoms of the unit cell that are one atom of the primitive cell differ by a translation alone.

    Parameters
    ----------
    params : mapping
        With ``born`` of the primitive cell's atoms.
    primitive : Primitive
        Phonopy's primitive cell.
    supercell : Supercell
        Phonopy's supercell, which knows the unit cell.
    """
    atoms = [primitive.p2p_map[primitive.s2p_map[atom]] for atom in supercell.u2s_map]
    return {**params, "born": params["born"][atoms]}


def of_primitive(
    params: Mapping[str, Any], primitive: Primitive, supercell: Supercell
) -> dict[str, Any]:
    """Convert parameters of the unit cell to those of the primitive cell.

    Parameters
    ----------
    params : mapping
        With ``born`` of the unit cell's atoms.
    primitive : Primitive
        Phonopy's primitive cell.
    supercell : Supercell
        Phonopy's supercell, which knows the unit cell.
    """
    atoms = [supercell.u2u_map[supercell.s2u_map[atom]] for atom in primitive.p2s_map]
    return {**params, "born": params["born"][atoms]}


def to_json(params: Mapping[str, Any] | None) -> str:
    """Return the parameters as a text; empty if there are none."""
    if params is None:
        return ""
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in params.items()}
    return json.dumps(values, sort_keys=True)


def from_json(text: str) -> dict[str, Any] | None:
    """Return the parameters from a text of :func:`to_json`; ``None`` if there are none.

    Stores of older versions kept an import's parameters in the units of its code, without a method,
    and did not apply them; they are ignored.

    Raises
    ------
    StoreError
        If the text is malformed.
    """
    params = json_of(text, "Born charges") if text else {}
    if not isinstance(params, dict):
        raise StoreError("Born charges: no table of numbers")
    if "method" not in params:
        return None
    try:
        arrays = {name: np.array(params[name], dtype=np.float64) for name in _ARRAYS}
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"Born charges: no arrays of numbers: {error}") from error
    return params | arrays


def numbers_of(params: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return all numbers of the parameters one after the other, in a fixed order."""
    names = sorted(params.keys() - {"method"})
    return np.concatenate([np.ravel(params[name]) for name in names])
