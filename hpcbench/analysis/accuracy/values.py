"""Read the values that the tables compare, of one row of a store or of a label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcbench.criteria import CRITERIA, column_of
from hpcbench.protocols import LEE_XIA, LOEW
from hpcbench.references import values as references

RULES = (LOEW, LEE_XIA)
"""Criteria by which stability is compared."""
_LOWEST = {one.name: one.threshold for one in CRITERIA}[LEE_XIA]
_STABLE = {"stable": True, "unstable": False}
THERMAL = ("free_energy", "entropy", "heat_capacity")


@dataclass(frozen=True)
class Values:
    """Values of one side of a comparison; NaN, or ``None``, where they are not known.

    Attributes
    ----------
    natoms : int
        Atoms of the primitive cell.
    energy, volume : float
        Of the relaxed crystal, in eV and A^3 per atom.
    highest : float
        Highest frequency at the q commensurate with the supercell, in THz.
    anywhere : float
        Highest frequency anywhere, in THz: on path, mesh, and at commensurate q.
    lowest : float
        Lowest frequency on the band path, in THz.
    stable : mapping of str to bool or None
        By the criteria ``RULES``; ``None`` also where it is undetermined.
    thermal : mapping of str to mapping of float to float
        ``free_energy`` (kJ/mol), ``entropy`` and ``heat_capacity`` (J/K/mol) of the primitive cell,
        by temperature in K.
    """

    natoms: int
    energy: float = math.nan
    volume: float = math.nan
    highest: float = math.nan
    anywhere: float = math.nan
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
    return Values(
        natoms=len(row["p2s_map"]),
        energy=float(row["energy"]) / natoms,
        volume=abs(float(np.linalg.det(row["relaxed_cell"]))) / natoms,
        highest=float(commensurate.max()) if commensurate.size else math.nan,
        anywhere=float(row["max_frequency"]),
        lowest=float(row["min_frequency_path"]),
        stable={rule: _STABLE.get(str(row.get(column_of(rule)))) for rule in RULES},
        thermal={
            name: dict(zip(temperatures, map(float, row[name]), strict=False)) for name in THERMAL
        },
    )


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
    natoms, lowest = len(row["p2s_map"]), label.min_frequency
    heat = label.heat_capacity * natoms
    return Values(
        natoms=natoms,
        # Of a path or a dense mesh: no commensurate q.
        anywhere=label.max_frequency,
        lowest=lowest,
        stable={LEE_XIA: lowest >= _LOWEST if math.isfinite(lowest) else None},
        thermal={"heat_capacity": {label.temperature: heat}} if math.isfinite(heat) else {},
    )
