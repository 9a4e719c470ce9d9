"""Read phonopy's YAML files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, UnreadableError
from hpcbench.limits import Limits
from hpcbench.sources.formats import born_beside
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import (
    Entry,
    atomic_number,
    is_element,
)
from hpcbench.sources.yaml_nodes import check_nodes, loader

# Sections with Born charges in phonopy's YAML files; versions before 2.18 have no section ``nac``.
_NAC = ("nac", "born_effective_charge", "dielectric_constant")
# phonopy's default, in A.
_SYMPREC = 1e-5


def read_phonopy(file: OpenFile) -> Iterator[Entry]:
    """Yield the unit cell of a phonopy YAML file, converted from its calculator's units to A.

    Born charges in the file, or in a BORN file beside it, come with it.

    Raises
    ------
    UnreadableError
        Kinds "no structure", "syntax", "disordered", "unknown element", "Born charges".
    """
    from phonopy.physical_units import get_calculator_physical_units

    wanted = (
        *("phonopy", "physical_unit", "unit_cell", "supercell_matrix", "lattice", "points"),
        *(*_NAC, "primitive_matrix", "primitive_cell"),
    )
    sections = _yaml_sections(file.text(), wanted, file.limits)
    cell = sections.get("unit_cell", sections)
    if not isinstance(cell, dict) or "lattice" not in cell or "points" not in cell:
        raise UnreadableError("no structure", "the YAML file has no unit cell as phonopy writes it")
    try:
        header = sections.get("phonopy") or {}
        calculator = header.get("calculator")
        length = (sections.get("physical_unit") or {}).get("length")
        to_angstrom = 1.0
        if length == "au" or (length is None and calculator is not None):
            # phonopy's own conversion factor, which "au" shares among all calculators in Bohr.
            units = get_calculator_physical_units(calculator or "qe")
            to_angstrom = units.distance_to_A
        lattice = np.array(cell["lattice"], dtype=np.float64) * to_angstrom
        points = cell["points"]
        if any("mixture" in point or point.get("weight", 1.0) != 1.0 for point in points):
            raise UnreadableError("disordered", "a site is a mixture of elements")
        fractional = np.array([point["coordinates"] for point in points], dtype=np.float64)
        symbols = [_without_index(point["symbol"]) for point in points]
        numbers = [atomic_number(symbol) for symbol in symbols]
        masses = [float(point.get("mass") or np.nan) for point in points]
        matrix = None
        if file.with_supercell and sections.get("supercell_matrix") is not None:
            matrix = np.array(sections["supercell_matrix"], dtype=np.int32).reshape(3, 3)
        positions = fractional.reshape(-1, 3) @ lattice
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        message = f"the unit cell is malformed ({type(error).__name__}: {error})"
        raise UnreadableError("syntax", message) from error
    nac, born = None, born_beside(file.path)
    if born is not None or any(name in sections for name in _NAC):
        nac = _nac_params(sections, lattice, fractional.reshape(-1, 3), numbers, born)
    yield Entry(lattice, positions, numbers, supercell_matrix=matrix, nac_params=nac, masses=masses)


def _nac_params(
    sections: dict[str, Any],
    lattice: NDArray[np.float64],
    fractional: NDArray[np.float64],
    numbers: list[int],
    born: Path | None,
) -> dict[str, Any] | None:
    """Return Born charges of the atoms of a file's unit cell, and the dielectric tensor."""
    from phonopy.interface.phonopy_yaml import load_phonopy_yaml
    from phonopy.physical_units import get_calculator_physical_units
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import (
        get_primitive,
        get_primitive_matrix_with_auto,
        get_supercell,
    )

    from hpcbench import born as borns

    try:
        data = load_phonopy_yaml(sections)
        cell = PhonopyAtoms(numbers=numbers, cell=lattice, scaled_positions=fractional)
        matrix = data.primitive_matrix
        if matrix is None and data.primitive is not None:
            matrix = borns.matrix_between(data.unitcell, data.primitive)
        if matrix is None:
            # phonopy's own default.
            matrix = get_primitive_matrix_with_auto(cell, "auto", _SYMPREC)
        supercell = get_supercell(cell, np.eye(3, dtype=int))
        primitive = get_primitive(supercell, matrix, _SYMPREC)
    except Exception as error:  # phonopy raises many kinds
        message = f"the primitive cell that they are of: {type(error).__name__}: {error}"
        raise UnreadableError(borns.KIND, message) from error
    units = get_calculator_physical_units(data.calculator)
    try:
        params = borns.read_nac_params(data.nac_params, born, primitive, units)
    except CrystalError as error:
        raise UnreadableError(error.kind, str(error)) from error
    return None if params is None else borns.of_cell(params, primitive, supercell)


def _without_index(symbol: str) -> str:
    """Remove the numbers by which phonopy distinguishes magnetic moments: Cr1, Cr2."""
    bare = symbol.rstrip("0123456789")
    return bare if is_element(bare) else symbol


def _yaml_sections(text: str, wanted: tuple[str, ...], limits: Limits) -> dict[str, Any]:
    """Parse some top-level sections of a YAML file.

    Force constants and forces are megabytes, for which a YAML parser takes many seconds. They are
    cut out of the text beforehand, which is possible because each key begins a line in these files.
    """
    import yaml

    keys = [*re.finditer(r"^([A-Za-z_]\w*)[ \t]*:", text, re.MULTILINE)]
    ends = [*(key.start() for key in keys[1:]), len(text)]
    kept = "".join(
        text[key.start() : end] for key, end in zip(keys, ends, strict=True) if key[1] in wanted
    )
    try:
        check_nodes(kept, limits)
        data = yaml.load(kept, Loader=loader())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).split("\n")[0]
        raise UnreadableError("syntax", f"not valid YAML ({first})") from error
    return data if isinstance(data, dict) else {}
