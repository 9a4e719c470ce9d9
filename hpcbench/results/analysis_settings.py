"""Settings of the analysis of forces, from those of a run."""

from __future__ import annotations

from hpcbench.config import RunConfig
from hpcbench.criteria import criteria_of
from hpcbench.phonons.calculate import PhononSettings
from hpcbench.protocols import Protocol
from hpcbench.results.phonon_columns import Keep


def phonon_settings(config: RunConfig, protocol: Protocol | None = None) -> PhononSettings:
    """Return the settings that phonons depend on.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    protocol : Protocol, optional
        Another one than the run's.
    """
    protocol = protocol or config.protocol_definition
    return PhononSettings(
        primitive_matrix=protocol.primitive_matrix,
        displacement=config.displacement,
        symprec=config.symprec,
        band_points=config.band_points,
        mesh=config.mesh,
        temperatures=config.temperatures,
        cutoff_frequency=config.cutoff_frequency,
        criteria=criteria_of({"criteria": config.criteria}),
        literal=protocol.literal,
        most_denominator=config.q_denominator,
        most_qpoints=config.q_checks,
    )


def analysis_settings(
    config: RunConfig, protocol: Protocol | None = None
) -> tuple[PhononSettings, str, Keep]:
    """Return how forces are analysed.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    protocol : Protocol, optional
        Another one than the run's: that which a run computes beside its own.

    Returns
    -------
    PhononSettings
    str
        Name of the criterion whose answer is the verdict.
    Keep
        What of the results is stored.
    """
    keep = Keep(config.keep_forces, config.band_dtype, config.keep_dos)
    criterion = str(config.criterion) if protocol is None else protocol.criterion
    return phonon_settings(config, protocol), criterion, keep
