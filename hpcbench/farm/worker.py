"""What a rank does with the crystals that it leases."""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.errors import (
    CrystalError,
    EvaluationError,
    PotentialError,
    StoreError,
    UnsuitableError,
)
from hpcbench.farm.events import EventLog
from hpcbench.farm.rows import done_row, failed_row, provenance_of, schema_of
from hpcbench.farm.stopping import StopRequested
from hpcbench.phonons.calculate import PhononSettings, analyse, prepare
from hpcbench.phonons.supercells import displaced_structures, full_matrix
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.selftest import self_test
from hpcbench.relaxation.relax import relax
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE


def phonon_settings(config: RunConfig) -> PhononSettings:
    """The part of a run's settings that phonons depend on."""
    return PhononSettings(
        config.protocol_definition.primitive_matrix,
        config.displacement,
        config.symprec,
        config.band_points,
        config.mesh,
        config.temperatures,
        config.cutoff_frequency,
    )


@dataclass(frozen=True)
class Worker:
    """Computes crystals, one rank's way: the potential and the folder are handed in.

    ``deciding`` are the deciding settings that are written into each segment.
    """

    config: RunConfig
    potential: Potential
    folder: RunFolder
    deciding: Mapping[str, Any]
    rank: int
    log: EventLog
    on_result: Callable[[Mapping[str, Any]], None] = lambda row: None

    def work(self, blocks: Iterable[Iterable[Crystal]]) -> bool:
        """Compute blocks of crystals and commit the results.

        Returns false if the run was asked to stop before the blocks ended. What was finished
        by then is committed.

        Raises
        ------
        StoreError
            If results cannot be written.
        """
        waiting: list[Mapping[str, Any]] = []
        committed = time.monotonic()
        finished = False
        problem: OSError | None = None
        try:
            for row in self._results(blocks):
                waiting.append(row)
                self.on_result(row)
                if time.monotonic() - committed > self.config.commit_interval:
                    self._commit(waiting)
                    waiting, committed = [], time.monotonic()
            finished = True
        except StopRequested:
            pass
        except OSError as error:
            # Of the run folder itself: no lease can be taken, or the list cannot be read.
            problem = error
        except BaseException:
            # Ctrl-C in a program that called hpcbench.run: nothing finished may be lost.
            self._commit(waiting)
            raise
        self._commit(waiting)
        if problem is not None:
            raise StoreError(
                f"{self.folder.path}: {problem}; what was computed is safe: mend this and give "
                f"the same command again"
            ) from problem
        return finished

    def _results(self, blocks: Iterable[Iterable[Crystal]]) -> Iterator[Mapping[str, Any]]:
        provenance = provenance_of(self.potential.info)
        last_good: Mapping[str, Any] | None = None
        for block in blocks:
            for crystal in block:
                start = time.monotonic()
                try:
                    with self._warnings_logged(crystal):
                        row = self._compute(crystal, provenance)
                except CrystalError as error:
                    row = failed_row(crystal, error, self.rank, provenance)
                except EvaluationError as error:
                    self.log.write("error", id=crystal.id, traceback=traceback.format_exc())
                    self._require_sound_potential(last_good, error)
                    problem = CrystalError("potential", str(error))
                    row = failed_row(crystal, problem, self.rank, provenance)
                except Exception as error:  # one crystal's accident must not end the run
                    self.log.write("error", id=crystal.id, traceback=traceback.format_exc())
                    problem = CrystalError("error", f"{type(error).__name__}: {error}")
                    row = failed_row(crystal, problem, self.rank, provenance)
                last_good = row if row["status"] == DONE else last_good
                self.log.write(
                    "crystal",
                    id=crystal.id,
                    name=crystal.name,
                    status=row["status"],
                    verdict=row.get("verdict", ""),
                    reason=row["reason"],
                    seconds=round(time.monotonic() - start, 3),
                )
                yield row

    def _require_sound_potential(
        self, last_good: Mapping[str, Any] | None, error: EvaluationError
    ) -> None:
        """Raise if the potential, not a crystal, is to blame for an error.

        A rank whose GPU is broken must not go through the list and fail it all.
        """
        if last_good is None:
            self_test(self.potential)
            return
        atoms = Atoms(
            numbers=last_good["numbers"],
            cell=last_good["relaxed_cell"],
            positions=last_good["relaxed_positions"],
            pbc=True,
        )
        try:
            self.potential.evaluate([atoms])
        except EvaluationError:
            name = self.potential.info.name
            raise PotentialError(
                f"{name} does not compute any more, not even {last_good['name']}, which it has "
                f"computed: {error}; what was computed is safe: give the same command again"
            ) from error

    @contextlib.contextmanager
    def _warnings_logged(self, crystal: Crystal) -> Iterator[None]:
        """Write what libraries warn of into the event log, with the crystal's id."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for message in sorted({f"{w.category.__name__}: {w.message}" for w in caught}):
            self.log.write("warning", id=crystal.id, message=message)

    def _compute(self, crystal: Crystal, provenance: str) -> Mapping[str, Any]:
        config = self.config
        self._require_elements(crystal)
        supercell_matrix = _supercell_matrix(crystal, config)
        protocol = config.protocol_definition
        assert config.fmax is not None, "settings are resolved before a run"
        assert config.max_steps is not None, "settings are resolved before a run"
        times = [time.monotonic()]
        (relaxation,) = relax(
            [crystal.to_ase()],
            self.potential,
            mode=config.relax,
            stages=protocol.stages(config.fmax, config.max_steps),
            symmetry_tolerance=config.symmetry_tolerance,
        )
        if isinstance(relaxation, CrystalError):
            raise relaxation
        times.append(time.monotonic())
        settings = phonon_settings(config)
        phonon = prepare(relaxation.atoms, supercell_matrix, settings)
        evaluations = self.potential.evaluate(displaced_structures(phonon))
        times.append(time.monotonic())
        result = analyse(phonon, np.array([e.forces for e in evaluations]), settings)
        times.append(time.monotonic())
        seconds = dict(
            zip(("relaxation", "forces", "analysis"), np.diff(times).tolist(), strict=True)
        )
        return done_row(
            crystal, relaxation, result, protocol.criterion, seconds, self.rank, provenance
        )

    def _require_elements(self, crystal: Crystal) -> None:
        known = self.potential.info.elements
        if known is None:
            return
        unknown = sorted({int(z) for z in crystal.numbers} - known)
        if unknown:
            from ase.data import chemical_symbols

            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            raise UnsuitableError(
                "unknown element", f"{self.potential.info.name} does not know {symbols}"
            )

    def _commit(self, rows: list[Mapping[str, Any]]) -> None:
        if rows:
            path = self.folder.commit(rows, schema_of(self.deciding), self.deciding, self.rank)
            self.log.write("commit", rows=len(rows), segment=path.name)


def _supercell_matrix(crystal: Crystal, config: RunConfig) -> NDArray[np.int64]:
    if not isinstance(config.supercell, str):
        return full_matrix(config.supercell)
    if crystal.supercell_matrix is None:
        raise UnsuitableError(
            "no supercell", "its source names no supercell; give --supercell N N N"
        )
    return np.asarray(crystal.supercell_matrix, dtype=np.int64)
