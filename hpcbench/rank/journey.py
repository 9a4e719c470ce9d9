"""The way of one crystal through the program, from its cell to its row in the store."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.errors import HpcbenchError, UnsuitableError
from hpcbench.phonons.supercells import full_matrix
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.rank.rows import done_row, provenance_of, row_again
from hpcbench.rank.tasks import (
    Displaced,
    Keep,
    analyse_forces,
    displace_supercell,
    phonon_settings,
)
from hpcbench.relaxation.relax import relaxation_requests
from hpcbench.requests import ForcesOn, OnCpu, Request
from hpcbench.store.schema import UNDETERMINED

DISPLACEMENTS, ANALYSIS = "displacements", "analysis"
"""Stages of the work on processor cores; that of the relaxation is ``symmetry``."""


@dataclass(frozen=True)
class Route:
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
    ) -> Route:
        """The route of a rank."""
        return cls(config, info, rank, provenance_of(info), has_double)

    def journey(self, crystal: Crystal) -> Generator[Request, Any, list[dict[str, Any]]]:
        """Relax a crystal, displace it, ask for forces, and analyse them.

        Where noise decides the verdict, forces are computed again in double precision.

        Yields requests, is sent their answers, and returns the crystal's row, without the
        seconds that it took; behind it that of the computation again.

        Raises
        ------
        CrystalError
            If the crystal cannot be computed, or an answer was an error.
        """
        config = self.config
        protocol = config.protocol_definition
        assert config.fmax is not None, "settings are resolved before a run"
        assert config.max_steps is not None, "settings are resolved before a run"
        _require_elements(crystal, self.info)
        supercell_matrix = _supercell_matrix(crystal, config)
        relaxation = yield from relaxation_requests(
            crystal.to_ase(),
            mode=config.relax,
            stages=protocol.stages(config.fmax, config.max_steps),
            symmetry_tolerance=config.symmetry_tolerance,
            pressure=config.pressure * GPa,
        )
        for complaint in relaxation.complaints:
            warnings.warn(complaint, stacklevel=1)
        settings = phonon_settings(config)
        displaced: Displaced = yield OnCpu(
            DISPLACEMENTS, displace_supercell, (relaxation.atoms, supercell_matrix, settings)
        )
        keep = Keep(config.keep_forces, config.band_dtype, config.keep_dos)
        forces: NDArray[np.float64] = yield ForcesOn(displaced.copies)
        how = settings, str(config.criterion), keep
        columns: dict[str, Any] = yield OnCpu(
            ANALYSIS, analyse_forces, (displaced.phonon, forces, *how)
        )
        row = done_row(crystal, relaxation, columns, self.rank, self.provenance)
        if row["verdict"] != UNDETERMINED or not self.has_double:
            return [row]
        try:
            forces = yield ForcesOn(displaced.copies, in_double=True)
            columns = yield OnCpu(ANALYSIS, analyse_forces, (displaced.phonon, forces, *how))
        except HpcbenchError as error:
            warnings.warn(f"not computed again in float64: {error}", stacklevel=1)
            return [row]
        again = row_again(row, columns, self.provenance)
        return [{**row, "verdict": again["verdict"], "again": again["again"]}, again]


def _require_elements(crystal: Crystal, info: PotentialInfo) -> None:
    if info.elements is None:
        return
    unknown = sorted({int(z) for z in crystal.numbers} - info.elements)
    if unknown:
        symbols = ", ".join(chemical_symbols[z] for z in unknown)
        raise UnsuitableError("unknown element", f"{info.name} does not know {symbols}")


def _supercell_matrix(crystal: Crystal, config: RunConfig) -> NDArray[np.int64]:
    if not isinstance(config.supercell, str):
        return full_matrix(config.supercell)
    if crystal.supercell_matrix is None:
        raise UnsuitableError(
            "no supercell", "its source names no supercell; give --supercell N N N"
        )
    return np.asarray(crystal.supercell_matrix, dtype=np.int64)
