"""What follows from a crystal's force constants, computed again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpcbench.criteria import PLACES, criteria_of
from hpcbench.phonons.calculate import PhononSettings, analyse_force_constants
from hpcbench.phonons.noise import Noise
from hpcbench.protocols import PROTOCOLS
from hpcbench.rank.tasks import phonon_columns, rounded_bands
from hpcbench.store.physics import phonopy_of
from hpcbench.store.schema import UNDETERMINED

FIT = frozenset(
    {
        "displacements", "largest_drift", "symmetrisation_change", "supercell_matrix",
        "primitive_matrix", "p2s_map", "force_constants", "displacement_atoms",
        "displacement_vectors", "within_noise", "force_noise",
        *(f"noise_{place}" for place in PLACES),
    }
)  # fmt: skip
"""Columns of phonons that come from forces, and do not follow from force constants."""


def columns_again(row: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Spectra, verdicts and thermal properties of a row, by the settings of its store.

    Raises
    ------
    HpcbenchError
        If phonopy cannot compute them, or orders the supercell otherwise.
    KeyError
        If the settings are not those of a run.
    """
    protocol = PROTOCOLS[settings["protocol"]]
    phonons = PhononSettings(
        protocol.primitive_matrix,
        settings["displacement"],
        settings["symprec"],
        settings["band_points"],
        tuple(settings["mesh"]),
        tuple(settings["temperatures"]),
        settings["cutoff_frequency"],
        criteria_of(settings),
    )
    phonon = phonopy_of(row, settings["symprec"])
    # An older store does not have it.
    noise = {place: float(row.get(f"noise_{place}", math.nan)) for place in PLACES}
    known = Noise(float(row.get("force_noise", math.nan)), noise, {})
    result = analyse_force_constants(phonon, phonons, known)
    columns = phonon_columns(result, settings["criterion"])
    if settings["criterion"] in row.get("within_noise", "").split(", "):
        columns["verdict"] = UNDETERMINED
    if not row.get("parent"):
        # The verdict of the computation again is in its own row.
        columns["again"] = ""
    columns["band_frequencies"] = rounded_bands(columns["band_frequencies"])
    return {name: value for name, value in columns.items() if name not in FIT}
