"""What is computed beside the potential, in a rank's worker processes.

Loads neither torch nor MPI: a worker starts in half a second and takes little memory.
"""

from __future__ import annotations

import json
import pickle
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.born import to_json
from hpcbench.config import RunConfig
from hpcbench.criteria import EXACT, column_of, criteria_of
from hpcbench.errors import CrystalError, HpcbenchError
from hpcbench.phonons.calculate import (
    PhononResult,
    PhononSettings,
    analyse,
    analyse_lengths,
    prepare,
)
from hpcbench.phonons.dimensions import dimensionality, vacuum
from hpcbench.phonons.displacement_length import NOT_SMOOTH, pairs_of, with_shorter
from hpcbench.phonons.exact_q import AtQ, analyse_at, decide
from hpcbench.phonons.nondiagonal import displace_at
from hpcbench.phonons.rational import RationalQ, Suspicions
from hpcbench.phonons.restoring import holding, soft_branch
from hpcbench.phonons.spectrum import Mode, density_of_states, imaginary_modes
from hpcbench.phonons.supercells import (
    CHECKS,
    displaced_copies,
    lowest_height,
    with_checks,
)
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.protocols import Protocol
from hpcbench.store.schema import (
    BY_DISPLACEMENT,
    BY_RESPONSE,
    COARSE_MESH,
    LOW_SUPERCELL,
    UNDETERMINED,
)


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


@dataclass(frozen=True, eq=False)
class Analysed:
    """What the forces on a crystal's supercells come to.

    Attributes
    ----------
    columns : dict
        Of its row.
    suspicions : Suspicions
        Where interpolated frequencies are negative that computed ones may not be.
    exact_cause : str
        Why ``exact-q`` has no answer; empty if it has.
    forces : ndarray, shape (ncopies, natoms, 3)
        Those, in eV/A; not brought back from a worker process.
    """

    columns: dict[str, Any]
    suspicions: Suspicions
    exact_cause: str = ""
    forces: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 3)))


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
    """Return the settings that phonons depend on, by the run's protocol or another one."""
    protocol = protocol or config.protocol_definition
    return PhononSettings(
        protocol.primitive_matrix,
        config.displacement,
        config.symprec,
        config.band_points,
        config.mesh,
        config.temperatures,
        config.cutoff_frequency,
        criteria_of({"criteria": config.criteria}),
        protocol.literal,
        config.q_denominator,
        config.q_checks,
    )


def displace_supercell(
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    settings: PhononSettings,
    lengths: bool = False,
) -> Displaced:
    """Return supercells of a crystal that want forces.

    See :func:`hpcbench.phonons.calculate.prepare`; with ``lengths`` also those that displacements
    of no length are extrapolated from. Where forces are linear, phonopy's alone.
    """
    phonon = prepare(atoms, supercell_matrix, settings)
    copies = displaced_copies(phonon)
    if not settings.linear:
        copies = with_shorter(copies, pairs_of(phonon)) if lengths else with_checks(copies)
    return Displaced(pickle.dumps(phonon, pickle.HIGHEST_PROTOCOL), copies)


def analyse_forces(
    phonon: bytes,
    forces: NDArray[np.float64],
    settings: PhononSettings,
    criterion: str,
    keep: Keep,
    lengths: bool = False,
    checks: int = CHECKS,
) -> Analysed:
    """Return what the forces on a crystal's supercells come to.

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
    lengths : bool
        Whether the copies are of several lengths of the displacements.
    checks : int
        How many copies behind the displaced ones tell the noise, if not; of linear forces none do.
    """
    if settings.linear:
        result = analyse(pickle.loads(phonon), forces, settings)
    elif lengths:
        result = analyse_lengths(pickle.loads(phonon), forces, settings)
    else:
        result = analyse(pickle.loads(phonon), forces[:-checks], settings, forces[-checks:])
    columns = phonon_columns(result, criterion, keep)
    if settings.linear:
        # Nor are these the forces of any displaced supercell.
        columns |= {"derivative": BY_RESPONSE, "forces": np.zeros((0, 3))}
    return Analysed(columns, result.suspicions, exact_cause(result))


def exact_cause(result: PhononResult) -> str:
    """Return why ``exact-q`` has no answer; empty if it has."""
    return holding(result.phonon).cause or result.undetermined.get(EXACT, "")


def displace_at_q(phonon: bytes, qpoint: RationalQ, settings: PhononSettings) -> Displaced:
    """Return supercells that give the frequencies at a rational q.

    ``phonon`` is from :func:`displace_supercell`, of the crystal's own supercell.
    """
    crystal: Phonopy = pickle.loads(phonon)
    small = displace_at(
        crystal.primitive,
        qpoint,
        displacement=settings.displacement,
        symprec=settings.symprec,
        opposite=not settings.linear,
    )
    small.nac_params = crystal.nac_params
    copies = displaced_copies(small)
    if not settings.linear:
        copies = with_shorter(copies, pairs_of(small))
    return Displaced(pickle.dumps(small, pickle.HIGHEST_PROTOCOL), copies)


def analyse_at_q(
    phonon: bytes, forces: NDArray[np.float64], qpoint: RationalQ, settings: PhononSettings
) -> AtQ:
    """Return the frequencies at a rational q, from the forces on :func:`displace_at_q`'s copies."""
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    return analyse_at(pickle.loads(phonon), forces, qpoint.coordinates, criterion)


def decided_columns(
    columns: Mapping[str, Any],
    found: Suspicions,
    computed: Sequence[AtQ],
    settings: PhononSettings,
) -> dict[str, Any]:
    """Return the columns of a row whose suspicions were computed.

    Parameters
    ----------
    columns : mapping
        Those of :func:`phonon_columns`, with ``exact-q`` as the criterion of the verdict.
    found : Suspicions
        Of the same result.
    computed : sequence of AtQ
        Of the q that were chosen.
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
        # What is only interpolated decides nothing.
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
# How notes begin that phonon_columns makes.
_OF_PHONONS = (
    "interpolated frequencies",
    "supercell only",
    "nothing between",
    "lowest mode",
    "potential not smooth",
)


def joined_notes(before: str, of_phonons: str) -> str:
    """Return a row's notes, with those that its phonons give in place of earlier ones of phonons.

    Parameters
    ----------
    before : str
        Notes of the row until now.
    of_phonons : str
        From :func:`phonon_columns`.
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
