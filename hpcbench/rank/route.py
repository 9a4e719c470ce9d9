"""By which settings the crystals of a rank are computed."""

from __future__ import annotations

from hpcbench.config import RunConfig
from hpcbench.criteria import criteria_of
from hpcbench.phonons.calculate import PhononSettings
from hpcbench.protocols import Protocol


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
