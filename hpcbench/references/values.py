"""Values of references that come without force constants: labels in tables and in JSON files.

A source keeps them as columns of a crystal's origin, under the names that it has for them.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import _e, _Nav

from hpcbench.crystal import Crystal
from hpcbench.origin import Origin, origins_from_json

ROOM_TEMPERATURE = 300.0
"""Temperature in K of heat capacities whose source names none."""
MATERIAL = "mp_id"
"""Name of the column by which tables beside a file of crystals name these."""
HEAT_CAPACITY = "heat_capacity"
"""Name of the column of C_V at ``ROOM_TEMPERATURE``, in J/K for a mole of cells as given."""
# The column by source: of ffonons' table of phononDB, of matcalc's data set, and of others.
_COLUMNS = {
    "phonondb_min_freq_thz": "min_frequency",
    "phonondb_max_freq_thz": "max_frequency",
    "min_freq_thz": "min_frequency",
    "max_freq_thz": "max_frequency",
    "min_frequency": "min_frequency",
    "max_frequency": "max_frequency",
    HEAT_CAPACITY: "heat_capacity",
}
COLUMNS = (*_COLUMNS, MATERIAL)
"""Names of the labels that sources carry along for references."""
# k_SRME's file of phononDB's binaries, which lies beside their structures.
_KAPPA_TABLES = "kappas*.json*"


@dataclass(frozen=True)
class ReferenceValues:
    """Values of a reference without force constants; NaN where it has none.

    Attributes
    ----------
    min_frequency, max_frequency : float
        In THz; at which q depends on the source.
    heat_capacity : float
        C_V in J/K for a mole of atoms, at ``temperature``.
    temperature : float
        In K.
    """

    min_frequency: float = math.nan
    max_frequency: float = math.nan
    heat_capacity: float = math.nan
    temperature: float = ROOM_TEMPERATURE

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to compare with."""
        return all(
            math.isnan(getattr(self, one.name)) for one in fields(self) if one.name != "temperature"
        )


def values_of(row: Mapping[str, Any]) -> ReferenceValues:
    """Return the values that the reference of a crystal has, whatever its source calls them.

    Where several origins have a value, the first counts.

    Parameters
    ----------
    row : mapping
        Of a store: ``origins`` and ``natoms``.

    Raises
    ------
    StoreError
        If the origins are malformed.
    """
    return values_in(origins_from_json(row["origins"]), int(row["natoms"]))


def values_in(origins: Iterable[Origin], natoms: int) -> ReferenceValues:
    """Return the values that the origins of a crystal carry.

    Parameters
    ----------
    origins : iterable of Origin
        Of the crystal.
    natoms : int
        Atoms of the cell as given, to which matcalc's heat capacities belong.
    """
    found: dict[str, float] = {}
    for origin in origins:
        for name, value in origin.columns:
            quantity = _COLUMNS.get(name, "")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not quantity or not is_number or not math.isfinite(value):
                continue
            scale = natoms if name == HEAT_CAPACITY else 1
            found.setdefault(quantity, float(value) / scale)
    return ReferenceValues(**found)


def with_values_beside(crystal: Crystal) -> Crystal:
    """Return a crystal with the values that a table beside its file has of it.

    Known is the table of k_SRME (``kappas_phononDB_PBE_noNAC.json.gz``): by material, frequencies
    in THz and heat capacities in eV/K of all modes at the irreducible q of a mesh.

    Parameters
    ----------
    crystal : Crystal
        As it was read, its material among the columns of its origins.
    """
    origins = tuple(_completed(origin, crystal.natoms) for origin in crystal.origins)
    return crystal if origins == crystal.origins else crystal.with_origins(origins)


def _completed(origin: Origin, natoms: int) -> Origin:
    said = dict(origin.columns)
    if MATERIAL not in said or "::" in origin.file:
        return origin
    more = _table_beside(str(Path(origin.file).parent)).get(str(said[MATERIAL]), {})
    if HEAT_CAPACITY in more:
        more = {**more, HEAT_CAPACITY: more[HEAT_CAPACITY] * natoms}
    new = tuple((name, value) for name, value in more.items() if name not in said)
    return replace(origin, columns=(*origin.columns, *new))


@functools.lru_cache(maxsize=4)
def _table_beside(folder: str) -> dict[str, dict[str, float]]:
    """Return the values of each material in a folder's tables, the heat capacity of an atom.

    A table that cannot be read has none.
    """
    found: dict[str, dict[str, float]] = {}
    for path in sorted(Path(folder).glob(_KAPPA_TABLES)):
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            found |= _of_modes(json.loads(content))
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue
    return found


def _of_modes(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return lowest and highest frequency, and heat capacity of an atom, from irreducible q."""
    values: dict[str, dict[str, float]] = {}
    for key, material in table[MATERIAL].items():
        frequencies = np.asarray(table["frequencies"][key], dtype=np.float64)
        weights = np.asarray(table["weights"][key], dtype=np.float64)
        temperatures = np.asarray(table["temperatures"][key], dtype=np.float64)
        values[material] = {
            "min_frequency": float(frequencies.min()),
            "max_frequency": float(frequencies.max()),
        }
        at = np.flatnonzero(temperatures == ROOM_TEMPERATURE)
        if len(at):
            modes = np.asarray(table["heat_capacity"][key], dtype=np.float64)[at[0]]
            natoms = frequencies.shape[1] / 3
            total = float(weights @ modes.sum(axis=1) / weights.sum())
            values[material][HEAT_CAPACITY] = total * _e * _Nav / natoms
    return values
