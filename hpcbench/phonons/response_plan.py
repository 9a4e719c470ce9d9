"""Plan the fewest columns of a linear response, by the crystal's symmetry.

One q of each star is computed. The response to a displacement there also gives the responses to its
images: by the operations that keep q, and by those that turn it into -q followed by complex
conjugation (Maradudin and Vosko, Rev. Mod. Phys. 40, 1 (1968)). The number of columns needed is the
largest ratio of multiplicity to dimension of an irreducible representation, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.potentials.columns import Columns, displaced, is_real

# Columns are drawn at random until the images of one have a ratio of smallest to largest singular
# value of _GOOD, or _DRAWS times, when the best is taken: rounding grows by the inverse of that
# ratio. Relative singular values below _NOTHING count as zero.
_DRAWS, _GOOD, _NOTHING = 8, 0.2, 1e-6
_SAME = 1e-6  # tolerance of q, in reciprocal lattice vectors


@dataclass(frozen=True, eq=False)
class Operation:
    """A symmetry operation, acting on displacements.

    Attributes
    ----------
    rotation : ndarray, shape (3, 3)
        Acts on fractional coordinates.
    reciprocal : ndarray, shape (3, 3)
        Acts on q.
    cartesian : ndarray, shape (3, 3)
        Acts on Cartesian vectors.
    atoms : ndarray, shape (natoms,)
        Index that each atom is mapped to.
    cells : ndarray, shape (natoms, 3)
        The cell in which that image is.
    """

    rotation: NDArray[np.int64]
    reciprocal: NDArray[np.float64]
    cartesian: NDArray[np.float64]
    atoms: NDArray[np.int64]
    cells: NDArray[np.float64]

    def at(self, qpoint: NDArray[np.float64]) -> Turn:
        """Return the map from displacements at q to those at its image."""
        phases = np.exp(-2j * np.pi * (self.cells @ (self.reciprocal @ qpoint)))
        return Turn(self.atoms, phases, self.cartesian)


@dataclass(frozen=True, eq=False)
class Turn:
    """The map of displacements at a q to those at the image of q by an operation.

    It stands for a matrix of (3 natoms, 3 natoms), which would have one block in each row; a
    crystal of 20 atoms with 64 q has thousands of them.

    Attributes
    ----------
    atoms : ndarray, shape (natoms,)
        Index that each atom is mapped to.
    phases : ndarray, shape (natoms,), complex
        Factor of each atom's displacement.
    cartesian : ndarray, shape (3, 3)
        Rotation of each displacement.
    """

    atoms: NDArray[np.int64]
    phases: NDArray[np.complex128]
    cartesian: NDArray[np.float64]

    def of(self, columns: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Return the mapped displacements, shape (3 natoms, ncolumns)."""
        here = columns.reshape(len(self.atoms), 3, -1)
        turned = np.empty_like(here)
        turned[self.atoms] = self.phases[:, None, None] * (self.cartesian @ here)
        return turned.reshape(columns.shape)

    def conj(self) -> Turn:
        """Return the map from conjugates of displacements to conjugates of their images."""
        return Turn(self.atoms, self.phases.conj(), self.cartesian)

    def without_rounding(self) -> Turn:
        """Return the same map with phases of exactly 1 and -1."""
        return Turn(self.atoms, self.phases.real.astype(np.complex128), self.cartesian)


@dataclass(frozen=True, eq=False)
class Image:
    """A q of a star, given by the q that is computed.

    Attributes
    ----------
    index : int
        Its place in the requested list.
    turn : Turn
        Maps displacements at the computed q to those at its image.
    conjugate : bool
        Whether the image is -q.
    """

    index: int
    turn: Turn
    conjugate: bool


@dataclass(frozen=True, eq=False)
class Star:
    """A q that is computed, its columns, and the q that follow from it.

    Attributes
    ----------
    qpoint : ndarray, shape (3,)
        In reciprocal lattice vectors.
    columns : ndarray, shape (ncolumns, natoms, 3), complex
        Displacements whose images span all displacements.
    keeping : list of (Turn, bool)
        Maps of a displacement with known response to others, and whether both are conjugated first.
    images : list of Image
        All requested q that follow from this one.
    """

    qpoint: NDArray[np.float64]
    columns: NDArray[np.complex128]
    keeping: list[tuple[Turn, bool]]
    images: list[Image]


@dataclass(frozen=True, eq=False)
class Plan:
    """The columns that give the force constants of a crystal at some q.

    Attributes
    ----------
    stars : list of Star
        One for each q that is computed.
    nqpoints : int
        Number of requested q.
    real, complex : Columns
        The columns for the potential; those with real phases are separate because they cost half.
    """

    stars: list[Star]
    nqpoints: int
    real: Columns
    complex: Columns

    @property
    def cost(self) -> int:
        """Cost in real columns; a complex one counts twice."""
        return len(self.real) + 2 * len(self.complex)


def operations_of(phonon: Phonopy) -> list[Operation]:
    """Return the operations of a crystal's primitive cell, as phonopy finds them."""
    primitive = phonon.primitive
    places = primitive.scaled_positions
    found = phonon.primitive_symmetry.symmetry_operations
    basis = primitive.cell.T
    operations = []
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        moved = places @ rotation.T + translation
        apart = moved[:, None, :] - places[None, :, :]
        atoms = np.abs(apart - np.rint(apart)).max(axis=2).argmin(axis=1)
        cells = np.rint(apart[np.arange(len(places)), atoms])
        cartesian = basis @ rotation @ np.linalg.inv(basis)
        reciprocal = np.rint(np.linalg.inv(rotation)).T
        operations.append(Operation(rotation, reciprocal, cartesian, atoms, cells))
    return operations


def plan_columns(phonon: Phonopy, qpoints: NDArray[np.float64], *, symmetry: bool = True) -> Plan:
    """Return the columns that give the force constants at some q.

    Parameters
    ----------
    phonon : Phonopy
        Its primitive cell is the crystal.
    qpoints : ndarray, shape (nq, 3)
        In reciprocal lattice vectors of the primitive cell.
    symmetry : bool
        Whether to use the crystal's symmetry.
    """
    operations = operations_of(phonon)
    if not symmetry:
        operations = [one for one in operations if _is_identity(one)]
    places: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys_of(qpoints)):
        places.setdefault(key, []).append(index)
    turns = np.array([one.reciprocal for one in operations])
    stars = []
    while places:
        qpoint = qpoints[next(iter(places.values()))[0]]
        stars.append(_star(qpoint, operations, turns, places, len(phonon.primitive)))
    parts = []
    for real in (True, False):
        of_kind = [star for star in stars if bool(is_real(star.qpoint)) == real]
        natoms = len(phonon.primitive)
        columns = [star.columns for star in of_kind]
        where = [np.tile(star.qpoint, (len(star.columns), 1)) for star in of_kind]
        parts.append(
            displaced(
                np.concatenate([np.zeros((0, natoms, 3), dtype=complex), *columns]),
                np.concatenate([np.zeros((0, 3)), *where]),
            )
        )
    return Plan(stars, len(qpoints), *parts)


def _star(
    qpoint: NDArray[np.float64],
    operations: list[Operation],
    turns: NDArray[np.float64],
    places: dict[bytes, list[int]],
    natoms: int,
) -> Star:
    """Return the star of a q, and remove those of its q that were requested from ``places``."""
    real = bool(is_real(qpoint))
    here, opposite = keys_of(np.array([qpoint, -qpoint]))
    targets = turns @ qpoint
    keeping: list[tuple[Turn, bool]] = []
    images: list[Image] = []
    for operation, target, mirrored in zip(
        operations, keys_of(targets), keys_of(-targets), strict=True
    ):
        needed = target in places or mirrored in places
        if not needed and target not in (here, opposite):
            continue
        turn = operation.at(qpoint)
        if real:
            turn = turn.without_rounding()
        if target == here:
            keeping.append((turn, False))
        elif target == opposite:
            keeping.append((turn.conj(), True))
        images += [Image(index, turn, False) for index in places.pop(target, [])]
        images += [Image(index, turn, True) for index in places.pop(mirrored, [])]
    return Star(qpoint, _columns(keeping, natoms, real=real), keeping, images)


def _columns(
    keeping: list[tuple[Turn, bool]], natoms: int, *, real: bool
) -> NDArray[np.complex128]:
    """Return the fewest displacements whose images span all, shape (ncolumns, natoms, 3)."""
    size = 3 * natoms
    random = np.random.default_rng(0)
    if len(keeping) == 1:
        return np.eye(size, dtype=np.complex128).reshape(size, natoms, 3)
    chosen: list[NDArray[np.complex128]] = []
    span = np.zeros((size, 0), dtype=np.complex128)
    while span.shape[1] < size:
        best, best_rank, best_quality, found = None, 0, 0.0, span
        for _ in range(_DRAWS):
            u = random.normal(size=size) + (0 if real else 1j * random.normal(size=size))
            # What is left has the same symmetry, so images stay out of what there is.
            for _ in range(2):
                u = u - span @ (span.conj().T @ u)
            u /= np.linalg.norm(u)
            vectors, values, _ = np.linalg.svd(
                images_of(np.asarray(u, dtype=np.complex128)[:, None], keeping), full_matrices=False
            )
            rank = int((values > _NOTHING * values[0]).sum())
            quality = float(values[rank - 1] / values[0])
            if (rank, quality) > (best_rank, best_quality):
                best, best_rank, best_quality, found = u, rank, quality, vectors[:, :rank]
            if best_quality > _GOOD:
                break
        assert best is not None, "an image of a vector has rank one at least"
        chosen.append(np.asarray(best, dtype=np.complex128))
        span = np.concatenate([span, found], axis=1)
    return np.array(chosen).reshape(-1, natoms, 3)


def images_of(
    columns: NDArray[np.complex128], keeping: list[tuple[Turn, bool]]
) -> NDArray[np.complex128]:
    """Return all images of columns.

    Parameters
    ----------
    columns : ndarray, shape (3 natoms, ncolumns)
        Displacements.
    keeping : list of (Turn, bool)
        As in :class:`Star`.
    """
    return np.concatenate(
        [turn.of(columns.conj() if conjugate else columns) for turn, conjugate in keeping],
        axis=1,
    )


def _is_identity(operation: Operation) -> bool:
    return bool((operation.rotation == np.eye(3)).all()) and bool(
        (operation.atoms == np.arange(len(operation.atoms))).all()
    )


def keys_of(qpoints: NDArray[np.float64]) -> list[bytes]:
    """Return a key for each q (nq, 3) that is the same for q a reciprocal lattice vector apart."""
    inside = np.rint((qpoints - np.floor(qpoints + _SAME / 2)) / _SAME).astype(np.int64)
    return [row.tobytes() for row in inside]
