"""Reading of one phonon calculation from phonopy's files, in A, eV and phonopy's order of atoms."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.born import matrix_between, read_nac_params
from hpcbench.errors import CrystalError, UnreadableError
from hpcbench.masses import make_phonopy, named, of_elements, phonopy_atoms

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

# Of positions in fractions of the supercell's edges: numbers in files are rounded.
_POSITION_TOLERANCE = 1e-3
# A small compressed file can contain any amount of data.
_MOST_BYTES = 2**30
_OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}


@dataclass(frozen=True, eq=False)
class Calculation:
    """The contents of phonopy's files for one crystal.

    Attributes
    ----------
    phonon : Phonopy
        Cells and matrices as in the file, lengths in A; with Born charges if there are any, without
        force constants.
    force_constants : ndarray, shape (nprim, nsuper, 3, 3), or None
        In eV/A^2, as they are in the file.
    dataset : dict or None
        phonopy's dataset of displacements in A and, if there are any, forces in eV/A.
    displaced : int
        Number of displaced supercells.
    version : str
        Version of phonopy that wrote the file; empty if unknown.
    symprec : float
        Tolerance in A at which it had found the symmetry; NaN if unknown.
    energy : float
        Energy of the unit cell in eV; NaN if the file has none.
    """

    phonon: Phonopy
    force_constants: NDArray[np.float64] | None
    dataset: dict[str, Any] | None
    displaced: int
    version: str
    symprec: float = math.nan
    energy: float = math.nan


@dataclass(frozen=True)
class Beside:
    """Files of force constants, forces and Born charges next to a YAML file; None if absent."""

    force_constants: Path | None = None
    force_sets: Path | None = None
    born: Path | None = None


def read_calculation(
    path: Path,
    beside: Beside,
    primitive_matrix: str,
    symprec: float,
    *,
    with_forces: bool = False,
) -> Calculation:
    """Read a phonopy YAML file and the files next to it.

    Force constants take precedence over forces, those in the file over those next to it, as in
    phonopy.

    Parameters
    ----------
    path : Path
        May be compressed.
    beside : Beside
        Files with the data that the YAML file lacks.
    primitive_matrix : str
        ``auto`` or ``P``, for files that do not give one.
    symprec : float
        In A.
    with_forces : bool
        Whether to read forces even if there are force constants, which takes long.

    Raises
    ------
    UnreadableError
        If there is no crystal in the file.
    CrystalError
        If the file holds a crystal, but its phonon data are inconsistent.
    """
    from phonopy.interface.phonopy_yaml import load_phonopy_yaml
    from phonopy.physical_units import get_calculator_physical_units

    sections = _sections(_read_text(path))
    matrix = _parse_force_constants(sections.pop("force_constants", ""))
    forces = sections.get("displacements", "")
    displaced = 0
    if (matrix is not None or beside.force_constants) and not with_forces and "force" in forces:
        displaced = len(re.findall(r"^\s*- +atom *:", sections.pop("displacements"), re.MULTILINE))
    header, data = _parse(sections, load_phonopy_yaml)
    units = get_calculator_physical_units(data.calculator)
    rows = 0 if matrix is None else len(matrix)
    phonon = _phonopy_of(data, units.distance_to_A, primitive_matrix, symprec, rows)
    if matrix is not None:
        matrix = matrix * _to_ev(units.force_constants_unit)
    elif beside.force_constants is not None:
        matrix = _read_force_constants(beside.force_constants, units.force_constants_unit)
    dataset = data.dataset
    if beside.force_sets is not None and matrix is None and not forces_in(dataset):
        dataset = _read_force_sets(beside.force_sets, len(phonon.supercell))
    phonon.nac_params = read_nac_params(data.nac_params, beside.born, phonon.primitive, units)
    dataset = _in_ev(dataset, units.distance_to_A, units.force_to_eVperA)
    if dataset is not None:
        displaced = len(dataset.get("first_atoms", dataset.get("displacements", ())))
    return Calculation(
        phonon,
        None if matrix is None else _compact(phonon, matrix),
        dataset,
        displaced,
        str(header.get("version", "")),
        _number(header.get("symmetry_tolerance")),
        _number(sections.get("energy", "").partition(":")[2]),
    )


def _number(value: Any) -> float:
    """Return a number, NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _read_text(path: Path) -> str:
    opener: Callable[..., IO[bytes]] = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise UnreadableError("file", f"{type(error).__name__}: {error}") from error
    if len(content) > _MOST_BYTES:
        raise UnreadableError("too large", f"the file has more than {_MOST_BYTES} bytes")
    return content.decode("utf-8", errors="replace")


def _sections(text: str) -> dict[str, str]:
    """Split the text of a YAML file by its top-level keys, each with its key."""
    starts = [
        (match[1], match.start()) for match in re.finditer(r"^([A-Za-z_]\w*)[ \t]*:", text, re.M)
    ]
    ends = [*(start for _, start in starts), len(text)][1:]
    return {key: text[start:end] for (key, start), end in zip(starts, ends, strict=True)}


def _parse_force_constants(section: str) -> NDArray[np.float64] | None:
    """Read the force constants of a YAML file as plain numbers: a YAML parser takes seconds."""
    if not section:
        return None
    plain = re.sub(r"#[^\n]*", "", section)
    shape = re.search(r"shape\s*:[\s\[\-,]*(\d+)[\s,\-]+(\d+)", plain)
    elements = re.search(r"elements\s*:(.*?)(?:^\s*[a-z_]+\s*:|\Z)", plain, re.M | re.S)
    if shape is None or elements is None:
        raise CrystalError("force constants", "the file does not have them as phonopy writes them")
    try:
        # A dash before a space begins an item of a list; before a digit it is a sign.
        words = re.sub(r"[\[\],]|-(?=\s)", " ", elements[1]).split()
        values = np.array(words, dtype=np.float64)
        return values.reshape(int(shape[1]), int(shape[2]), 3, 3)
    except ValueError as error:
        raise CrystalError("force constants", f"the file's are malformed: {error}") from error


def _parse(sections: dict[str, str], load: Any) -> tuple[dict[str, Any], Any]:
    """Parse the rest of the file with phonopy; return its header and its data."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load("".join(sections.values()), Loader=loader)
    except yaml.YAMLError as error:
        raise UnreadableError("syntax", f"not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not ("unit_cell" in content or "lattice" in content):
        raise UnreadableError("no structure", "the YAML file has no unit cell as phonopy writes it")
    try:
        data = load(content)
    except Exception as error:  # a malformed file makes phonopy raise anything
        raise UnreadableError("syntax", f"phonopy: {type(error).__name__}: {error}") from error
    if data.unitcell is None:
        raise UnreadableError("no structure", "the YAML file has no unit cell as phonopy writes it")
    header = content.get("phonopy")
    return header if isinstance(header, dict) else {}, data


def _phonopy_of(
    data: Any, to_angstrom: float, primitive_matrix: str, symprec: float, rows: int
) -> Phonopy:
    """Return cells and matrices of a file.

    ``rows`` is the number of rows of its force constants, which may reveal the primitive cell.
    """
    given = data.unitcell
    if given.has_mixtures or given.has_weighted_species:
        raise UnreadableError("disordered", "a site is a mixture of elements")
    # The masses of the elements are phonopy's, not the rounded ones of the file.
    masses, problem = named(given.numbers, given.masses)
    if problem:
        raise CrystalError("masses", problem)
    if masses is None and np.isnan(of_elements()[given.numbers]).any():
        raise CrystalError("no mass", "phonopy has no mass for one of the elements")
    cell = phonopy_atoms(
        given.numbers,
        masses,
        cell=given.cell * to_angstrom,
        scaled_positions=given.scaled_positions,
        magnetic_moments=given.magnetic_moments,
    )
    matrix = data.primitive_matrix
    shown = data.primitive
    # Before version 4, phonopy wrote no matrix where the cell was taken as it is.
    if matrix is None and shown is not None and (primitive_matrix == "P" or rows == len(shown)):
        matrix = matrix_between(given, shown)
    supercell_matrix = np.eye(3, dtype=int)
    if data.supercell_matrix is not None:
        supercell_matrix = data.supercell_matrix
    try:
        phonon = make_phonopy(
            cell,
            primitive_matrix if matrix is None else matrix,
            symprec,
            supercell_matrix=supercell_matrix,
        )
    except Exception as error:  # phonopy raises RuntimeError, TypeError and its own kinds
        raise CrystalError("cells", f"phonopy: {type(error).__name__}: {error}") from error
    if data.supercell is not None:
        _require_same_order(data.supercell, phonon.supercell)
    return phonon


def _require_same_order(theirs: PhonopyAtoms, ours: PhonopyAtoms) -> None:
    """Refuse a supercell with another order of atoms, to which force constants do not apply."""
    same = len(theirs) == len(ours) and list(theirs.numbers) == list(ours.numbers)
    if same:
        shift = theirs.scaled_positions - ours.scaled_positions
        same = bool(np.abs(shift - np.rint(shift)).max() < _POSITION_TOLERANCE)
    if not same:
        raise CrystalError(
            "supercell", "the file's supercell is not the one that phonopy makes of its cell"
        )


def _to_ev(unit: str) -> float:
    from phonopy.interface.calculator import get_force_constant_conversion_factor

    return float(get_force_constant_conversion_factor(unit, None))


def _read_force_constants(path: Path, unit: str) -> NDArray[np.float64]:
    from phonopy.file_IO import parse_FORCE_CONSTANTS, read_force_constants_hdf5

    try:
        if path.suffix == ".hdf5":
            matrix, given = read_force_constants_hdf5(path, return_physical_unit=True)
            unit = given or unit
        else:
            matrix = parse_FORCE_CONSTANTS(path)
        return np.asarray(matrix * _to_ev(unit), dtype=np.float64)
    except Exception as error:  # phonopy and h5py raise many kinds
        message = f"{path.name}: {type(error).__name__}: {error}"
        raise CrystalError("force constants", message) from error


def _compact(phonon: Phonopy, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows of the primitive cell's atoms."""
    rows = phonon.primitive.p2s_map
    natoms = len(phonon.supercell)
    if matrix.shape == (natoms, natoms, 3, 3):
        matrix = matrix[rows]
    if matrix.shape != (len(rows), natoms, 3, 3):
        raise CrystalError(
            "force constants",
            f"there are {matrix.shape[0]} x {matrix.shape[1]} of them for {len(rows)} primitive "
            f"atoms and a supercell of {natoms}",
        )
    return np.array(matrix, dtype=np.float64, order="C")


def forces_in(dataset: Any) -> bool:
    """Tell whether a phonopy dataset has forces."""
    dataset = dataset or {}
    first = dataset.get("first_atoms", ())
    return "forces" in dataset or bool(len(first) and all("forces" in entry for entry in first))


def _read_force_sets(path: Path, natoms: int) -> dict[str, Any]:
    from phonopy.file_IO import get_FORCE_SETS_type, parse_FORCE_SETS

    try:
        kind = get_FORCE_SETS_type(path)
        dataset = dict(parse_FORCE_SETS(path, natom=None if kind == 1 else natoms))
    except Exception as error:  # phonopy raises many kinds
        message = f"{path.name}: {type(error).__name__}: {error}"
        raise CrystalError("forces", message) from error
    if dataset.get("natom", natoms) != natoms:
        raise CrystalError(
            "forces",
            f"{path.name} has forces on {dataset['natom']} atoms, but the supercell has {natoms}",
        )
    return dataset


def _in_ev(dataset: Any, to_angstrom: float, to_ev: float) -> dict[str, Any] | None:
    """Convert a phonopy dataset to A and eV/A."""
    if not dataset:
        return None
    if "first_atoms" not in dataset:
        factors = {"displacements": to_angstrom, "forces": to_ev}
        return {key: dataset[key] * factor for key, factor in factors.items() if key in dataset}
    entries: Sequence[dict[str, Any]] = dataset["first_atoms"]
    converted = []
    for entry in entries:
        one = {"number": entry["number"], "displacement": entry["displacement"] * to_angstrom}
        if "forces" in entry:
            one["forces"] = entry["forces"] * to_ev
        converted.append(one)
    return {"natom": dataset["natom"], "first_atoms": converted}
