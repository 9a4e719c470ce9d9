"""What a launch may do with crystals instead of computing their phonons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from hpcbench.crystal import Crystal
from hpcbench.planning.costs import CostModel
from hpcbench.planning.listing import Record
from hpcbench.potentials.protocol import Potential
from hpcbench.rank.pipeline import Journey


class Instead(Protocol):
    """A task that crystals are leased for, as a reanalysis is (``upkeep/reanalysis.py``)."""

    @property
    def deciding(self) -> Mapping[str, Any]:
        """What decides the results."""
        ...

    @property
    def potential(self) -> Potential:
        """Stands for one."""
        ...

    @property
    def rates(self) -> CostModel:
        """How long it takes, about."""
        ...

    def records(self) -> Iterable[Record]:
        """The crystals."""
        ...

    def way(self, crystal: Crystal) -> Journey:
        """The way of a crystal, to its rows."""
        ...
