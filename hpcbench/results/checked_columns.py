"""Columns of a crystal after its interpolated frequencies were compared with computed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import BETWEEN_Q, EXACT, LONG_WAVES, column_of
from hpcbench.phonons.exact_q import STABLE, UNDETERMINED, UNSTABLE, AtQ, decide_checked
from hpcbench.phonons.modes import imaginary_modes
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.results.phonon_columns import Analysed, mode_columns

_SAME = 1e-6  # of q, in reciprocal lattice vectors


@dataclass(frozen=True, eq=False)
class Checked:
    """Comparison of interpolated with computed frequencies.

    Attributes
    ----------
    error : float
        Largest difference in THz.
    computed : tuple of AtQ
        The computed frequencies.
    cost : int
        Number of real columns of linear response.
    elastic : mapping
        The columns of elastic constants.
    """

    error: float
    computed: tuple[AtQ, ...]
    cost: int
    elastic: Mapping[str, Any]


def surely_below(columns: Mapping[str, Any], settings: PhononSettings) -> list[NDArray[np.float64]]:
    """Return the q at which a frequency below the threshold of ``exact-q`` was computed.

    Parameters
    ----------
    columns : mapping
        From :func:`checked_columns`.
    settings : PhononSettings
        With the exact criterion.

    Returns
    -------
    list of ndarray, shape (3,)
        In reciprocal lattice vectors.
    """
    (exact,) = (one for one in settings.criteria if one.name == EXACT)
    if columns[column_of(EXACT)] != UNSTABLE:
        return []
    found = [columns["min_q_commensurate"]] * (
        columns["min_frequency_commensurate"] < exact.threshold
    )
    qpoints = columns["computed_qpoints"]
    lowest = np.reshape(columns["computed_frequencies"], (len(qpoints), -1)).min(axis=1)
    return [
        *found,
        *(q for q, value in zip(qpoints, lowest, strict=True) if value < exact.threshold),
    ]


def checked_columns(
    columns: Mapping[str, Any],
    analysed: Analysed,
    checked: Checked,
    settings: PhononSettings,
    criterion: str,
) -> dict[str, Any]:
    """Return the columns of a row whose interpolated frequencies were checked.

    Parameters
    ----------
    columns : mapping
        From :func:`hpcbench.results.phonon_columns.phonon_columns`.
    analysed : Analysed
        The analysis that gave these columns.
    checked : Checked
        From :func:`hpcbench.engine.response_tasks.compare`.
    settings : PhononSettings
        With the exact criterion.
    criterion : str
        Name of the criterion that gives the verdict.
    """
    (exact,) = (one for one in settings.criteria if one.name == EXACT)
    column = column_of(EXACT)
    changed: dict[str, Any] = {}
    # Frequencies at other q do not change a verdict that is sure at the q of the supercell, or
    # that is open there for rounding, the length of displacements, or missing restoring forces.
    is_open = analysed.exact_cause in (BETWEEN_Q, LONG_WAVES)
    if is_open or columns[column] == STABLE:
        known = np.concatenate(
            [
                np.reshape(columns["commensurate_qpoints"], (-1, 3)),
                [one.mode.qpoint for one in checked.computed],
            ]
        )
        seen = all(is_among(columns[f"min_q_{place}"], known) for place in ("path", "mesh"))
        answer = decide_checked(
            analysed.suspicions, checked.computed, exact.threshold, lowest_seen=seen
        )
        below = [one for one in columns["within_noise"].split(", ") if one and one != EXACT]
        changed[column] = answer.verdict
        changed["within_noise"] = ", ".join([*below, *[EXACT] * bool(answer.cause)])
        if answer.verdict != UNDETERMINED:
            changed["open_regions"] = 0
        if criterion == EXACT:
            changed |= {"verdict": answer.verdict, "cause": answer.cause}
    if criterion == EXACT:
        lowest = min(one.mode.frequency for one in checked.computed)
        changed["margin"] = min(columns["margin"], lowest - exact.threshold)
    modes = mode_columns(imaginary_modes([one.mode for one in checked.computed]))
    return {
        **columns,
        **changed,
        "interpolation_error": checked.error,
        "response_columns": columns.get("response_columns", 0) + checked.cost,
        **checked.elastic,
        "computed_qpoints": [one.mode.qpoint for one in checked.computed],
        "computed_frequencies": np.concatenate([one.frequencies for one in checked.computed]),
        "computed_supercells": [one.supercell_matrix for one in checked.computed],
        **{name: [*columns[name], *values] for name, values in modes.items()},
    }


def is_among(qpoint: NDArray[np.float64], known: NDArray[np.float64]) -> bool:
    """Tell whether a q equals one of several, up to a reciprocal lattice vector.

    Parameters
    ----------
    qpoint : ndarray, shape (3,)
        In reciprocal lattice vectors.
    known : ndarray, shape (nq, 3)
        In reciprocal lattice vectors.
    """
    apart = known - qpoint
    return bool((np.abs(apart - np.rint(apart)).max(axis=1) < _SAME).any())
