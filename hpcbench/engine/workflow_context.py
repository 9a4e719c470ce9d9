"""By which settings the crystals of a rank are computed."""

from __future__ import annotations

from dataclasses import dataclass

from hpcbench.config import RunConfig
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.results.rows import provenance_of


@dataclass(frozen=True)
class WorkflowContext:
    """What all crystals of a rank have in common on their way.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    info : PotentialInfo
        Of the potential that computes them.
    rank : int
        Of this process.
    provenance : str
        As it is written into each row.
    has_double : bool
        Whether forces can be had in double precision, where the run is in single.
    """

    config: RunConfig
    info: PotentialInfo
    rank: int
    provenance: str
    has_double: bool = False

    @classmethod
    def of(
        cls, config: RunConfig, info: PotentialInfo, rank: int, *, has_double: bool = False
    ) -> WorkflowContext:
        """The route of a rank."""
        return cls(config, info, rank, provenance_of(info), has_double)
