"""Analyse the force constants of a store again, with other settings."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench.config import RunConfig
from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.errors import EvaluationError, StoreError
from hpcbench.planning.costs import CostModel
from hpcbench.potentials.one_by_one import OneByOne
from hpcbench.potentials.protocol import Evaluation, PotentialInfo
from hpcbench.results.identity import crystal_of
from hpcbench.results.phonon_columns import Keep
from hpcbench.results.recompute import analyse_stored
from hpcbench.settings_hash import ANALYSING, REANALYSED, settings_hash
from hpcbench.store.fields import Origin
from hpcbench.store.reader import Store
from hpcbench.store.schema import REANALYSIS_OF, SET_ASIDE
from hpcbench.work_requests import ANALYSIS, OnCpu, Request

if TYPE_CHECKING:
    from ase import Atoms

# Of a rank, until it has measured its own pace: phonopy's work on a small and on a large cell.
RATES = CostModel(0.0, 0.0, 0.2, 2e-5, 2.0, where="phonopy's work on one core")


@dataclass(frozen=True)
class Reanalysis:
    """The analysis of a store with other settings, as a launch takes it.

    Attributes
    ----------
    parent : Path
        The store with the force constants.
    config : RunConfig
        Its settings, and those that are changed.
    result_settings : mapping
        What decides the results.
    """

    parent: Path
    config: RunConfig
    result_settings: Mapping[str, Any]

    @property
    def rates(self) -> CostModel:
        """Return how long it takes, about."""
        return RATES

    @property
    def potential(self) -> NoPotential:
        """Return what stands where a run has its potential."""
        return NoPotential(self.result_settings)

    def records(self) -> Iterator[Crystal]:
        """Yield the crystals of the store, as they were given.

        Those without a cell are left out, and those that the run was not asked for.
        """
        store = Store(self.parent)
        given = [
            path
            for path, field in store.schema.by_path().items()
            if field.origin is Origin.GIVEN or field.name in ("status", "supercell_matrix")
        ]
        for row in store.rows(given):
            if len(row["numbers"]) and row["status"] != SET_ASIDE:
                yield crystal_of({**row, "has_supercell": row["supercell_matrix"].any()})

    def way(self, crystal: Crystal) -> Generator[Request, Any, list[dict[str, Any]]]:
        """Compute a crystal as the work of a rank: its analysis alone."""
        keep = Keep(False, self.config.band_dtype, self.config.keep_dos)
        rows: list[dict[str, Any]] = yield OnCpu(
            ANALYSIS, analyse_stored, (self.parent, crystal.id, dict(self.result_settings), keep)
        )
        return rows


class NoPotential(OneByOne):
    """Has the name of the potential that the forces were from; nobody asks it for more."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.info = PotentialInfo(
            settings["model"], "", "", settings["weights_sha256"], settings["dtype"], "cpu", None
        )

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Raise an error: there is no potential.

        Parameters
        ----------
        structures, stress
            As of any potential.

        Raises
        ------
        EvaluationError
            Always.
        """
        raise EvaluationError("a reanalysis has no potential")


def reanalysis(
    parent: Path, flags: Mapping[str, Any], file: str | None, out: str | None = None
) -> Reanalysis:
    """Return what to do to analyse a store again.

    Parameters
    ----------
    parent : Path
        The store.
    flags : mapping
        Settings that are given; those that are ``None`` stay as they are.
    file : str or None
        A TOML file with settings.
    out : str, optional
        Where to write to; by default ``NAME.again.h5`` beside ``NAME.h5``.

    Raises
    ------
    ConfigError
        As :func:`hpcbench.config_loading.load_config`.
    StoreError
        If it is a reanalysis itself, or cannot be read.
    """
    settings = Store(parent).settings
    if REANALYSIS_OF in settings:
        raise StoreError(
            f"{parent} is a reanalysis itself: give the store that has the force constants"
        )
    known = {field.name for field in fields(RunConfig)}
    stored = {key: value for key, value in settings.items() if key in known}
    # What a file or the environment sets counts before the store's, and flags before those.
    plain, elsewhere = RunConfig().resolved(), load_config({}, file)
    given = {
        name: getattr(elsewhere, name)
        for name in REANALYSED
        if getattr(elsewhere, name) != getattr(plain, name)
    }
    given |= {key: value for key, value in flags.items() if value is not None}
    target = out or os.fspath(parent.with_suffix(f".again{parent.suffix}"))
    config = load_config({**stored, **given, "out": target, "report": False}, environment={})
    every = config.result_settings()
    result_settings = {key: value for key, value in settings.items() if key != "hash"}
    result_settings |= {key: every[key] for key in ANALYSING if key in every}
    result_settings[REANALYSIS_OF] = settings["hash"]
    result_settings["hash"] = settings_hash(result_settings)
    return Reanalysis(parent, config, result_settings)
