"""Judge a crystal by its force constants: spectra, their uncertainty, and verdicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.criteria import (
    EXACT_Q,
    LENGTH,
    ROUNDING,
    SUPERCELL_Q,
)
from hpcbench.errors import PhononError
from hpcbench.phonons.character import Character, character
from hpcbench.phonons.exact_q import STABLE, find_suspicions, undecided
from hpcbench.phonons.force_constants import (
    decay,
)
from hpcbench.phonons.modes import lowest_modes, modes_at_gamma
from hpcbench.phonons.noise import (
    Noise,
)
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.rational import NO_SUSPICIONS
from hpcbench.phonons.spectrum import (
    BandPath,
    MeshResult,
    commensurate_qpoints,
    frequencies_at,
    frequencies_on_path,
    run_mesh,
    seekpath_band_path,
    supercell_qpoints,
)
from hpcbench.phonons.stability import Spectrum, is_undetermined, margin, verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from phonopy import Phonopy


def judged_spectra(phonon: Phonopy, spectra: Mapping[str, Spectrum]) -> dict[str, Spectrum]:
    """Return the spectra that criteria look at: the stored ones, and those at other q.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    spectra : mapping of str to Spectrum
        By place, from :func:`spectra_of`.
    """
    return {
        **spectra,
        SUPERCELL_Q: frequencies_at(phonon, supercell_qpoints(phonon)),
        EXACT_Q: spectra["commensurate"],
    }


def result_of(
    phonon: Phonopy,
    settings: PhononSettings,
    path: BandPath,
    mesh: MeshResult,
    spectra: dict[str, Spectrum],
    judged: Mapping[str, Spectrum],
    noise: Noise,
) -> PhononResult:
    """Return all that follows from spectra, without the parts that need forces.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    settings : PhononSettings
        Criteria, and limits of the search for suspicions.
    path : BandPath
    mesh : MeshResult
    spectra : dict of str to Spectrum
        These three from :func:`spectra_of`.
    judged : mapping of str to Spectrum
        From :func:`judged_spectra`.
    noise : Noise
        Uncertainty of the frequencies.
    """
    answers = verdicts(judged, settings.criteria)
    undetermined = undetermined_criteria(judged, noise, settings)
    found = NO_SUSPICIONS
    for criterion in settings.criteria:
        if criterion.place == EXACT_Q and answers[criterion.name] == STABLE:
            found = find_suspicions(
                phonon,
                spectra["path"],
                spectra["mesh"],
                spectra["commensurate"],
                criterion.threshold,
                settings.most_denominator,
                settings.most_qpoints,
            )
            if cause := undecided(found):
                undetermined.setdefault(criterion.name, cause)
    return PhononResult(
        phonon=phonon,
        displacements=0,
        largest_drift=math.nan,
        symmetrisation_change=math.nan,
        noise=noise,
        forces=np.zeros((0, len(phonon.supercell), 3)),
        path=path,
        spectra=spectra,
        mesh=mesh,
        lowest_modes=lowest_modes(phonon, spectra),
        character=_character(phonon, spectra, noise, mesh),
        verdicts=answers,
        undetermined=undetermined,
        margins={c.name: margin(c, judged[c.place]) for c in settings.criteria},
        decay=decay(phonon),
        suspicions=found,
    )


def undetermined_criteria(
    spectra: Mapping[str, Spectrum], noise: Noise, settings: PhononSettings
) -> dict[str, str]:
    """Return the criteria whose answers are uncertain, and why; none if the noise is not known.

    Parameters
    ----------
    spectra : mapping of str to Spectrum
        From :func:`judged_spectra`.
    noise : Noise
        Uncertainty of the frequencies.
    settings : PhononSettings
        The criteria.
    """
    found = {}
    for criterion in settings.criteria if noise.deviation and not settings.literal else ():
        spectrum = spectra[criterion.place]
        for cause, of_rounding in ((ROUNDING, True), (LENGTH, False)):
            if is_undetermined(
                criterion, spectrum, *noise.reach(criterion.place, of_rounding=of_rounding)
            ):
                found[criterion.name] = cause
                break
    return found


def _character(
    phonon: Phonopy, spectra: dict[str, Spectrum], noise: Noise, mesh: MeshResult
) -> Character:
    reciprocal = np.linalg.inv(phonon.primitive.cell).T
    return character(spectra, modes_at_gamma(phonon), reciprocal, noise.frequencies, mesh.weights)


def spectra_of(
    phonon: Phonopy, settings: PhononSettings
) -> tuple[BandPath, MeshResult, dict[str, Spectrum]]:
    """Return a crystal's band path, its mesh, and its spectra by place.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    settings : PhononSettings
        Points of the path, mesh and temperatures.

    Raises
    ------
    PhononError
        If a frequency is not finite.
    """
    path = seekpath_band_path(
        phonon, settings.band_points, cell_is_standard=str(settings.primitive_matrix) == "P"
    )
    mesh = run_mesh(phonon, settings.mesh, settings.temperatures, settings.cutoff_frequency)
    spectra = {
        "path": frequencies_on_path(phonon, path.qpoints, path.indptr),
        "commensurate": frequencies_at(phonon, commensurate_qpoints(phonon)),
        "mesh": mesh.spectrum,
    }
    if not all(np.isfinite(spectrum.frequencies).all() for spectrum in spectra.values()):
        raise PhononError("nan", "frequencies are not finite")
    return path, mesh, spectra
