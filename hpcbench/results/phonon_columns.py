"""Columns of a crystal's phonons in the store. Loads neither torch nor MPI."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hpcbench.born import to_json
from hpcbench.criteria import EXACT, column_of
from hpcbench.phonons.dimensions import dimensionality, vacuum
from hpcbench.phonons.displacement_length import NOT_SMOOTH
from hpcbench.phonons.exact_q import AtQ, decide
from hpcbench.phonons.modes import Mode, imaginary_modes
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.rational import Suspicions
from hpcbench.phonons.restoring import holding, soft_branch
from hpcbench.phonons.spectrum import density_of_states
from hpcbench.phonons.supercells import lowest_height
from hpcbench.store.schema import BY_DISPLACEMENT, COARSE_MESH, LOW_SUPERCELL, UNDETERMINED


@dataclass(frozen=True, eq=False)
class Analysed:
    """Results of the analysis of a crystal's forces.

    Attributes
    ----------
    columns : dict
        Columns of its row.
    suspicions : Suspicions
        The q where interpolated frequencies are negative, and computed ones may not be.
    exact_cause : str
        The cause if the verdict of ``exact-q`` is undetermined; else empty.
    forces : ndarray, shape (ncopies, natoms, 3)
        The forces in eV/A; empty in the result of a worker process.
    """

    columns: dict[str, Any]
    suspicions: Suspicions
    exact_cause: str = ""
    forces: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 3)))


@dataclass(frozen=True)
class Keep:
    """Choice of the results to store, and of their precision.

    Attributes
    ----------
    forces : bool
        Whether to store the forces of the displaced supercells.
    band_dtype : str
        Precision of the bands. ``float32`` also rounds them to ``BAND_STEP``.
    dos : bool
        Whether to store the phonon density of states.
    """

    forces: bool
    band_dtype: str
    dos: bool


BAND_STEP = 2.0**-17
"""Step in THz to which bands are rounded: finer digits are noise, and take a tenth of the room."""


def rounded_bands(frequencies: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return frequencies in THz, rounded to ``BAND_STEP`` and to single precision."""
    return (np.round(frequencies / BAND_STEP) * BAND_STEP).astype(np.float32)


def phonon_columns(result: PhononResult, criterion: str, keep: Keep) -> dict[str, Any]:
    """Return the columns of a result of phonons.

    Parameters
    ----------
    result : PhononResult
        Spectra, verdicts and thermal properties.
    criterion : str
        Name of the criterion that gives the verdict.
    keep : Keep
        Columns to return besides force constants and verdicts.
    """
    phonon, mesh = result.phonon, result.mesh
    if mesh.change > COARSE_MESH:
        warnings.warn(
            f"the mesh is not converged: on half of it the free energy differs by "
            f"{mesh.change:.2g} kJ/mol and atom; give a denser --mesh",
            stacklevel=1,
        )
    cell = phonon.unitcell
    atoms = Atoms(numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True)
    held, directions = holding(phonon), dimensionality(atoms)
    verdicts = result.verdicts | dict.fromkeys(result.undetermined, UNDETERMINED)
    if held.cause:
        verdicts = dict.fromkeys(verdicts, UNDETERMINED)
    supercell_height = lowest_height(phonon.supercell.cell, phonon.supercell.positions)
    notes = (
        f"supercell only {supercell_height:.1f} A high" * (supercell_height < LOW_SUPERCELL),
        soft_branch(phonon, held, directions, result.lowest_modes),
        _NOT_SMOOTH * (result.roughness >= NOT_SMOOTH),
    )
    displaced = (phonon.dataset or {}).get("first_atoms", [])
    columns = {
        "verdict": verdicts[criterion],
        "cause": held.cause or result.undetermined.get(criterion, ""),
        "notes": "; ".join(filter(None, notes)),
        "margin": result.margins[criterion],
        "force_constants_decay": result.decay,
        "supercell_height": supercell_height,
        "open_regions": len(result.suspicions.chosen) + result.suspicions.left_open,
        "long_waves": result.suspicions.long_waves,
        "within_noise": ", ".join(result.undetermined),
        **{column_of(name): verdict for name, verdict in verdicts.items()},
        "dimensionality": directions,
        "vacuum": vacuum(atoms),
        "max_frequency": result.max_frequency,
        "modes_left_out": mesh.left_out,
        "mesh_change": mesh.change,
        "free_energy": mesh.free_energy,
        "entropy": mesh.entropy,
        "heat_capacity": mesh.heat_capacity,
        "derivative": BY_DISPLACEMENT * bool(result.displacements),
        "displacements": result.displacements,
        "largest_drift": result.largest_drift,
        "symmetrisation_change": result.symmetrisation_change,
        "force_noise": result.noise.forces,
        "nonlinearity": result.noise.nonlinearity,
        "roughness": result.roughness,
        "supercell_matrix": phonon.supercell_matrix,
        "primitive_matrix": phonon.primitive_matrix,
        "p2s_map": phonon.primitive.p2s_map,
        "force_constants": phonon.force_constants,
        "displacement_atoms": [entry["number"] for entry in displaced],
        "displacement_vectors": [entry["displacement"] for entry in displaced],
        "nac_params": to_json(phonon.nac_params),
        "band_labels": json.dumps(result.path.labels),
        "band_qpoints": result.path.qpoints,
        "band_segments": result.path.indptr,
        "band_frequencies": result.spectra["path"].frequencies.ravel(),
        "commensurate_qpoints": result.spectra["commensurate"].qpoints,
        "commensurate_frequencies": result.spectra["commensurate"].frequencies.ravel(),
    }
    modes = result.unstable_modes
    if criterion == EXACT:
        # The verdict does not depend on interpolated frequencies.
        modes = imaginary_modes([result.lowest_modes["commensurate"]])
    columns |= mode_columns(modes)
    character = result.character
    columns |= {
        "character": ", ".join(character.kinds),
        "gamma_acoustic": character.gamma_acoustic,
        "gamma_optical": character.gamma_optical,
        "min_frequency_near_gamma": character.near_gamma,
    }
    for place, spectrum in result.spectra.items():
        columns[f"min_frequency_{place}"], columns[f"min_q_{place}"] = spectrum.lowest
        columns[f"noise_{place}"] = result.noise.frequencies[place]
        columns[f"acoustic_{place}"] = result.lowest_modes[place].acoustic
        columns[f"imaginary_{place}"] = character.imaginary[place]
    if keep.forces:
        columns["forces"] = result.forces.reshape(-1, 3)
    if keep.band_dtype == "float32":
        columns["band_frequencies"] = rounded_bands(columns["band_frequencies"])
    if keep.dos:
        columns["dos_frequencies"], columns["dos"] = density_of_states(phonon)
    return columns


_NOT_SMOOTH = (
    "potential not smooth: shorter displacements do not converge, and the phonons are those of the "
    "displacements as they are"
)
# Beginnings of the notes that phonon_columns makes.
_OF_PHONONS = (
    "interpolated frequencies",
    "supercell only",
    "nothing between",
    "lowest mode",
    "potential not smooth",
)


def joined_notes(before: str, of_phonons: str) -> str:
    """Return a row's notes, with the notes on its phonons replaced.

    Parameters
    ----------
    before : str
        Notes of the row so far.
    of_phonons : str
        The new notes, from :func:`phonon_columns`.
    """
    kept = [note for note in before.split("; ") if not note.startswith(_OF_PHONONS)]
    return "; ".join(filter(None, (*kept, of_phonons)))


def mode_columns(modes: Sequence[Mode]) -> dict[str, Any]:
    """Return the columns of modes."""
    vectors = np.array([mode.eigenvector for mode in modes], dtype=np.complex128)
    parts = np.stack([vectors.real, vectors.imag], axis=-1)
    return {
        "mode_frequencies": [mode.frequency for mode in modes],
        "mode_qpoints": [mode.qpoint for mode in modes],
        "mode_eigenvectors": parts.reshape(-1, 3, 2),
    }


def decided_columns(
    columns: Mapping[str, Any],
    found: Suspicions,
    computed: Sequence[AtQ],
    settings: PhononSettings,
) -> dict[str, Any]:
    """Return the columns of a row after frequencies at suspicious q were computed.

    Parameters
    ----------
    columns : mapping
        From :func:`phonon_columns`, with ``exact-q`` as the criterion of the verdict.
    found : Suspicions
        Suspicious q of the same result.
    computed : sequence of AtQ
        Computed frequencies at the chosen q.
    settings : PhononSettings
        With the exact criterion.
    """
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    answer = decide(found, computed, criterion.threshold)
    lowest = min(computed, key=lambda one: one.mode.frequency).mode
    place = " ".join(f"{x:.3g}" for x in lowest.qpoint)
    note = (
        f"interpolated frequencies are negative, but computed at {len(computed)} rational q the "
        f"lowest is {lowest.frequency:.3f} THz at {place}"
    )
    below = [one for one in columns["within_noise"].split(", ") if one and one != EXACT]
    modes = imaginary_modes([one.mode for one in computed])
    extra = mode_columns(modes)
    return {
        **columns,
        "verdict": answer.verdict,
        column_of(EXACT): answer.verdict,
        "cause": answer.cause,
        "within_noise": ", ".join([*below, *[EXACT] * bool(answer.cause)]),
        "notes": "; ".join(filter(None, (columns["notes"], note))),
        "margin": min(columns["margin"], lowest.frequency - criterion.threshold),
        "open_regions": found.left_open,
        "computed_qpoints": [one.mode.qpoint for one in computed],
        "computed_frequencies": np.concatenate([one.frequencies for one in computed]),
        "computed_supercells": [one.supercell_matrix for one in computed],
        "displacements": columns["displacements"] + sum(one.supercells for one in computed),
        **{name: [*columns[name], *values] for name, values in extra.items()},
    }


def exact_cause(result: PhononResult) -> str:
    """Return the cause if the verdict of ``exact-q`` is undetermined; else an empty string."""
    return holding(result.phonon).cause or result.undetermined.get(EXACT, "")
