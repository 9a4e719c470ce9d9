"""Settings of the analysis of forces, taken from those of a run."""

from __future__ import annotations

from hpcbench.config import RunConfig
from hpcbench.criteria import criteria_of
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.protocols import Protocol
from hpcbench.results.phonon_columns import Keep


def phonon_settings(config: RunConfig, protocol: Protocol | None = None) -> PhononSettings:
    """Return the settings that phonons depend on.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    protocol : Protocol, optional
        Another protocol than the run's.
    """
    protocol = protocol or config.protocol_definition
    assert config.mesh is not None, "settings are resolved before a run"
    assert config.cutoff_frequency is not None, "settings are resolved before a run"
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
    """Return the settings of the analysis of forces.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    protocol : Protocol, optional
        Another protocol than the run's: the one that is computed beside it.

    Returns
    -------
    settings : PhononSettings
        Settings that phonons depend on.
    criterion : str
        Name of the criterion that gives the verdict.
    keep : Keep
        Results to store.
    """
    keep = Keep(config.keep_forces, config.band_dtype, config.keep_dos)
    criterion = str(config.criterion) if protocol is None else protocol.criterion
    return phonon_settings(config, protocol), criterion, keep
