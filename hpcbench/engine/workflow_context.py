"""Settings with which a rank computes its crystals."""

from __future__ import annotations

from dataclasses import dataclass

from hpcbench.config import RunConfig
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.results.rows import provenance_of


@dataclass(frozen=True)
class WorkflowContext:
    """Settings that all workflows of a rank share.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    info : PotentialInfo
        Description of the potential.
    rank : int
        Number of this rank.
    provenance : str
        Provenance as written into each row.
    has_double : bool
        Whether the run is in single precision, and the potential can be loaded in double.
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
        """Return the context of a rank.

        Parameters
        ----------
        config : RunConfig
            Resolved settings.
        info : PotentialInfo
            Description of the potential.
        rank : int
            Number of this rank.
        has_double : bool
            Whether double precision can be used besides.
        """
        return cls(config, info, rank, provenance_of(info), has_double)
