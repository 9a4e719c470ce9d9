"""Computation of the crystals that a rank leases, and commits of their results."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpcbench.crystal import Crystal
from hpcbench.engine.io_threads import Inbox, Reader, Row, Writer
from hpcbench.engine.peak_memory import peak_device_memory, peak_memory
from hpcbench.engine.pipeline import ActiveCrystal, Pipeline, Workflow
from hpcbench.engine.rank_process import RankProcess
from hpcbench.engine.stopping import STOPPED, StoppablePotential, StopRequested
from hpcbench.engine.timing import EVENT, FORCES, PREPARING, RELAXATION, Timing
from hpcbench.engine.validation import validate
from hpcbench.engine.watchdog import PATIENCE, names
from hpcbench.engine.worker_processes import Crew
from hpcbench.engine.workflow import workflow
from hpcbench.engine.workflow_context import WorkflowContext
from hpcbench.errors import (
    CrystalError,
    EvaluationError,
    HpcbenchError,
    PotentialError,
    StoreError,
    TooLargeError,
)
from hpcbench.potentials.boundary import Surroundings, files_below, identity_of
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.selftest import self_test
from hpcbench.process_end import leave_at_once
from hpcbench.results.rows import failed_row, provenance_of, schema_of
from hpcbench.store.joining import TOGETHER, join_segments


@dataclass(frozen=True)
class Worker:
    """Compute crystals with a potential, and commit their results.

    Attributes
    ----------
    process : RankProcess
        Settings, folder and log of the rank.
    potential : Potential
        Used by the calling thread only.
    crew : Crew
        Runs tasks that need no potential.
    inbox : Inbox
        The queue that the crew posts to.
    most_under_way : int
        Most crystals that are computed at once.
    on_result : callable
        Called with each row.
    on_commit : callable
        Called with the ids of rows that are on the disk; from another thread.
    on_hang : callable
        Called before the process is ended because a call of the potential does not return after
        the run was asked to stop; with the ids of crystals that take much longer than predicted.
    attempts : dict
        Number of earlier attempts by crystal id, where known.
    load_double : callable, optional
        Loads the potential in double precision, for runs in single precision.
    workflow_of : callable, optional
        Starts the workflow of a crystal, if it is not that of a run.
    """

    process: RankProcess
    potential: Potential
    crew: Crew
    inbox: Inbox
    most_under_way: int
    on_result: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_commit: Callable[[list[str]], None] = lambda ids: None
    on_hang: Callable[[list[str]], None] = lambda ids: None
    attempts: dict[str, int] = field(default_factory=dict)
    load_double: Callable[[], Potential] | None = None
    workflow_of: Callable[[Crystal], Workflow] | None = None
    _commits: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)

    def work(
        self, blocks: Iterable[Iterable[Crystal]], ending: threading.Event | None = None
    ) -> bool:
        """Compute blocks of crystals and commit the results.

        Finished results are committed also if an error ends the work.

        Parameters
        ----------
        blocks : iterable
            Blocks of crystals; run through in another thread.
        ending : Event, optional
            Set when no more blocks are wanted: ``blocks`` must then end soon.

        Returns
        -------
        bool
            False if the run was asked to stop before the blocks ended.

        Raises
        ------
        StoreError
            If results cannot be written, or the list cannot be read.
        PotentialError
            If the potential no longer computes.
        """
        account = Timing()
        finished = False
        with contextlib.ExitStack() as cleaning:
            cleaning.callback(lambda: self.process.log.write(EVENT, **account.event()))
            interval = self.process.config.commit_interval
            writer = Writer(self._commit, interval, self.inbox, account)
            cleaning.callback(writer.close)
            asked = threading.Event()

            def when_asked(seconds: float) -> None:
                if not asked.is_set():
                    # A second Ctrl-C ends the process at once.
                    asked.set()
                    writer.hurry()
                self._end_if_hung(seconds, writer)

            self.process.stop.when_asked = when_asked
            # Code that runs after the work handles signals itself.
            cleaning.callback(self._leave_alone)
            reader = Reader(self._said_well(blocks), self.inbox, account)
            cleaning.callback(reader.close)
            if ending is not None:
                cleaning.callback(ending.set)
            surroundings = Surroundings(
                files_below(self.process.folder.path), self._end_without_files
            )
            potential = StoppablePotential(self.potential, self.process.stop, surroundings)
            load_double = self._load_stoppable_double if self.load_double else None
            has_double = load_double is not None
            way = validate if self.process.config.validate else workflow
            context = WorkflowContext.of(
                self.process.config, potential.info, self.process.rank, has_double=has_double
            )

            def on_end(
                active: ActiveCrystal, outcome: list[dict[str, Any]] | HpcbenchError
            ) -> None:
                self._tell(active, outcome)
                if isinstance(outcome, (EvaluationError, TooLargeError)):
                    self._require_sound(potential, pipeline.last_good, outcome)
                rows = self._rows(active, outcome, context.provenance)
                writer.put(rows)
                self._log_result(active, rows[0])
                self.on_result(rows[0])

            pipeline = Pipeline(
                potential,
                self.workflow_of or partial(way, context),
                reader,
                self.crew,
                self.inbox,
                account,
                self.most_under_way,
                self.process.stop,
                on_end,
                load_double,
                self.process.watchdog,
            )
            try:
                pipeline.run()
                finished = True
            except StopRequested:
                pass
            finally:
                if not finished:
                    # Ctrl-C in a program that called hpcbench.run, or an error: finished results
                    # must not be lost.
                    writer.hurry()
                    pipeline.say_end_of_work()
        return finished

    def _leave_alone(self) -> None:
        self.process.stop.when_asked = lambda seconds: None

    def _end_if_hung(self, seconds: float, writer: Writer) -> None:
        """End a process that was asked to stop, if a call of the potential does not return."""
        if (
            not self.process.stop.owns_process
            or min(seconds, self.process.watchdog.seconds) < PATIENCE
        ):
            return
        # A large crystal takes long, and the process is not about to be killed.
        if not (self.process.stop.is_urgent or self.process.watchdog.is_overdue()):
            return
        crystals = self.process.watchdog.crystals()
        overdue = [one.id for one in crystals] if self.process.watchdog.is_overdue() else []
        self.on_hang(overdue)
        with contextlib.suppress(HpcbenchError, OSError):
            writer.close()
        self.process.watchdog.tell(
            f"stopped while the potential was at {names(crystals)}, from where it did not come "
            f"back: what was finished is saved, and the same command goes on"
        )
        self.process.log.close()
        leave_at_once(STOPPED)

    def _end_without_files(self) -> None:
        """End the process at once, because the potential has closed some of its files.

        The next file that is opened gets the number of a closed one, and code that still uses
        that number would write into the wrong file.

        Raises
        ------
        PotentialError
            Instead, in a user's program that called hpcbench.
        """
        text = (
            f"the potential closed files of the program while it was at "
            f"{names(self.process.watchdog.crystals())}; the same command goes on, and computes "
            f"that alone"
        )
        if not self.process.stop.owns_process:
            raise PotentialError(text)
        if identity_of(2) is None:
            leave_at_once(PotentialError.exit_code, text)
        self.process.watchdog.tell(text)
        leave_at_once(PotentialError.exit_code)

    def _load_stoppable_double(self) -> Potential:
        assert self.load_double is not None, "asked for where there is one"
        return StoppablePotential(
            self.load_double(),
            self.process.stop,
            Surroundings(files_below(self.process.folder.path), self._end_without_files),
        )

    def _said_well(self, blocks: Iterable[Iterable[Crystal]]) -> Iterator[list[Crystal]]:
        try:
            for block in blocks:
                yield list(block)
        except OSError as error:
            # An error of the run folder: no lease can be taken, or the list cannot be read.
            raise StoreError(
                f"{self.process.folder.path}: {error}; what was computed is safe: mend this and "
                f"give the same command again"
            ) from error

    def _tell(self, active: ActiveCrystal, outcome: list[dict[str, Any]] | HpcbenchError) -> None:
        """Write warnings and unexpected errors into the event log, with the crystal's id."""
        crystal = active.crystal
        for message in sorted(active.warnings):
            self.process.log.write("warning", id=crystal.id, message=message)
        trace = active.traceback
        if isinstance(outcome, EvaluationError):
            trace = "".join(traceback.format_exception(outcome))
        if trace:
            self.process.log.write("error", id=crystal.id, traceback=trace)

    def _require_sound(
        self, potential: Potential, last_good: Crystal | None, error: HpcbenchError
    ) -> None:
        """Raise if the potential, not a crystal, is to blame for an error.

        A rank whose GPU is broken, or full of another process's data, must not take all crystals
        of the list and let them fail.
        """
        if last_good is None:
            self_test(potential)
            return
        self.process.watchdog.begin([last_good], potential)
        try:
            potential.evaluate([last_good.to_ase()])
        except (EvaluationError, TooLargeError):
            raise PotentialError(
                f"{potential.info.name} does not compute any more, not even {last_good.name}, "
                f"which it has computed: {error}; what was computed is safe: give the same "
                f"command again"
            ) from error
        except CrystalError:
            return
        finally:
            self.process.watchdog.end()

    def _rows(
        self, active: ActiveCrystal, outcome: list[dict[str, Any]] | HpcbenchError, provenance: str
    ) -> list[Row]:
        if isinstance(outcome, HpcbenchError):
            further = outcome.further_rows
            if not isinstance(outcome, CrystalError):
                outcome = CrystalError("potential", str(outcome))
            failed = failed_row(active.crystal, outcome, self.process.rank, provenance)
            outcome = [failed, *further]
        seconds = active.seconds
        relaxation, forces = seconds[RELAXATION], seconds[FORCES] + seconds[PREPARING]
        attempt = self._attempt(active.crystal)
        # The time of all computations of the crystal, which are not counted one by one.
        took = {
            "seconds_relaxation": relaxation,
            "seconds_forces": forces,
            "seconds_analysis": sum(seconds.values()) - relaxation - forces,
        }
        return [{**outcome[0], **attempt, **took}, *({**row, **attempt} for row in outcome[1:])]

    def _attempt(self, crystal: Crystal) -> dict[str, Any]:
        device = self.potential.info.device
        return {
            "attempts": 1 + self.attempts.get(crystal.id, 0),
            "peak_memory": peak_memory(),
            "peak_device_memory": peak_device_memory(device),
        }

    def _log_result(self, active: ActiveCrystal, row: Row) -> None:
        self.process.log.write(
            "crystal",
            id=active.crystal.id,
            name=active.crystal.name,
            status=row["status"],
            verdict=row.get("verdict", ""),
            reason=row["reason"],
            seconds=round(time.monotonic() - active.started, 3),
        )

    def _commit(self, rows: Sequence[Row]) -> None:
        schema = schema_of(self.process.result_settings, self.process.config.band_dtype)
        path = self.process.folder.commit(
            rows, schema, self.process.result_settings, self.process.rank
        )
        self.process.log.write("commit", rows=len(rows), segment=path.name)
        self.on_commit([row["id"] for row in rows])
        if next(self._commits) % TOGETHER == 0:
            try:
                joined = join_segments(
                    self.process.folder, schema, self.process.result_settings, self.process.rank
                )
            except (OSError, StoreError) as error:
                # The single segments stay valid; a damaged one is found when it is read.
                self.process.log.write("warning", id="", message=f"segments not joined: {error}")
            else:
                self.process.log.write("join", segments=joined)

    def fail(self, crystal: Crystal, error: CrystalError) -> None:
        """Commit the failure of a crystal without computing it.

        Parameters
        ----------
        crystal : Crystal
            The crystal.
        error : CrystalError
            The reason of the failure.

        Raises
        ------
        StoreError
            If the row cannot be written.
        """
        row = {
            **failed_row(crystal, error, self.process.rank, provenance_of(self.potential.info)),
            **self._attempt(crystal),
        }
        self._commit([row])
        self.process.log.write(
            "crystal",
            id=crystal.id,
            name=crystal.name,
            status=row["status"],
            verdict="",
            reason=row["reason"],
            seconds=0.0,
        )
        self.on_result(row)
