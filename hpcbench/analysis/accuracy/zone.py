"""Errors over the Brillouin zone, as the published benchmark of MACE-MP-0b3 gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.analysis.accuracy.spectra import ABSOLUTE, COUNT, SQUARED, SQUARES, sums_of
from hpcbench.analysis.accuracy.statistics import Array
from hpcbench.errors import PhononError
from hpcbench.phonons.spectrum import MeshResult, run_mesh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonopy import Phonopy


@dataclass(frozen=True, eq=False)
class ZoneErrors:
    """Errors of one crystal's frequencies over a mesh of the Brillouin zone.

    Attributes
    ----------
    sums : ndarray, shape (6,)
        Over all modes of the mesh, see :mod:`hpcbench.analysis.accuracy.spectra`.
    mae, rmse : float
        Mean absolute and root mean square error, in THz.
    scaled_rmse : float
        The same after the potential's frequencies are scaled to the reference's highest one, in
        THz: the error of the shape of the bands.
    relative_rmse : float
        ``rmse`` over the root mean square of the reference's frequencies.
    potential, reference : MeshResult
        Both sides with their thermal properties.
    """

    sums: Array
    mae: float
    rmse: float
    scaled_rmse: float
    relative_rmse: float
    potential: MeshResult
    reference: MeshResult


def zone_errors(
    potential: Phonopy,
    reference: Phonopy,
    mesh: Sequence[float] = (20, 20, 20),
    temperatures: Sequence[float] = (300.0,),
    cutoff_frequency: float = 0.0,
) -> ZoneErrors:
    """Compare all frequencies on a mesh, weighted by the multiplicity of each q.

    With the defaults these are ``phonon_mae``, ``phonon_rmse``, ``phonon_scaled_rmse`` and
    ``phonon_rrmse`` of github.com/JaGeo/mace-mp-03b-phonon-benchmark (functions/metric.py).

    Parameters
    ----------
    potential, reference : Phonopy
        With force constants of the same crystal, in the same primitive cell.
    mesh : sequence of float
        As of :func:`hpcbench.phonons.spectrum.run_mesh`.
    temperatures : sequence of float
        Of the thermal properties, in K.
    cutoff_frequency : float
        Modes below it, in THz, are in no thermal property.

    Raises
    ------
    PhononError
        If the two have other q or other numbers of modes.
    """
    sides = [run_mesh(one, mesh, temperatures, cutoff_frequency) for one in (potential, reference)]
    ours, theirs = (one.spectrum.frequencies for one in sides)
    qpoints = [one.spectrum.qpoints for one in sides]
    if ours.shape != theirs.shape or not np.allclose(qpoints[0], qpoints[1]):
        raise PhononError("mesh", f"{ours.shape} frequencies of the potential, {theirs.shape}")
    weights = sides[1].weights.astype(np.float64)
    sums = sums_of(ours, theirs, weights)
    scaled = sums_of(ours * (theirs.max() / ours.max()), theirs, weights)
    return ZoneErrors(
        sums,
        float(sums[ABSOLUTE] / sums[COUNT]),
        float(np.sqrt(sums[SQUARED] / sums[COUNT])),
        float(np.sqrt(scaled[SQUARED] / scaled[COUNT])),
        float(np.sqrt(sums[SQUARED] / sums[SQUARES])),
        *sides,
    )
