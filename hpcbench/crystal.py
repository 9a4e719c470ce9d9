"""The record of one crystal, which all parts of the program share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.born import NAC_PARAMS, numbers_of
from hpcbench.cells import periodicity, right_handed
from hpcbench.masses import NOT_TAKEN, named
from hpcbench.origin import Origin, with_note

if TYPE_CHECKING:
    from ase import Atoms

POSITION_RESOLUTION = 1e-5
"""Length in A to which content ids round cells and positions."""

BORN_RESOLUTION = 1e-6
"""Resolution of Born charges in e, of the dielectric tensor, and of their other parameters."""

MASS_RESOLUTION = 1e-3
"""Resolution of atomic masses in u."""

# Files have rounded decimals. With this offset none of them is at a boundary between two grid
# points, where rounding noise would change the id.
OFF_GRID = 0.5 + 0.13784


@dataclass(frozen=True, eq=False)
class Crystal:
    """One crystal as it was given.

    Attributes
    ----------
    id : str
        Content id, see :func:`content_id`.
    name : str
        Name for people: a file's stem, or the name in the file.
    origins : tuple of Origin
        All places that it was read from; several if it occurs more than once.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian positions in A, as given.
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    supercell_matrix : ndarray, shape (3, 3), or None
        The supercell of the source (a phonopy.yaml with ``--supercell source``).
    nac_params : mapping or None
        Born charges of the atoms and the dielectric tensor, if a phonopy.yaml has them; see
        :mod:`hpcbench.born`.
    masses : ndarray, shape (natoms,), or None
        Atomic masses in u, if the source gives others than those of the elements.
    """

    id: str
    name: str
    origins: tuple[Origin, ...]
    cell: NDArray[np.float64]
    positions: NDArray[np.float64]
    numbers: NDArray[np.int32]
    supercell_matrix: NDArray[np.int32] | None = None
    nac_params: Mapping[str, Any] | None = None
    masses: NDArray[np.float64] | None = None

    @classmethod
    def from_arrays(
        cls,
        name: str,
        origins: tuple[Origin, ...],
        cell: NDArray[np.float64],
        positions: NDArray[np.float64],
        numbers: NDArray[np.int32],
        supercell_matrix: NDArray[np.int32] | None = None,
        nac_params: Mapping[str, Any] | None = None,
        masses: NDArray[np.float64] | None = None,
    ) -> Crystal:
        """Make a record and its content id from arrays.

        Parameters
        ----------
        name, origins, cell, positions, numbers, supercell_matrix, nac_params, masses
            As in the class, with the same shapes and units.
        """
        cell = np.array(cell, dtype=np.float64).reshape(3, 3)
        positions = np.array(positions, dtype=np.float64).reshape(-1, 3)
        numbers = np.array(numbers, dtype=np.int32).reshape(-1)
        if masses is not None:
            masses = np.array(masses, dtype=np.float64).reshape(-1)
        if supercell_matrix is not None:
            supercell_matrix = np.array(supercell_matrix, dtype=np.int32).reshape(3, 3)
        return cls(
            content_id(cell, positions, numbers, supercell_matrix, nac_params, masses),
            name,
            origins,
            cell,
            positions,
            numbers,
            supercell_matrix,
            nac_params,
            masses,
        )

    @classmethod
    def from_ase(cls, atoms: Atoms, name: str = "", origins: tuple[Origin, ...] = ()) -> Crystal:
        """Make a record from an ASE ``Atoms`` object.

        A left-handed cell is made right-handed; masses that were set are kept. Origins get a note
        of that, of masses that cannot be used, and of ``pbc`` that is false without vacuum.

        Parameters
        ----------
        atoms : Atoms
            The crystal.
        name : str
            For people; the formula by default.
        origins : tuple of Origin
            Where it comes from.
        """
        cell, positions = np.asarray(atoms.cell[:], dtype=np.float64), atoms.positions
        set_masses = atoms.get_masses() if atoms.has("masses") else None
        masses, problem = named(atoms.numbers, set_masses)
        notes = [NOT_TAKEN + problem] if problem else []
        if abs(np.linalg.det(cell)) > 0:
            notes.append(periodicity(atoms.pbc, cell, positions).note)
        cell, turned = right_handed(cell)
        return cls.from_arrays(
            name or str(atoms.get_chemical_formula("hill")),
            with_note(origins, (*notes, turned)),
            cell,
            positions,
            atoms.numbers,
            masses=masses,
        )

    @property
    def natoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """Chemical formula in Hill order, e.g. ``O3SrTi``."""
        return str(self.to_ase().get_chemical_formula("hill"))

    def to_ase(self) -> Atoms:
        """Return the crystal as periodic ``Atoms``, with Born charges in ``info["nac_params"]``.

        Masses are set if they are not those of the elements.
        """
        from ase import Atoms

        return Atoms(
            numbers=self.numbers,
            cell=self.cell,
            positions=self.positions,
            masses=self.masses,
            pbc=True,
            info=None if self.nac_params is None else {NAC_PARAMS: self.nac_params},
        )

    def with_origins(self, origins: tuple[Origin, ...]) -> Crystal:
        """Return the same crystal with other origins."""
        return replace(self, origins=origins)


def content_id(
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
    numbers: NDArray[np.int32],
    supercell_matrix: NDArray[np.int32] | None = None,
    nac_params: Mapping[str, Any] | None = None,
    masses: NDArray[np.float64] | None = None,
) -> str:
    """Return the hash of a crystal as given: 16 hexadecimal digits.

    The order of the atoms counts; positions are wrapped into the cell and rounded to
    ``POSITION_RESOLUTION``. Two polymorphs of one formula, or the same crystal in another setting,
    have different ids. A supercell of the source is part of the content, since it determines the
    result; so are Born charges, rounded to ``BORN_RESOLUTION``, and masses that are not those of
    the elements, rounded to ``MASS_RESOLUTION``.

    Parameters
    ----------
    cell, positions, numbers, supercell_matrix, nac_params, masses
        As in :class:`Crystal`, with the same shapes and units.
    """
    cell = np.asarray(cell, dtype=np.float64)
    # Wrapping must not depend on rounding: a coordinate just below 1 is the same as 0.
    try:
        fractional = np.linalg.solve(cell.T, np.asarray(positions, dtype=np.float64).T).T
    except np.linalg.LinAlgError:
        fractional = np.asarray(positions, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(cell, axis=1), POSITION_RESOLUTION)
    fractional = fractional - np.floor(fractional + POSITION_RESOLUTION / lengths)
    # nan_to_num keeps a broken crystal hashable: it is refused later, with a reason.
    grid = [
        np.floor(np.nan_to_num(x / POSITION_RESOLUTION, nan=0.0, posinf=0.0, neginf=0.0) + OFF_GRID)
        for x in (cell, fractional @ cell)
    ]
    digest = hashlib.sha256()
    digest.update(np.asarray(numbers, dtype="<i4").tobytes())
    for x in grid:
        digest.update(x.astype("<i8").tobytes())
    if supercell_matrix is not None:
        digest.update(np.asarray(supercell_matrix, dtype="<i4").tobytes())
    if nac_params is not None:
        rounded = np.floor(numbers_of(nac_params) / BORN_RESOLUTION + OFF_GRID)
        digest.update(str(nac_params["method"]).encode() + rounded.astype("<i8").tobytes())
    if masses is not None:
        # NaN: an element without a mass, which is refused later.
        rounded = np.floor(np.nan_to_num(masses) / MASS_RESOLUTION + OFF_GRID)
        digest.update(b"masses" + rounded.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
