"""Frequencies from force constants: on the band path, at commensurate q, on a mesh."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.phonon.mesh import MeshSymmetryFallbackWarning
from phonopy.physical_units import get_physical_units

from hpcbench.errors import PhononError
from hpcbench.masses import tells_isotopes
from hpcbench.phonons.stability import (
    ACOUSTIC_MODES,
    IMAGINARY,
    Spectrum,
    is_gamma,
    signed_roots,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from phonopy import Phonopy


# Of an interval of the band path: lengths that differ by less are the same.
_TIE = 1e-6


@dataclass(frozen=True, eq=False)
class BandPath:
    """A path through the Brillouin zone, as segments laid end to end.

    Attributes
    ----------
    qpoints : ndarray, shape (nq, 3)
        All points, segment after segment; the end of one is repeated as the start of the next.
    indptr : ndarray, shape (nsegments + 1,)
        Where each segment begins and ends in ``qpoints``.
    labels : tuple of (str, str)
        Names of the first and last point of each segment, e.g. ``("GAMMA", "X")``.
    """

    qpoints: NDArray[np.float64]
    indptr: NDArray[np.int64]
    labels: tuple[tuple[str, str], ...]


def seekpath_band_path(phonon: Phonopy, points: int, *, cell_is_standard: bool) -> BandPath:
    """The path that seekpath recommends for the primitive cell.

    Parameters
    ----------
    points : int
        Points on the longest segment; the others have the same interval (phonopy's
        ``is_const_interval``).
    cell_is_standard : bool
        True takes seekpath's coordinates as they are, as phonopy does: right only if
        ``phonon.primitive`` is seekpath's own primitive cell. False transforms them from there
        to the reciprocal lattice of ``phonon.primitive``.

    Raises
    ------
    PhononError
        If seekpath finds no path.
    """
    import seekpath

    primitive = phonon.primitive.totuple(tells_isotopes(phonon.primitive))
    try:
        with warnings.catch_warnings():
            # Cells on the edge between two kinds of lattice: either path is as good.
            warnings.simplefilter("ignore", seekpath.hpkot.EdgeCaseWarning)
            if cell_is_standard:
                recommended = seekpath.get_path(primitive)
            else:
                recommended = seekpath.get_path_orig_cell(
                    primitive, symprec=phonon.symmetry.tolerance
                )
    except Exception as error:  # seekpath and spglib raise many kinds
        raise PhononError("band path", f"seekpath: {type(error).__name__}: {error}") from error
    coordinates = recommended["point_coords"]
    ends = [(coordinates[a], coordinates[b]) for a, b in recommended["path"]]
    segments = [
        np.linspace(*segment, count)
        for segment, count in zip(
            ends, _points_of_segments(ends, points, phonon.primitive.cell), strict=True
        )
    ]
    return BandPath(
        np.concatenate(segments).astype(np.float64),
        np.concatenate([[0], np.cumsum([len(s) for s in segments])]).astype(np.int64),
        tuple((str(a), str(b)) for a, b in recommended["path"]),
    )


def _points_of_segments(
    ends: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    points: int,
    cell: NDArray[np.float64],
) -> list[int]:
    """Return the number of points of each segment, at phonopy's constant interval.

    As phonopy rounds them, but for segments whose length is a half of an interval: there phonopy
    has one point more or less by the last digit of the cell, and here the smaller number counts.
    """
    lengths = [float(np.linalg.norm(np.linalg.inv(cell) @ np.subtract(b, a))) for a, b in ends]
    return [max(2, math.ceil(length / max(lengths) * points - 0.5 - _TIE)) for length in lengths]


def commensurate_qpoints(phonon: Phonopy) -> NDArray[np.float64]:
    """The q at which the supercell's force constants give exact frequencies, shape (nq, 3).

    In reduced coordinates of the primitive cell's reciprocal lattice.
    """
    matrix = np.linalg.inv(phonon.primitive_matrix) @ phonon.supercell_matrix
    return np.asarray(get_commensurate_points(np.rint(matrix).astype(np.int64)))


def supercell_qpoints(phonon: Phonopy) -> NDArray[np.float64]:
    """Return the q that Loew's scripts look at, shape (nq, 3).

    Commensurate with ``supercell_matrix``, as if it were of the primitive cell: that is
    ``phonopy.harmonic.dynmat_to_fc.get_commensurate_points(supercell_matrix)`` given to a phonon
    object with a primitive matrix (hyllios/utils, benchmark_ph/calc_phonopy.py).
    """
    return np.asarray(get_commensurate_points(np.asarray(phonon.supercell_matrix, dtype=np.int64)))


def frequencies_at(phonon: Phonopy, qpoints: NDArray[np.float64]) -> Spectrum:
    """Return frequencies in THz at given q-points, shape (nq, nbands)."""
    frequencies = phonon.run_qpoints(qpoints).frequencies
    return Spectrum(
        np.asarray(qpoints), np.sort(frequencies, axis=1), modes_at_gamma(phonon).acoustic
    )


@dataclass(frozen=True, eq=False)
class GammaModes:
    """The modes at Gamma.

    Attributes
    ----------
    frequencies : ndarray, shape (nbands,)
        In THz, ascending; negative where imaginary.
    acoustic : ndarray, shape (nbands,)
        Which three are acoustic.
    """

    frequencies: NDArray[np.float64]
    acoustic: NDArray[np.bool_]


def modes_at_gamma(phonon: Phonopy, direction: NDArray[np.float64] | None = None) -> GammaModes:
    """Return the modes at Gamma, and which of them are acoustic.

    ``direction`` is that from which one comes, reduced; it matters with Born charges alone.

    Acoustic are those that move all atoms alike: the three with the largest
    :func:`acoustic_share`, not the three lowest, for optical ones may be imaginary.
    """
    result = phonon.run_qpoints(
        [[0.0, 0.0, 0.0]], with_eigenvectors=True, nac_q_direction=direction
    )
    frequencies = np.asarray(result.frequencies[0])
    order = np.argsort(frequencies, kind="stable")
    vectors = result.eigenvectors[0].T[order].reshape(len(order), -1, 3)
    share = acoustic_share(vectors, phonon.primitive.masses)
    acoustic = np.zeros(len(order), dtype=bool)
    acoustic[np.argsort(share, kind="stable")[-ACOUSTIC_MODES:]] = True
    return GammaModes(frequencies[order], acoustic)


def frequencies_on_path(
    phonon: Phonopy, qpoints: NDArray[np.float64], indptr: NDArray[np.int64]
) -> Spectrum:
    """Compute frequencies in THz on a band path, shape (nq, nbands).

    With Born charges a frequency at Gamma depends on the direction from which one comes: that of
    its segment, as in phonopy's ``run_band_structure``.

    Parameters
    ----------
    qpoints, indptr : ndarray
        As in :class:`BandPath`.
    """
    spectrum = frequencies_at(phonon, qpoints)
    if phonon.nac_params is None:
        return spectrum
    frequencies = spectrum.frequencies
    # Longitudinal modes are elsewhere in the order than without a direction.
    acoustic = np.tile(spectrum.acoustic, (len(qpoints), 1))
    for first, end in itertools.pairwise(indptr):
        at_gamma = first + np.flatnonzero(is_gamma(qpoints[first:end]))
        direction = qpoints[first] - qpoints[end - 1]
        if len(at_gamma) and direction.any():
            modes = modes_at_gamma(phonon, direction)
            frequencies[at_gamma], acoustic[at_gamma] = modes.frequencies, modes.acoustic
    return Spectrum(spectrum.qpoints, frequencies, acoustic)


@dataclass(frozen=True, eq=False)
class Mode:
    """A phonon mode.

    Attributes
    ----------
    frequency : float
        In THz; negative for an imaginary one.
    qpoint : ndarray, shape (3,)
        Reduced coordinates of the primitive cell's reciprocal lattice.
    eigenvector : ndarray, shape (natoms, 3)
        Complex, normalised, of the primitive cell's atoms, with phonopy's phases.
    acoustic : float
        Share that moves all atoms alike: 1 in the acoustic branches near Gamma.
    """

    frequency: float
    qpoint: NDArray[np.float64]
    eigenvector: NDArray[np.complex128]
    acoustic: float


def lowest_modes(phonon: Phonopy, spectra: Mapping[str, Spectrum]) -> dict[str, Mode]:
    """The lowest mode of each spectrum, by place.

    At Gamma, where there are Born charges, it is that without a direction: without the field of a
    longitudinal one.
    """
    return {place: mode_at(phonon, spectrum.lowest[1]) for place, spectrum in spectra.items()}


def mode_at(phonon: Phonopy, qpoint: NDArray[np.float64]) -> Mode:
    """Return the lowest mode at a q in reduced coordinates, shape (3,)."""
    result = phonon.run_qpoints([qpoint], with_eigenvectors=True)
    branch = int(np.argmin(result.frequencies[0]))
    vector = result.eigenvectors[0][:, branch].reshape(-1, 3)
    share = float(acoustic_share(vector, phonon.primitive.masses))
    return Mode(float(result.frequencies[0, branch]), qpoint, vector, share)


def mode_of(
    phonon: Phonopy, qpoint: NDArray[np.float64], matrix: NDArray[np.complex128]
) -> tuple[NDArray[np.float64], Mode]:
    """Return the frequencies of a dynamical matrix in THz, ascending, and the lowest mode.

    ``matrix`` is in eV/(A^2 u), with phonopy's phases, of the primitive cell of ``phonon``.
    """
    values, vectors = np.linalg.eigh(matrix)
    frequencies = signed_roots(values) * get_physical_units().DefaultToTHz
    vector = vectors[:, 0].reshape(-1, 3)
    share = float(acoustic_share(vector, phonon.primitive.masses))
    return frequencies, Mode(float(frequencies[0]), qpoint, vector, share)


def imaginary_modes(modes: Iterable[Mode]) -> tuple[Mode, ...]:
    """Those below -0.001 THz, one that stands twice once.

    That is below for the strictest criterion in use: acoustic modes at Gamma are never exactly
    zero.
    """
    found = {tuple(np.round(m.qpoint, 9)): m for m in modes if m.frequency < IMAGINARY}
    return tuple(found.values())


def acoustic_share(
    vectors: NDArray[np.complex128], masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of modes that moves all atoms alike: 1 for an acoustic mode at Gamma.

    ``sum_x |sum_k sqrt(m_k) e_kx|^2 / sum_k m_k`` for eigenvectors e, shape (..., natoms, 3).
    """
    alike = np.einsum("k,...kx->...x", np.sqrt(masses), vectors)
    share: NDArray[np.float64] = (np.abs(alike) ** 2).sum(axis=-1) / np.sum(masses)
    return share


@dataclass(frozen=True, eq=False)
class MeshResult:
    """Frequencies on a mesh, and the thermal properties that follow from them.

    Attributes
    ----------
    spectrum : Spectrum
        At the irreducible q-points of the mesh.
    weights : ndarray, shape (nq,)
        How many points of the full mesh each stands for.
    temperatures : ndarray, shape (nt,)
        In K.
    free_energy, entropy, heat_capacity : ndarray, shape (nt,)
        Of the primitive cell, in phonopy's units: kJ/mol, J/K/mol, J/K/mol.
    left_out : float
        Share of the modes that are below the cut-off frequency and so left out.
    change : float
        How far the free energy is, at most, from that on a mesh half as dense, in kJ/mol and
        atom: small where the mesh suffices.
    """

    spectrum: Spectrum
    weights: NDArray[np.int64]
    temperatures: NDArray[np.float64]
    free_energy: NDArray[np.float64]
    entropy: NDArray[np.float64]
    heat_capacity: NDArray[np.float64]
    left_out: float
    change: float


def density_of_states(phonon: Phonopy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies in THz, and states per THz and primitive cell, on the mesh of :func:`run_mesh`.

    By phonopy, as ``phonopy --dos`` does: tetrahedra, 201 points from the lowest frequency to
    the highest. The integral is three times the number of atoms.
    """
    result = phonon.run_total_dos()
    return np.array(result.frequency_points), np.array(result.dos)


def run_mesh(
    phonon: Phonopy,
    mesh: Sequence[float],
    temperatures: Sequence[float],
    cutoff_frequency: float,
) -> MeshResult:
    """Frequencies on phonopy's mesh and harmonic thermal properties.

    Parameters
    ----------
    mesh : sequence of 3 int, or of one length in A
        As in ``phonopy --mesh``: Monkhorst-Pack, an even number does not meet Gamma; of a length
        phonopy makes a mesh around Gamma, finer for smaller cells.
    temperatures : sequence of float
        In K.
    cutoff_frequency : float
        Modes below it, in THz, are left out.

    Raises
    ------
    PhononError
        If phonopy makes no mesh.
    """

    def on(dense: float | list[int]) -> tuple[Any, Any]:
        try:
            with warnings.catch_warnings():
                # A shifted mesh lowers the symmetry that phonopy can use for some lattices:
                # slower, and the same result. It is the mesh that the literature's numbers are
                # from.
                warnings.simplefilter("ignore", MeshSymmetryFallbackWarning)
                result = phonon.run_mesh(dense)
            return result, phonon.run_thermal_properties(
                temperatures=np.asarray(temperatures, dtype=np.float64),
                cutoff_frequency=cutoff_frequency,
            )
        except Exception as error:  # phonopy and spglib raise many kinds
            raise PhononError("mesh", f"phonopy: {type(error).__name__}: {error}") from error

    # The dense one last: phonopy keeps it, for the density of states.
    _, coarse = on(mesh[0] / 2 if len(mesh) == 1 else [math.ceil(n / 2) for n in mesh])
    result, thermal = on(mesh[0] if len(mesh) == 1 else [int(n) for n in mesh])
    change = np.abs(thermal.free_energy - coarse.free_energy).max(initial=0.0)
    change /= len(phonon.primitive)
    spectrum = Spectrum(
        np.array(result.qpoints),
        np.sort(result.frequencies, axis=1),
        modes_at_gamma(phonon).acoustic,
    )
    weights = np.array(result.weights, dtype=np.int64)
    below = (spectrum.frequencies < cutoff_frequency).sum(axis=1)
    return MeshResult(
        spectrum=spectrum,
        weights=weights,
        temperatures=np.array(thermal.temperatures),
        free_energy=np.array(thermal.free_energy),
        entropy=np.array(thermal.entropy),
        heat_capacity=np.array(thermal.heat_capacity),
        left_out=float((below * weights).sum() / (weights.sum() * spectrum.frequencies.shape[1])),
        change=float(change),
    )
