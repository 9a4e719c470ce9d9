"""The interface of tasks that a launch may do in place of computing phonons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from hpcbench.crystal import Crystal
from hpcbench.engine.pipeline import Workflow
from hpcbench.planning.costs import CostModel
from hpcbench.planning.crystal_list import Record
from hpcbench.potentials.protocol import Potential


class Workload(Protocol):
    """A task for which crystals are leased, as a reanalysis (``maintenance/reanalysis.py``)."""

    @property
    def result_settings(self) -> Mapping[str, Any]:
        """The settings that determine the results."""
        ...

    @property
    def potential(self) -> Potential:
        """A placeholder for a potential."""
        ...

    @property
    def rates(self) -> CostModel:
        """Predicts the seconds that a crystal takes."""
        ...

    def records(self) -> Iterable[Record]:
        """Return the crystals."""
        ...

    def way(self, crystal: Crystal) -> Workflow:
        """Return the workflow of a crystal, which ends with its rows."""
        ...
