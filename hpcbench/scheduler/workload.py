"""What a launch may do with crystals instead of computing their phonons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from hpcbench.crystal import Crystal
from hpcbench.engine.pipeline import Workflow
from hpcbench.planning.costs import CostModel
from hpcbench.planning.crystal_list import Record
from hpcbench.potentials.protocol import Potential


class Workload(Protocol):
    """A task that crystals are leased for, as a reanalysis is (``maintenance/reanalysis.py``)."""

    @property
    def result_settings(self) -> Mapping[str, Any]:
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

    def way(self, crystal: Crystal) -> Workflow:
        """The way of a crystal, to its rows."""
        ...
