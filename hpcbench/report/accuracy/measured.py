"""The statistics of a store's crystals that tables and figures share."""

from __future__ import annotations

from dataclasses import dataclass

from hpcbench.analysis.accuracy.confusion import Confusion, confusion
from hpcbench.analysis.accuracy.frequencies import (
    FrequencyErrors,
    frequency_errors,
)
from hpcbench.analysis.accuracy.groups import (
    GroupErrors,
    errors_by_crystal_system,
    errors_by_element,
    errors_by_size,
)
from hpcbench.analysis.accuracy.pairs import Compared, Pair
from hpcbench.analysis.accuracy.quantities import (
    QUANTITIES,
    Errors,
    errors_of,
)
from hpcbench.analysis.accuracy.spectra import ALL, COMMENSURATE, OTHERS, THREE_LOWEST, ZONE
from hpcbench.protocols import LEE_XIA, LOEW

MODES = {
    ALL: "all, on the band path",
    THREE_LOWEST: "three lowest branches",
    OTHERS: "the other branches",
    COMMENSURATE: "at commensurate q",
    ZONE: "all, on a mesh of the zone",
}
"""Sets of modes in words."""
INTERVALS = "Below each number: its 95 % interval, from 2,000 bootstrap draws of crystals."


GROUPS = {
    "crystal system": "By crystal system",
    "atoms": "By atoms of the primitive cell",
    "element": "By element",
}
"""Kinds of groups, and the titles of their tables."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The statistics of one store's crystals.

    Attributes
    ----------
    compared : Compared
        The crystals.
    errors : dict of str to Errors
        By the key of the quantity.
    frequencies : dict of str to FrequencyErrors
        By the set of modes.
    confusions : dict of str to Confusion
        By the rule of stability.
    groups : dict of str to list of GroupErrors
        ``element``, ``crystal system``, ``atoms``.
    """

    compared: Compared
    errors: dict[str, Errors]
    frequencies: dict[str, FrequencyErrors]
    confusions: dict[str, Confusion]
    groups: dict[str, list[GroupErrors]]

    @property
    def label(self) -> str:
        """The potential."""
        return self.compared.label

    @property
    def pairs(self) -> list[Pair]:
        """Its crystals with their references."""
        return self.compared.pairs


def measure(compared: Compared) -> Measured:
    """Return the statistics of a store's crystals."""
    return Measured(
        compared,
        {quantity.key: errors_of(compared, quantity) for quantity in QUANTITIES},
        {modes: frequency_errors(compared.pairs, modes) for modes in MODES},
        {rule: confusion(compared, rule) for rule in (LOEW, LEE_XIA)},
        {
            "crystal system": errors_by_crystal_system(compared.pairs),
            "atoms": errors_by_size(compared.pairs),
            "element": errors_by_element(compared.pairs),
        },
    )
