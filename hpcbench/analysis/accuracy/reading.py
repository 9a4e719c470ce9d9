"""Read the crystals of a store with their references."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analysis.accuracy.pairs import Compared, LeftOut, Pair, Phase
from hpcbench.analysis.accuracy.quantities import OTHER_CELL
from hpcbench.analysis.accuracy.spectra import (
    COMMENSURATE,
    ZONE,
    FrequencyHistogram,
    sums_by_modes,
    sums_of,
)
from hpcbench.analysis.accuracy.statistics import Array
from hpcbench.analysis.accuracy.values import RULES, THERMAL, label_of, values_of
from hpcbench.analysis.accuracy.zone import zone_errors
from hpcbench.analysis.breakdown import crystal_system, elements_of
from hpcbench.criteria import column_of
from hpcbench.errors import HpcbenchError, StoreError
from hpcbench.phonons.spectrum import frequencies_on_path
from hpcbench.store.row_checks import as_stored
from hpcbench.store.schema import AGAIN, DONE, REFERENCE

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

_FIELDS = (
    "id", "name", "origins", "formula", "natoms", "status", "reason", "cause", "energy",
    "relaxed_cell", "numbers", "spacegroup_number", "min_frequency_path",
    "max_frequency", *(column_of(rule) for rule in RULES), "primitive_matrix", "p2s_map",
    "commensurate_qpoints", "commensurate_frequencies", *THERMAL,
)  # fmt: skip
_BANDS = ("band_qpoints", "band_segments", "band_frequencies")
# Rows that are in memory together, with their bands.
_TOGETHER = 64
_SAME_Q = 1e-5

NO_REFERENCE = "no reference"


def read_compared(
    store: Store,
    label: str = "",
    mesh: Sequence[float] = (),
    *,
    frequencies: bool = True,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Compared:
    """Read a store's crystals and compare their frequencies with those of their references.

    The reference of a crystal is the row ``ID:reference``; without one, what the crystal's source
    says in numbers (:func:`hpcbench.analysis.accuracy.values.label_of`).

    Parameters
    ----------
    store : Store
        Finished or not.
    label : str, optional
        Name of the potential in tables; by default that of the settings.
    mesh : sequence of float, optional
        Compare frequencies on this mesh as well, from the force constants of both: takes seconds
        for each crystal. As of :func:`hpcbench.phonons.spectrum.run_mesh`.
    frequencies : bool
        Whether to compare frequencies on band paths, which takes seconds for each crystal whose
        path is not the reference's.
    tell : callable, optional
        Called with the numbers of crystals that are read, and of all.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    settings = store.settings
    name = label or str(settings.get("model", "")) or store.path.stem
    unfinished = len(store.unfinished_ids())
    found = Compared(name, settings, [], [], [], FrequencyHistogram(), unfinished)
    fields = (*_FIELDS, *_BANDS) if frequencies else _FIELDS
    for number, (row, reference) in enumerate(_rows(store, fields)):
        tell(number, len(store))
        try:
            _add(store, row, reference, found, mesh if frequencies else None)
        except StoreError as error:
            found.left_out.append(LeftOut(row["id"], row["name"], "not as stored", str(error)))
    return found


def _rows(
    store: Store, fields: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Yield each crystal's row with the row of its reference, where there is one."""
    there = {path.rpartition("/")[2]: path for path in store.schema.by_path()}
    paths = [there[name] for name in fields if name in there]
    # One of every field: older stores lack some.
    missing = {f.name: f.missing for f in store.schema.by_path().values() if f.name in fields}
    ids = store.ids
    for first in range(0, len(ids), _TOGETHER):
        some = ids[first : first + _TOGETHER]
        keys = [f"{key}{AGAIN}{REFERENCE}" for key in some]
        keys = [key for key in keys if key in store.versions(key.partition(AGAIN)[0])]
        references = {row["id"]: row for row in store[keys].rows(paths)} if keys else {}
        for row in store[some].rows(paths):
            yield missing | row, references.get(f"{row['id']}{AGAIN}{REFERENCE}")


def _add(
    store: Store,
    row: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
    found: Compared,
    mesh: Sequence[float] | None,
) -> None:
    """Add one crystal to what was found; without a mesh, also an empty one, no frequencies.

    Raises
    ------
    StoreError
        If its values do not go together.
    """
    key, name, status = row["id"], row["name"], row["status"]
    if status != DONE:
        found.left_out.append(LeftOut(key, name, _kind(status, row["reason"]), row["reason"]))
        return
    known = reference if reference is not None and reference["status"] == DONE else None
    temperatures = [float(t) for t in store.settings.get("temperatures", ())]
    with as_stored(row):
        composition, natoms = _reduced(row["numbers"]), len(row["p2s_map"])
        potential = values_of(row, temperatures)
        theirs = label_of(row) if known is None else values_of(known, temperatures)
        number = int(row["spacegroup_number"])
    found.phases.append(Phase(key, name, composition, number, natoms, potential, theirs))
    if theirs is None:
        kind = NO_REFERENCE if reference is None else f"{NO_REFERENCE}: it has no phonons"
        why = "neither a row nor values of its source" if reference is None else reference["reason"]
        found.left_out.append(LeftOut(key, name, kind, why))
        return
    sums: dict[str, Array] = {}
    problem = "the reference has single values only"
    if known is not None and mesh is None:
        number = int(known["spacegroup_number"])
    elif known is not None and mesh is not None:
        sums, problem = _frequencies(store, row, known, found.histogram, mesh)
        number = int(known["spacegroup_number"])
    found.pairs.append(
        Pair(
            key,
            name,
            row["formula"],
            tuple(elements_of(row["formula"])),
            composition,
            natoms,
            crystal_system(number),
            potential,
            theirs,
            sums,
            problem,
        )
    )


def _kind(status: str, reason: str) -> str:
    """Return why a crystal has no phonons, in a few words that can be counted."""
    kind, _, what = (part.strip() for part in reason.partition(":"))
    if kind == REFERENCE:
        # It is not the potential that failed.
        return f"{NO_REFERENCE}: {what.partition(':')[0]}"
    return f"{status}: {kind or 'unknown'}"


def _frequencies(
    store: Store,
    row: Mapping[str, Any],
    reference: Mapping[str, Any],
    histogram: FrequencyHistogram,
    mesh: Sequence[float],
) -> tuple[dict[str, Array], str]:
    """Return the sums over the modes, and why there are none."""
    same_cell = row["primitive_matrix"].shape == reference[
        "primitive_matrix"
    ].shape and np.allclose(row["primitive_matrix"], reference["primitive_matrix"], atol=_SAME_Q)
    if not same_cell or len(row["p2s_map"]) != len(reference["p2s_map"]):
        return {}, OTHER_CELL
    try:
        with as_stored(row):
            theirs = _by_q(reference, "band")
            ours = potential_at(store, row, reference)
            sums = sums_by_modes(ours, theirs)
            sums[COMMENSURATE] = _at_commensurate(row, reference)
    except HpcbenchError as error:
        return {}, str(error)
    # Of sides whose meshes have other q there are no frequencies over the zone.
    with contextlib.suppress(HpcbenchError):
        if mesh:
            sums[ZONE] = _over_zone(store, row, reference, mesh)
    if not all(np.isfinite(values).all() for values in sums.values()):
        return {}, "not all frequencies are finite"
    histogram.add(ours, theirs)
    return sums, ""


def potential_at(store: Store, row: Mapping[str, Any], reference: Mapping[str, Any]) -> Array:
    """Return the potential's frequencies at the q of the reference's band path, in THz.

    Where the path of the potential's own relaxed crystal has other q, they are computed from its
    force constants.

    Parameters
    ----------
    store : Store
        The store of both rows.
    row, reference : mapping
        Of the crystal and of its reference.

    Returns
    -------
    ndarray, shape (nq, nbands)

    Raises
    ------
    StoreError
        If the crystal has no force constants, and needs them.
    """
    qpoints = np.asarray(reference["band_qpoints"])
    own = np.asarray(row["band_qpoints"])
    if own.shape == qpoints.shape and np.allclose(own, qpoints, atol=_SAME_Q):
        return _by_q(row, "band")
    with warnings.catch_warnings():
        # Of supercells of less symmetry than the crystal, as in the run.
        warnings.simplefilter("ignore")
        phonon = store.phonopy(row["id"])
        found = frequencies_on_path(phonon, qpoints, reference["band_segments"])
    return np.sort(found.frequencies, axis=1)


def _at_commensurate(row: Mapping[str, Any], reference: Mapping[str, Any]) -> Array:
    """Return the sums at commensurate q; of no modes, where the supercells differ."""
    ours, theirs = (np.asarray(one["commensurate_qpoints"]) for one in (row, reference))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=_SAME_Q):
        return np.zeros(6)
    return sums_of(_by_q(row, "commensurate"), _by_q(reference, "commensurate"))


def _over_zone(
    store: Store, row: Mapping[str, Any], reference: Mapping[str, Any], mesh: Sequence[float]
) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential, other = (store.phonopy(one["id"]) for one in (row, reference))
        return zone_errors(potential, other, mesh).sums


def _by_q(row: Mapping[str, Any], place: str) -> Array:
    frequencies = np.asarray(row[f"{place}_frequencies"], dtype=np.float64)
    return np.sort(frequencies.reshape(len(row[f"{place}_qpoints"]), -1), axis=1)


def _reduced(numbers: Any) -> str:
    """Return the reduced formula, in alphabetical order of the elements."""
    from ase.data import chemical_symbols

    kinds, counts = np.unique(np.asarray(numbers, dtype=np.int64), return_counts=True)
    if not len(kinds):
        return ""
    counts = counts // np.gcd.reduce(counts)
    parts = sorted(zip((chemical_symbols[kind] for kind in kinds), counts.tolist(), strict=True))
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in parts)
