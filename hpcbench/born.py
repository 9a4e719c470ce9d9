"""Born effective charges and the dielectric tensor, as phonopy's ``nac_params`` in A and eV.

With them phonopy adds what point dipoles give beyond the supercell, by Gonze and Lee (Phys. Rev. B
55, 10355; phonopy's default) or, where a file asks for that, by Wang et al. (J. Phys.: Condens.
Matter 22, 202201). Keys are phonopy's: ``born`` of each atom, shape (natoms, 3, 3), in units of the
elementary charge; ``dielectric``, shape (3, 3), of high frequency; ``factor`` in eV A; ``method``;
and, where a file sets them, ``G_cutoff`` and ``Lambda`` in 1/A. Tensors are Cartesian.
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
"""The key of ASE's ``Atoms.info`` under which they go with a crystal through its relaxation."""
KIND = "Born charges"
"""The kind of failure of a crystal whose Born charges cannot be used."""
METHODS = {"gonze": "Gonze-Lee", "wang": "Wang"}
"""By phonopy's names."""
_ARRAYS = ("born", "dielectric")


def read_nac_params(
    given: Mapping[str, Any] | None,
    born: Path | None,
    primitive: PhonopyAtoms,
    units: CalculatorPhysicalUnits,
) -> dict[str, Any] | None:
    """Return what a calculation has of them, of its primitive cell; ``None`` if nothing.

    Parameters
    ----------
    given : mapping or None
        From phonopy's YAML file, in the units of its calculator. It wins, as in phonopy.
    born : Path or None
        A BORN file: phonopy expands its charges of symmetrically different atoms to all atoms.
    primitive : PhonopyAtoms
        The file's primitive cell, lengths in A.
    units : CalculatorPhysicalUnits
        Of the file's calculator.

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
            KIND, f"{where}: {type(error).__name__}: {message}; mend them, or take them away"
        ) from error
    params.setdefault("method", "gonze")
    if problem := _problem(params, len(primitive)):
        raise CrystalError(KIND, f"{where}: {problem}; mend them, or take them away")
    return params


def _problem(params: Mapping[str, Any], natoms: int) -> str:
    """Say what is wrong with them; empty if nothing is."""
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
    """Return the primitive matrix of a file that shows the cells only."""
    matrix = np.linalg.solve(unitcell.cell.T, primitive.cell.T)
    # All centrings are thirds and halves.
    simple = np.rint(matrix * 6) / 6
    return np.asarray(simple if np.abs(matrix - simple).max() < 1e-6 else matrix)


def of_cell(
    params: Mapping[str, Any], primitive: Primitive, supercell: Supercell
) -> dict[str, Any]:
    """Return them with the charges of all atoms of the unit cell, given those of the primitive one.

    Atoms of a cell that are one atom of its primitive cell differ by a translation alone.
    """
    atoms = [primitive.p2p_map[primitive.s2p_map[atom]] for atom in supercell.u2s_map]
    return {**params, "born": params["born"][atoms]}


def of_primitive(
    params: Mapping[str, Any], primitive: Primitive, supercell: Supercell
) -> dict[str, Any]:
    """Return them with the charges of the primitive cell's atoms, given those of the unit cell."""
    atoms = [supercell.u2u_map[supercell.s2u_map[atom]] for atom in primitive.p2s_map]
    return {**params, "born": params["born"][atoms]}


def to_json(params: Mapping[str, Any] | None) -> str:
    """Return them as a text; empty if there are none."""
    if params is None:
        return ""
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in params.items()}
    return json.dumps(values, sort_keys=True)


def from_json(text: str) -> dict[str, Any] | None:
    """Return what :func:`to_json` made a text of; ``None`` if there are none.

    Stores of older versions kept what an import had in the units of its code, and applied
    nothing. There the method is missing, and nothing is applied now.

    Raises
    ------
    StoreError
        If it is no such text.
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
    """Return all their numbers one after the other, in a fixed order."""
    names = sorted(params.keys() - {"method"})
    return np.concatenate([np.ravel(params[name]) for name in names])
