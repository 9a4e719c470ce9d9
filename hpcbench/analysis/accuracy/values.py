"""Read the values that the tables compare, of one row of a store or of a label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcbench.criteria import KELVIN_PER_TERAHERTZ, NO_FORCE
from hpcbench.phonons.stability import is_gamma
from hpcbench.references import values as references

LOEW, LEE_XIA = "loew", "lee-xia"
"""Rules of stability."""
LOEW_GAMMA = -50.0 / KELVIN_PER_TERAHERTZ
"""In THz: down to this the acoustic modes at Gamma may be (Loew et al., section II B)."""
LEE_XIA_LOWEST = -0.5
"""In THz: with a lower frequency a crystal is unstable (Lee and Xia, section III C)."""
THERMAL = ("free_energy", "entropy", "heat_capacity")


@dataclass(frozen=True)
class Values:
    """Values of one side of a comparison; NaN, or ``None``, where they are not known.

    Attributes
    ----------
    energy, volume : float
        Of the relaxed crystal, in eV and A^3 per atom.
    highest : float
        Highest frequency at the q commensurate with the supercell, in THz.
    lowest : float
        Lowest frequency on the band path, in THz.
    stable : mapping of str to bool or None
        By rule, ``LOEW`` and ``LEE_XIA``.
    thermal : mapping of str to mapping of float to float
        ``free_energy`` (kJ/mol), ``entropy`` and ``heat_capacity`` (J/K/mol) of the primitive cell,
        by temperature in K.
    """

    energy: float = math.nan
    volume: float = math.nan
    highest: float = math.nan
    lowest: float = math.nan
    stable: Mapping[str, bool | None] = field(default_factory=dict)
    thermal: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def at(self, name: str, temperature: float) -> float:
        """Return a thermal property; NaN if it is not known.

        Parameters
        ----------
        name : str
            One of ``THERMAL``.
        temperature : float
            In K.
        """
        return self.thermal.get(name, {}).get(temperature, math.nan)


def values_of(row: Mapping[str, Any], temperatures: Sequence[float]) -> Values:
    """Return the values of a row that is done.

    Parameters
    ----------
    row : mapping
        By field name.
    temperatures : sequence of float
        Those of the store's settings, in K.
    """
    natoms = max(len(row["numbers"]), 1)
    commensurate = np.asarray(row["commensurate_frequencies"], dtype=np.float64)
    lowest = float(row["min_frequency_path"])
    # What nothing holds together has zeros, which are no answer.
    is_held = not str(row.get("cause", "")).startswith(NO_FORCE)
    return Values(
        energy=float(row["energy"]) / natoms,
        volume=abs(float(np.linalg.det(row["relaxed_cell"]))) / natoms,
        highest=float(commensurate.max()) if commensurate.size else math.nan,
        lowest=lowest,
        stable={
            LOEW: _is_stable_by_loew(row, commensurate) if is_held else None,
            LEE_XIA: (lowest >= LEE_XIA_LOWEST) if is_held and math.isfinite(lowest) else None,
        },
        thermal={
            name: dict(zip(temperatures, map(float, row[name]), strict=False)) for name in THERMAL
        },
    )


def _is_stable_by_loew(row: Mapping[str, Any], commensurate: Any) -> bool | None:
    """Tell whether no mode at a commensurate q is imaginary, but for acoustic ones at Gamma."""
    acoustic, optical = float(row["gamma_acoustic"]), float(row["gamma_optical"])
    if not commensurate.size or math.isnan(acoustic):
        return None
    qpoints = np.asarray(row["commensurate_qpoints"])
    branches = commensurate.reshape(len(qpoints), -1)
    elsewhere = branches[~is_gamma(qpoints)]
    # A cell of one atom has no optical modes, and NaN for the lowest of them.
    return acoustic >= LOEW_GAMMA and not optical < 0.0 and not bool((elsewhere < 0.0).any())


def label_of(row: Mapping[str, Any]) -> Values | None:
    """Return the reference that a crystal's source gives as numbers; ``None`` if it gives none.

    Heat capacities become those of the primitive cell, as a row has them.

    Parameters
    ----------
    row : mapping
        With its ``origins``, ``natoms`` and ``p2s_map``.

    Raises
    ------
    StoreError
        If the origins are malformed.
    """
    label = references.values_of(row)
    if label.is_empty:
        return None
    lowest, heat = label.min_frequency, label.heat_capacity * len(row["p2s_map"])
    return Values(
        highest=label.max_frequency,
        lowest=lowest,
        stable={LEE_XIA: lowest >= LEE_XIA_LOWEST if math.isfinite(lowest) else None},
        thermal={"heat_capacity": {label.temperature: heat}} if math.isfinite(heat) else {},
    )
