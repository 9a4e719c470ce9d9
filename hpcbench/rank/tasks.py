"""What is computed beside the potential, in a rank's worker processes.

Loads neither torch nor MPI: a worker starts in half a second and takes little memory.
"""

from __future__ import annotations

import json
import pickle
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.criteria import column_of, criteria_of
from hpcbench.errors import CrystalError, HpcbenchError
from hpcbench.phonons.calculate import PhononResult, PhononSettings, analyse, prepare
from hpcbench.phonons.dimensions import dimensionality, vacuum
from hpcbench.phonons.spectrum import Mode, density_of_states
from hpcbench.phonons.supercells import CHECKS, displaced_copies, with_checks
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.protocols import Protocol
from hpcbench.store.schema import COARSE_MESH, UNDETERMINED


@dataclass(frozen=True, eq=False)
class Displaced:
    """A crystal whose displaced supercells want forces.

    Attributes
    ----------
    phonon : bytes
        The Phonopy object, pickled once and handed on as it is: that takes a millisecond,
        finding the symmetry of a supercell again up to a second.
    copies : DisplacedCopies
        The supercells, and those that tell the noise of their forces.
    """

    phonon: bytes
    copies: DisplacedCopies


@dataclass(frozen=True)
class Keep:
    """What of the results is kept, and how exactly.

    Attributes
    ----------
    forces : bool
        The forces of the displaced supercells.
    band_dtype : str
        Precision of the bands. ``float32`` also rounds them to ``BAND_STEP``.
    dos : bool
        The phonon density of states.
    """

    forces: bool
    band_dtype: str
    dos: bool


BAND_STEP = 2.0**-17
"""In THz: digits of bands beyond it are noise, which takes a tenth of their room."""


def phonon_settings(config: RunConfig, protocol: Protocol | None = None) -> PhononSettings:
    """The part of a run's settings that phonons depend on, by its protocol or another one."""
    return PhononSettings(
        (protocol or config.protocol_definition).primitive_matrix,
        config.displacement,
        config.symprec,
        config.band_points,
        config.mesh,
        config.temperatures,
        config.cutoff_frequency,
        criteria_of({"criteria": config.criteria}),
    )


def displace_supercell(
    atoms: Atoms, supercell_matrix: NDArray[np.int64], settings: PhononSettings
) -> Displaced:
    """Supercells of a crystal that want forces, see :func:`hpcbench.phonons.calculate.prepare`."""
    phonon = prepare(atoms, supercell_matrix, settings)
    return Displaced(
        pickle.dumps(phonon, pickle.HIGHEST_PROTOCOL), with_checks(displaced_copies(phonon))
    )


def analyse_forces(
    phonon: bytes,
    forces: NDArray[np.float64],
    settings: PhononSettings,
    criterion: str,
    keep: Keep,
) -> dict[str, Any]:
    """The columns of a crystal's row that its phonons give.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_supercell`.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of its copies, in eV/A.
    criterion : str
        The one whose answer is the verdict.
    keep : Keep
        What is among the columns beside force constants and verdicts.
    """
    result = analyse(pickle.loads(phonon), forces[:-CHECKS], settings, forces[-CHECKS:])
    return phonon_columns(result, criterion, keep)


def rounded_bands(frequencies: NDArray[np.float64]) -> NDArray[np.float32]:
    """Frequencies in THz, rounded to ``BAND_STEP`` and to single precision."""
    return (np.round(frequencies / BAND_STEP) * BAND_STEP).astype(np.float32)


def phonon_columns(result: PhononResult, criterion: str, keep: Keep) -> dict[str, Any]:
    """A result of phonons by the store's columns."""
    phonon, mesh = result.phonon, result.mesh
    if mesh.change > COARSE_MESH:
        warnings.warn(
            f"the mesh is not converged: on half of it the free energy differs by "
            f"{mesh.change:.2g} kJ/mol and atom; give a denser --mesh",
            stacklevel=1,
        )
    cell = phonon.unitcell
    atoms = Atoms(numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True)
    verdicts = result.verdicts | dict.fromkeys(result.undetermined, UNDETERMINED)
    displaced = (phonon.dataset or {}).get("first_atoms", [])
    columns = {
        "verdict": verdicts[criterion],
        "margin": result.margins[criterion],
        "force_constants_decay": result.decay,
        "within_noise": ", ".join(result.undetermined),
        **{column_of(name): verdict for name, verdict in verdicts.items()},
        "dimensionality": dimensionality(atoms),
        "vacuum": vacuum(atoms),
        "max_frequency": result.max_frequency,
        "modes_left_out": mesh.left_out,
        "mesh_change": mesh.change,
        "free_energy": mesh.free_energy,
        "entropy": mesh.entropy,
        "heat_capacity": mesh.heat_capacity,
        "displacements": result.displacements,
        "largest_drift": result.largest_drift,
        "symmetrisation_change": result.symmetrisation_change,
        "force_noise": result.noise.forces,
        "supercell_matrix": phonon.supercell_matrix,
        "primitive_matrix": phonon.primitive_matrix,
        "p2s_map": phonon.primitive.p2s_map,
        "force_constants": phonon.force_constants,
        "displacement_atoms": [entry["number"] for entry in displaced],
        "displacement_vectors": [entry["displacement"] for entry in displaced],
        "band_labels": json.dumps(result.path.labels),
        "band_qpoints": result.path.qpoints,
        "band_segments": result.path.indptr,
        "band_frequencies": result.spectra["path"].frequencies.ravel(),
        "commensurate_qpoints": result.spectra["commensurate"].qpoints,
        "commensurate_frequencies": result.spectra["commensurate"].frequencies.ravel(),
    }
    columns |= _mode_columns(result.unstable_modes)
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


def _mode_columns(modes: Sequence[Mode]) -> dict[str, Any]:
    vectors = np.array([mode.eigenvector for mode in modes], dtype=np.complex128)
    parts = np.stack([vectors.real, vectors.imag], axis=-1)
    return {
        "mode_frequencies": [mode.frequency for mode in modes],
        "mode_qpoints": [mode.qpoint for mode in modes],
        "mode_eigenvectors": parts.reshape(-1, 3, 2),
    }


@dataclass(frozen=True, eq=False)
class TaskReport:
    """How a task ended.

    Attributes
    ----------
    value : object
        What its function returned; ``None`` if it failed.
    error : HpcbenchError or None
        What it raised; other errors than hpcbench's own as a ``CrystalError``.
    traceback : str
        Where an error of another kind came from; else empty.
    seconds : float
        Processor time.
    warnings : frozenset of str
        What libraries warned of.
    """

    value: Any
    error: HpcbenchError | None
    traceback: str
    seconds: float
    warnings: frozenset[str]


def run_task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> TaskReport:
    """Call a function; whatever becomes of it is in the report."""
    # Of the process: phonopy computes in threads of its own.
    start = time.process_time()
    value, error, trace = None, None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*arguments)
        except HpcbenchError as problem:
            error = problem
        except Exception as problem:  # one crystal's accident must not end the run
            error = unexpected(problem)
            trace = traceback.format_exc()
    return TaskReport(value, error, trace, time.process_time() - start, messages_of(caught))


def unexpected(problem: Exception) -> CrystalError:
    """An error that nobody raised on purpose, as the failure of the crystal."""
    return CrystalError("error", f"{type(problem).__name__}: {problem}")


def messages_of(caught: list[warnings.WarningMessage]) -> frozenset[str]:
    """What libraries warned of, each message once."""
    return frozenset(f"{w.category.__name__}: {w.message}" for w in caught)
