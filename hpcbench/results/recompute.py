"""Computation of derived results again, from stored force constants."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.criteria import (
    BETWEEN_Q,
    EXACT,
    LENGTH,
    PLACES,
    ROUNDING,
    column_of,
    criteria_of,
)
from hpcbench.phonons.calculate import analyse_force_constants
from hpcbench.phonons.exact_q import AtQ
from hpcbench.phonons.modes import Mode
from hpcbench.phonons.noise import Noise
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.phonons.rational import Suspicions
from hpcbench.protocols import PROTOCOLS
from hpcbench.results.checked_columns import Checked, checked_columns
from hpcbench.results.phonon_columns import (
    Analysed,
    Keep,
    decided_columns,
    exact_cause,
    joined_notes,
    phonon_columns,
)
from hpcbench.store.fields import Origin
from hpcbench.store.known import known_fields, origin_of
from hpcbench.store.physics import phonopy_of
from hpcbench.store.reader import Store
from hpcbench.store.schema import BY_RESPONSE, DONE, UNDETERMINED

AS_STORED = Keep(forces=False, band_dtype="float32", dos=False)


def columns_again(
    row: Mapping[str, Any], settings: Mapping[str, Any], keep: Keep = AS_STORED
) -> dict[str, Any]:
    """Compute the derived columns of a row again: spectra, verdicts, thermal properties.

    Parameters
    ----------
    row : mapping
        Row of a crystal that is done, with its cells and force constants.
    settings : mapping
        Settings of its store, or of a reanalysis.
    keep : Keep
        Results to return.

    Returns
    -------
    dict
        Columns of origin ``DERIVED``; those of origin ``NOISE`` if the displacements of the row
        are known; and ``notes``.

    Raises
    ------
    HpcbenchError
        If phonopy cannot compute them, or orders the atoms of the supercell in another way.
    KeyError
        If a setting of a run is missing.
    """
    protocol = PROTOCOLS[settings["protocol"]]
    criterion = settings["criterion"]
    if row.get("again") == protocol.beside != "":
        protocol = PROTOCOLS[protocol.beside]
        criterion = protocol.criterion
    phonons = PhononSettings(
        primitive_matrix=protocol.primitive_matrix,
        # Imports have no such setting, and nothing here depends on it.
        displacement=settings.get("displacement", math.nan),
        symprec=settings["symprec"],
        band_points=settings["band_points"],
        mesh=tuple(settings["mesh"]),
        temperatures=tuple(settings["temperatures"]),
        cutoff_frequency=settings["cutoff_frequency"],
        criteria=criteria_of(settings),
        literal=protocol.literal,
        most_denominator=settings.get("q_denominator", RunConfig.q_denominator),
        most_qpoints=settings.get("q_checks", RunConfig.q_checks),
    )
    phonon = phonopy_of(row, settings["symprec"])
    # Older stores do not have these columns.
    noise = {place: float(row.get(f"noise_{place}", math.nan)) for place in PLACES}
    known = Noise(
        float(row.get("force_noise", math.nan)),
        noise,
        nonlinearity=float(row.get("nonlinearity", math.nan)),
    )
    result = analyse_force_constants(phonon, phonons, known)
    columns = phonon_columns(result, criterion, keep)
    origins, more = {Origin.DERIVED, Origin.NOISE}, {"notes"}
    if not result.noise.deviation:
        origins -= {Origin.NOISE}
        # The row says which verdicts the noise could change.
        unsure = [name for name in row.get("within_noise", "").split(", ") if name]
        for name in unsure:
            columns[column_of(name)] = UNDETERMINED
        if row.get("derivative") == BY_RESPONSE:
            more.add("within_noise")
            unsure += [n for n in columns["within_noise"].split(", ") if n and n not in unsure]
            columns["within_noise"] = ", ".join(unsure)
        columns["verdict"] = columns[column_of(criterion)]
        if columns["verdict"] == UNDETERMINED:
            columns["cause"] = columns["cause"] or row.get("cause", "")
    if row.get("cause") == LENGTH and math.isnan(row.get("nonlinearity", math.nan)):
        # The error after an extrapolation of displacements is not stored: take the row's verdicts.
        kept = {name for name in row.get("within_noise", "").split(", ") if name}
        for name in kept & {one.name for one in phonons.criteria}:
            columns[column_of(name)] = UNDETERMINED
        if criterion in kept and not columns["cause"]:
            columns |= {"verdict": UNDETERMINED, "cause": LENGTH}
    known_at_q = _computed(row, phonons)
    if known_at_q and math.isfinite(row.get("interpolation_error", math.nan)):
        found = Analysed(columns, result.suspicions, exact_cause(result))
        checked = Checked(row["interpolation_error"], known_at_q, 0, {})
        columns = checked_columns(columns, found, checked, phonons, criterion)
    elif columns["cause"] == BETWEEN_Q and criterion == EXACT:
        columns |= _as_computed(row, columns, result.suspicions, phonons)
    columns["notes"] = joined_notes(row.get("notes", ""), columns["notes"])
    return {
        name: value for name, value in columns.items() if name in more or origin_of(name) in origins
    }


def _as_computed(
    row: Mapping[str, Any],
    columns: dict[str, Any],
    found: Suspicions,
    settings: PhononSettings,
) -> dict[str, Any]:
    """Return columns with frequencies computed at rational q, if these q are the chosen ones."""
    cause = row.get("cause", "")
    computed = _computed(row, settings)
    if not computed or (row.get("verdict", UNDETERMINED) == UNDETERMINED and not cause):
        return {}  # none, or a damaged row that has lost its verdict
    by_q = {_key(one.mode.qpoint): one for one in computed}
    matched = [by_q.get(_key(suspicion.qpoint.coordinates)) for suspicion in found.chosen]
    if any(one.is_below for one in computed):
        return decided_columns(columns, found, computed, settings)
    if not matched or None in matched:
        return {}
    return decided_columns(columns, found, [one for one in matched if one], settings)


def _computed(row: Mapping[str, Any], settings: PhononSettings) -> tuple[AtQ, ...]:
    """Return the frequencies of a row that were computed at single q."""
    qpoints = np.reshape(row.get("computed_qpoints", ()), (-1, 3))
    if not len(qpoints):
        return ()
    # The cause is of the verdict's criterion; it holds for exact-q if that is within noise, too.
    cause = row.get("cause", "")
    if EXACT not in row.get("within_noise", "").split(", "):
        cause = ""
    frequencies = np.reshape(row["computed_frequencies"], (len(qpoints), -1))
    vectors = dict(zip(map(_key, row.get("mode_qpoints", ())), _vectors(row), strict=True))
    nothing = np.full((frequencies.shape[1] // 3, 3), np.nan, dtype=np.complex128)
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    return tuple(
        AtQ(
            values,
            Mode(float(values[0]), qpoint, vectors.get(_key(qpoint), nothing), math.nan),
            matrix,
            0,
            bool(values[0] < criterion.threshold) and cause not in (LENGTH, ROUNDING),
            cause if cause in (LENGTH, ROUNDING) else "",
        )
        for qpoint, values, matrix in zip(
            qpoints, frequencies, np.reshape(row["computed_supercells"], (-1, 3, 3)), strict=True
        )
    )


def _key(qpoint: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(qpoint, 6).tolist())


def _vectors(row: Mapping[str, Any]) -> NDArray[np.complex128]:
    parts = np.asarray(row.get("mode_eigenvectors", np.zeros((0, 3, 2))))
    vectors: NDArray[np.complex128] = (
        (parts[..., 0] + 1j * parts[..., 1]).reshape(len(row.get("mode_qpoints", ())), -1, 3)
        if len(row.get("mode_qpoints", ()))
        else np.zeros((0, 1, 3), dtype=np.complex128)
    )
    return vectors


def columns_without_nac(
    row: Mapping[str, Any], settings: Mapping[str, Any], keep: Keep = AS_STORED
) -> dict[str, Any]:
    """Compute the columns of a row with Born charges again without them.

    Parameters
    ----------
    row : mapping
        Row of a crystal that is done, with its cells and force constants.
    settings : mapping
        Settings of its store.
    keep : Keep
        Results to return, forces excepted.

    Raises
    ------
    HpcbenchError, KeyError
        See :func:`columns_again`.
    """
    without = {**row, "nac_params": "", "within_noise": ""}
    return {**columns_again(without, settings, keep), "nac_params": ""}


def analyse_stored(
    parent: Path, key: str, settings: Mapping[str, Any], keep: Keep
) -> list[dict[str, Any]]:
    """Analyse the stored force constants of a crystal again, with other settings.

    Returns the crystal's row, then the rows of its earlier computations and of the protocol
    beside, if any. The computation that gives the verdict is the same as in the run.

    Parameters
    ----------
    parent : Path
        The store with the force constants.
    key : str
        Id of the crystal.
    settings : mapping
        Settings of the reanalysis.
    keep : Keep
        Results to return.

    Raises
    ------
    HpcbenchError
        See :func:`columns_again`.
    """
    store = _opened(parent)
    # The error after an extrapolation is known only for the criteria of the run.
    same = all(store.settings.get(n) == settings.get(n) for n in ("criterion", "criteria"))
    return [_analysed(store.row(one), settings, keep, same) for one in store.versions(key)]


def _analysed(
    row: Mapping[str, Any], settings: Mapping[str, Any], keep: Keep, same_criteria: bool
) -> dict[str, Any]:
    known = known_fields()
    # A derived value that is not computed again would belong to other settings.
    kept = {
        name: value
        for name, value in row.items()
        if origin_of(name) is not Origin.DERIVED
        and not (name in known and known[name].stays_behind)
    }
    if row["status"] != DONE:
        return kept
    # Take verdicts within noise from the row only for the same criteria, where they are known.
    is_known = math.isfinite(row.get("roughness", math.nan)) or row.get("derivative") == BY_RESPONSE
    within_noise = row.get("within_noise", "") if same_criteria and is_known else ""
    columns = columns_again({**row, "within_noise": within_noise}, settings, keep)
    return {**kept, "within_noise": "", **columns}


@functools.lru_cache(maxsize=1)
def _opened(parent: Path) -> Store:
    return Store(parent)
