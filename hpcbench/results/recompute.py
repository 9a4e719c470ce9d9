"""What follows from a crystal's force constants, computed again."""

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
from hpcbench.phonons.calculate import PhononSettings, analyse_force_constants
from hpcbench.phonons.exact_q import AtQ
from hpcbench.phonons.noise import Noise
from hpcbench.phonons.rational import Suspicions
from hpcbench.phonons.spectrum import Mode
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
        Of a crystal that is done, with its cells and force constants.
    settings : mapping
        Of its store, or others.
    keep : Keep
        What of the results is kept.

    Returns
    -------
    dict
        Columns of origin ``DERIVED``, those of origin ``NOISE`` where the displacements of the row
        are known, and ``notes``.

    Raises
    ------
    HpcbenchError
        If phonopy cannot compute them, or orders the supercell otherwise.
    KeyError
        If the settings are not those of a run.
    """
    protocol = PROTOCOLS[settings["protocol"]]
    criterion = settings["criterion"]
    if row.get("again") == protocol.beside != "":
        protocol = PROTOCOLS[protocol.beside]
        criterion = protocol.criterion
    phonons = PhononSettings(
        primitive_matrix=protocol.primitive_matrix,
        # An import has none, and nothing here depends on it.
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
    # An older store does not have it.
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
        # What could change it is known of the row.
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
        # What an extrapolation leaves is known to the run alone.
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
    """Return columns with what was computed at rational q, where these are those that decide."""
    cause = row.get("cause", "")
    computed = _computed(row, settings)
    if not computed or (row.get("verdict", UNDETERMINED) == UNDETERMINED and not cause):
        return {}  # none, or a damaged row that has lost what they came to
    by_q = {_key(one.mode.qpoint): one for one in computed}
    matched = [by_q.get(_key(suspicion.qpoint.coordinates)) for suspicion in found.chosen]
    if any(one.is_below for one in computed):
        return decided_columns(columns, found, computed, settings)
    if not matched or None in matched:
        return {}
    return decided_columns(columns, found, [one for one in matched if one], settings)


def _computed(row: Mapping[str, Any], settings: PhononSettings) -> tuple[AtQ, ...]:
    """Return what a row has of q that were computed one by one."""
    qpoints = np.reshape(row.get("computed_qpoints", ()), (-1, 3))
    if not len(qpoints):
        return ()
    # Of the verdict's criterion: of this one as well, if that is not sure of either.
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
    """Compute what a row with Born charges would be without them, from its force constants.

    Parameters
    ----------
    row, settings
        As :func:`columns_again` takes them.
    keep : Keep
        What of the results is kept; forces are not.

    Raises
    ------
    HpcbenchError, KeyError
        As :func:`columns_again`.
    """
    without = {**row, "nac_params": "", "within_noise": ""}
    return {**columns_again(without, settings, keep), "nac_params": ""}


def analyse_stored(
    parent: Path, key: str, settings: Mapping[str, Any], keep: Keep
) -> list[dict[str, Any]]:
    """Return the rows of a crystal, with what follows from its force constants by these settings.

    Behind it are those of its history, and of the protocol that was computed beside, if any. The
    verdict stays that of the computation that gave it in the run.

    Parameters
    ----------
    parent : Path
        The store with the force constants.
    key : str
        Id of the crystal.
    settings : mapping
        Of the reanalysis.
    keep : Keep
        What of the results is kept.

    Raises
    ------
    HpcbenchError
        As :func:`columns_again`.
    """
    store = _opened(parent)
    # What an extrapolation leaves is known for the criteria of the run.
    same = all(store.settings.get(n) == settings.get(n) for n in ("criterion", "criteria"))
    return [_analysed(store.row(one), settings, keep, same) for one in store.versions(key)]


def _analysed(
    row: Mapping[str, Any], settings: Mapping[str, Any], keep: Keep, same_criteria: bool
) -> dict[str, Any]:
    known = known_fields()
    # A derived value that is not computed again is one of other settings.
    kept = {
        name: value
        for name, value in row.items()
        if origin_of(name) is not Origin.DERIVED
        and not (name in known and known[name].stays_behind)
    }
    if row["status"] != DONE:
        return kept
    # What noise could change is known for the store's own q-points and criteria, or computed.
    is_known = math.isfinite(row.get("roughness", math.nan)) or row.get("derivative") == BY_RESPONSE
    within_noise = row.get("within_noise", "") if same_criteria and is_known else ""
    columns = columns_again({**row, "within_noise": within_noise}, settings, keep)
    return {**kept, "within_noise": "", **columns}


@functools.lru_cache(maxsize=1)
def _opened(parent: Path) -> Store:
    return Store(parent)
