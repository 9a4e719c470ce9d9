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

from hpcbench.errors import PhononError
from hpcbench.masses import tells_isotopes
from hpcbench.phonons.modes import modes_at_gamma
from hpcbench.phonons.stability import (
    Spectrum,
    is_gamma,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonopy import Phonopy


# Relative to an interval of the band path: lengths that differ by less count as equal.
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
    """Return the path that seekpath recommends for the primitive cell.

    Parameters
    ----------
    phonon : Phonopy
        Its primitive cell defines the path.
    points : int
        Points on the longest segment; the others have the same interval (phonopy's
        ``is_const_interval``).
    cell_is_standard : bool
        True takes seekpath's coordinates as they are, as phonopy does: correct only if
        ``phonon.primitive`` is seekpath's own primitive cell. False transforms them to the
        reciprocal lattice of ``phonon.primitive``.

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

    The rounding is phonopy's, but for segments whose length is half an interval: there phonopy's
    number depends on the last digit of the cell, and here it is the smaller one.
    """
    lengths = [float(np.linalg.norm(np.linalg.inv(cell) @ np.subtract(b, a))) for a, b in ends]
    return [max(2, math.ceil(length / max(lengths) * points - 0.5 - _TIE)) for length in lengths]


def commensurate_qpoints(phonon: Phonopy) -> NDArray[np.float64]:
    """Return the q at which the supercell's force constants give exact frequencies, shape (nq, 3).

    In reduced coordinates of the primitive cell's reciprocal lattice.
    """
    matrix = np.linalg.inv(phonon.primitive_matrix) @ phonon.supercell_matrix
    return np.asarray(get_commensurate_points(np.rint(matrix).astype(np.int64)))


def supercell_qpoints(phonon: Phonopy) -> NDArray[np.float64]:
    """Return the q that the benchmark scripts of Loew et al. examine, shape (nq, 3).

    They are commensurate with ``supercell_matrix`` as if that referred to the primitive cell:
    ``phonopy.harmonic.dynmat_to_fc.get_commensurate_points(supercell_matrix)``, for a Phonopy
    object with a primitive matrix (hyllios/utils, benchmark_ph/calc_phonopy.py).
    """
    return np.asarray(get_commensurate_points(np.asarray(phonon.supercell_matrix, dtype=np.int64)))


def frequencies_at(phonon: Phonopy, qpoints: NDArray[np.float64]) -> Spectrum:
    """Return the frequencies at given q-points.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    qpoints : ndarray, shape (nq, 3)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    """
    frequencies = phonon.run_qpoints(qpoints).frequencies
    return Spectrum(
        np.asarray(qpoints), np.sort(frequencies, axis=1), modes_at_gamma(phonon).acoustic
    )


def frequencies_on_path(
    phonon: Phonopy, qpoints: NDArray[np.float64], indptr: NDArray[np.int64]
) -> Spectrum:
    """Return the frequencies on a band path.

    With Born charges, a frequency at Gamma depends on the direction of the limit q -> 0: it is that
    of the segment, as in phonopy's ``run_band_structure``.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
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
class MeshResult:
    """Frequencies on a mesh, and the thermal properties that follow from them.

    Attributes
    ----------
    spectrum : Spectrum
        At the irreducible q-points of the mesh.
    weights : ndarray, shape (nq,)
        Number of points of the full mesh that each stands for.
    temperatures : ndarray, shape (nt,)
        In K.
    free_energy, entropy, heat_capacity : ndarray, shape (nt,)
        Of the primitive cell, in phonopy's units: kJ/mol, J/K/mol, J/K/mol.
    left_out : float
        Share of the modes that are below the cut-off frequency and so do not count.
    change : float
        Largest difference of the free energy from that on a mesh half as dense, in kJ/mol per atom:
        small if the mesh suffices.
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
    """Return the density of states on the mesh of :func:`run_mesh`: THz, states per THz and cell.

    As ``phonopy --dos`` computes it: tetrahedron method, 201 points from the lowest frequency to
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
    """Compute frequencies on phonopy's mesh, and harmonic thermal properties.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    mesh : sequence of 3 int, or of one length in A
        As in ``phonopy --mesh``. Three numbers: Monkhorst-Pack, where even numbers avoid Gamma. A
        length: a mesh with Gamma, finer for smaller cells.
    temperatures : sequence of float
        In K.
    cutoff_frequency : float
        Modes below it, in THz, do not count.

    Raises
    ------
    PhononError
        If phonopy fails to make the mesh.
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
