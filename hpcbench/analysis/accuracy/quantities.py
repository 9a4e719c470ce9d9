"""The quantities of the tables, and their errors over the crystals of a store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpcbench.analysis.accuracy.pairs import Compared, Pair
from hpcbench.analysis.accuracy.statistics import (
    Array,
    Estimate,
    determination,
    estimate,
    ratio,
    root_ratio,
)
from hpcbench.analysis.accuracy.values import Values
from hpcbench.criteria import KELVIN_PER_TERAHERTZ

MEV_PER_KJ_MOL = 10.364269656
"""In meV for each kJ/mol: 1e6 over the Faraday constant of CODATA 2018, 96485.33212 C/mol."""
FULL = "full"
"""The value of ``relax`` with which the cell is relaxed."""
OTHER_CELL = "the primitive cells are not the same"
OTHER_ZERO = 2.0
"""In eV/atom: energies that differ by more are not from one zero of energy, as those of another
code or of other pseudopotentials. CHGNet's corrected energies are 0.33 from PBE's."""


@dataclass(frozen=True)
class Quantity:
    """A quantity that both sides of a pair have.

    Attributes
    ----------
    key : str
        Its name for programs.
    title, unit : str
        For people.
    value : callable
        Takes one side's values; returns NaN where it is not known.
    digits : int
        Decimals of its errors in a table.
    of_cell : bool
        Whether it is of the primitive cell as a whole.
    """

    key: str
    title: str
    unit: str
    value: Callable[[Values], float]
    digits: int = 1
    of_cell: bool = False


def _of_cell(key: str, title: str, unit: str, name: str, temperature: float) -> Quantity:
    """Return a thermal property of the primitive cell."""
    return Quantity(key, title, unit, lambda side: side.at(name, temperature), 2, of_cell=True)


def _free_energy(temperature: float) -> Callable[[Values], float]:
    return lambda values: (
        values.at("free_energy", temperature) * MEV_PER_KJ_MOL / max(values.natoms, 1)
    )


ENERGY = Quantity("energy", "E", "meV/atom", lambda values: 1000 * values.energy)
VOLUME = Quantity("volume", "V", "Å³/atom", lambda values: values.volume, 3)
HIGHEST = Quantity(
    "highest_frequency",
    "highest frequency",
    "K",
    lambda values: KELVIN_PER_TERAHERTZ * values.highest,
)
ANYWHERE = Quantity(
    "highest_frequency_anywhere",
    "highest frequency anywhere",
    "K",
    lambda values: KELVIN_PER_TERAHERTZ * values.anywhere,
)
"""On path, mesh and commensurate q: what labels of others are compared with, whose q are not
known."""
LOWEST = Quantity("lowest_frequency", "lowest frequency", "THz", lambda values: values.lowest, 3)
LOEW_TABLE_1 = (ENERGY, VOLUME)
LOEW_TABLE_2 = (
    HIGHEST,
    _of_cell("entropy_300K", "S", "J/K/mol", "entropy", 300.0),
    _of_cell("free_energy_300K", "F", "kJ/mol", "free_energy", 300.0),
    _of_cell("heat_capacity_300K", "C_V", "J/K/mol", "heat_capacity", 300.0),
)
"""As Loew et al. (Table II) take them: of a mole of primitive cells, as phonopy gives them."""
LEE_XIA_THERMAL = (
    Quantity("A_vib_300K", "A_vib, 300 K", "meV/atom", _free_energy(300.0), 2),
    Quantity("A_vib_1000K", "A_vib, 1000 K", "meV/atom", _free_energy(1000.0), 2),
    _of_cell("C_V_300K", "C_V, 300 K", "J/K/mol", "heat_capacity", 300.0),
    _of_cell("C_V_1000K", "C_V, 1000 K", "J/K/mol", "heat_capacity", 1000.0),
    _of_cell("S_vib_300K", "S_vib, 300 K", "J/K/mol", "entropy", 300.0),
    _of_cell("S_vib_1000K", "S_vib, 1000 K", "J/K/mol", "entropy", 1000.0),
)
"""As Lee and Xia (Figures 4 and 7): A_vib of an atom; C_V and S_vib of the primitive cell."""
QUANTITIES = (*LOEW_TABLE_1, *LOEW_TABLE_2, ANYWHERE, LOWEST, *LEE_XIA_THERMAL)


@dataclass(frozen=True, eq=False)
class Errors:
    """A quantity by the potential and by the reference, of all crystals for which both are known.

    Attributes
    ----------
    quantity : Quantity
        What it is.
    pairs : list of Pair
        The crystals.
    potential, reference : ndarray, shape (npairs,)
        In the quantity's unit.
    reasons : dict
        Number of crystals that are left out, by reason.
    """

    quantity: Quantity
    pairs: list[Pair]
    potential: Array
    reference: Array
    reasons: dict[str, int]

    @cached_property
    def errors(self) -> Array:
        """The potential's value minus the reference's."""
        return self.potential - self.reference

    @cached_property
    def mae(self) -> Estimate:
        """The mean absolute error."""
        return estimate(_with_ones(np.abs(self.errors)), ratio)

    @cached_property
    def mean(self) -> Estimate:
        """The mean error, whose sign says in which direction the potential errs."""
        return estimate(_with_ones(self.errors), ratio)

    @cached_property
    def rmse(self) -> Estimate:
        """The root mean square error."""
        return estimate(_with_ones(self.errors**2), root_ratio)

    @cached_property
    def r2(self) -> Estimate:
        """The coefficient of determination."""
        y = self.reference
        return estimate(np.stack([np.ones(len(y)), y, y**2, self.errors**2], axis=1), determination)


def _with_ones(values: Array) -> Array:
    return np.stack([values, np.ones(len(values))], axis=1)


def errors_of(compared: Compared, quantity: Quantity) -> Errors:
    """Return the values of a quantity, and count the crystals that are left out.

    Parameters
    ----------
    compared : Compared
        The crystals of a store.
    quantity : Quantity
        One of ``QUANTITIES``.
    """
    known, ours, theirs = [], [], []
    reasons: Counter[str] = Counter()
    is_relaxed = compared.settings.get("relax", FULL) == FULL
    for pair in compared.pairs:
        potential, reference = quantity.value(pair.potential), quantity.value(pair.reference)
        if reason := _problem(quantity, potential, reference):
            reasons[reason] += 1
        elif quantity is VOLUME and not is_relaxed:
            reasons["the cell was not relaxed"] += 1
        elif quantity.of_cell and pair.potential.natoms != pair.reference.natoms:
            reasons[OTHER_CELL] += 1
        else:
            known.append(pair)
            ours.append(potential)
            theirs.append(reference)
    return Errors(quantity, known, np.array(ours), np.array(theirs), dict(reasons.most_common()))


def _problem(quantity: Quantity, potential: float, reference: float) -> str:
    if not math.isfinite(reference):
        return "not known of the reference"
    if not math.isfinite(potential):
        return "not known of the potential"
    if quantity is ENERGY and abs(potential - reference) > 1000 * OTHER_ZERO:
        return "another zero of energy"
    return ""
