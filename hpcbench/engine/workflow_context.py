"""By which settings the crystals of a rank are computed."""

from __future__ import annotations

from dataclasses import dataclass

from hpcbench.config import RunConfig
from hpcbench.criteria import criteria_of
from hpcbench.engine.phonon_columns import Keep
from hpcbench.engine.rows import provenance_of
from hpcbench.phonons.calculate import PhononSettings
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.protocols import Protocol


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


def phonon_settings(config: RunConfig, protocol: Protocol | None = None) -> PhononSettings:
    """Return the settings that phonons depend on, by the run's protocol or another one."""
    protocol = protocol or config.protocol_definition
    return PhononSettings(
        protocol.primitive_matrix,
        config.displacement,
        config.symprec,
        config.band_points,
        config.mesh,
        config.temperatures,
        config.cutoff_frequency,
        criteria_of({"criteria": config.criteria}),
        protocol.literal,
        config.q_denominator,
        config.q_checks,
    )


def analysis_settings(
    context: WorkflowContext, protocol: Protocol | None = None
) -> tuple[PhononSettings, str, Keep]:
    """Return how forces are analysed, by the run's protocol or the one beside it."""
    config = context.config
    keep = Keep(config.keep_forces, config.band_dtype, config.keep_dos)
    criterion = str(config.criterion) if protocol is None else protocol.criterion
    return phonon_settings(config, protocol), criterion, keep
