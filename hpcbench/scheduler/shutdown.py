"""The end of a launch: ranks leave together, and one of them consolidates the store."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hpcbench.engine.rank_process import RankProcess
from hpcbench.errors import PotentialError, StoreError
from hpcbench.events import ProgressReader
from hpcbench.planning.calibration import learn
from hpcbench.results.rows import schema_of
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.journal import Journal
from hpcbench.store.consolidate import consolidate
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder

# Bytes; half of what was measured (``benchmarks/results/store-cpu.json``).
CONSOLIDATED_A_SECOND = 6e6


@dataclass(frozen=True)
class Outcome:
    """The end of a launch on this rank.

    Attributes
    ----------
    complete : bool
        False if the run was asked to stop or something is left to do.
    last : bool
        True on the one rank that finished the launch and consolidated the store.
    nobody_died : bool
        Whether all ranks ended normally.
    problem : Exception or None
        The error that ended this rank's work.
    """

    complete: bool
    last: bool
    nobody_died: bool
    problem: Exception | None


@dataclass(frozen=True)
class Shutdown:
    """Leave a launch.

    Attributes
    ----------
    process : RankProcess
        Of this rank; its log is closed when it has left.
    heartbeat : Heartbeat
        Of the ranks.
    journal : Journal
        This rank's journal.
    """

    process: RankProcess
    heartbeat: Heartbeat
    journal: Journal

    def leave(
        self, left_undone: bool, problem: Exception | None, on_end: Callable[[], None]
    ) -> Outcome:
        """Wait for the other ranks, and leave with them.

        Parameters
        ----------
        left_undone : bool
            Whether there was work that this rank could not do, or not in the time that is left.
        problem : Exception or None
            The error that ended this rank's work.
        on_end : callable
            Called on the rank that finishes the launch, when the store is consolidated.
        """
        if not isinstance(problem, PotentialError):
            # After a failure of the potential, the crystals in progress are suspects.
            self.journal.stop()
        last = False
        try:
            if problem is not None or left_undone or self.process.stop.requested:
                self.heartbeat.give_up()
            self.heartbeat.rest()
            last = self.heartbeat.end()
        except OSError as error:
            # The others see this rank leave.
            problem = problem or in_words(error, self.process.folder)
        if last:
            problem = self._consolidate_as_the_last(problem, on_end)
        complete = False
        try:
            self._leave_nothing_in_segments(last)
            complete = not self.process.stop.requested
            if complete and (last or left_undone):
                # Others may have done what this rank could not, or died at the very end.
                complete = not Store(self.process.folder.store).unfinished_ids()
        except (OSError, StoreError) as error:
            problem = problem or error
        self.process.log.write("end", complete=complete)
        self.process.log.close()
        nobody_died = False
        try:
            nobody_died = self.heartbeat.complete()
        except OSError as error:
            # The run folder has been moved away.
            problem = problem or in_words(error, self.process.folder)
        return Outcome(complete, last, nobody_died, problem)

    def _consolidate_as_the_last(
        self, problem: Exception | None, on_end: Callable[[], None]
    ) -> Exception | None:
        """Consolidate the store, and let the other ranks go; return the first problem."""
        try:
            # A start that failed leaves no store behind.
            has_results = problem is None or self.process.folder.segment_paths()
            if has_results and self._there_is_time():
                consolidate(
                    self.process.folder,
                    schema_of(self.process.result_settings),
                    self.process.result_settings,
                )
                # Record the measured rates for the next plan.
                learn(
                    Store(self.process.folder.store),
                    ProgressReader(self.process.folder.events).read(),
                )
                on_end()
        except Exception as error:
            # A rank that was paused may have been replaced in the meantime.
            if not self.heartbeat.is_closed():
                problem = problem or error
        finally:
            with contextlib.suppress(OSError):
                self.heartbeat.close()
        return problem

    def _leave_nothing_in_segments(self, last: bool) -> None:
        """Consolidate once more, on each rank.

        A rank that was paused and taken for dead may have committed something after the others had
        consolidated.
        """
        self.process.folder.unlock()
        if self._there_is_time():
            consolidate_if_idle(self.process.folder.store)
        elif last:
            print(
                f"hpcbench: no time to bring {self.process.folder.store} together: results are "
                f"safe beside it, and can be read; the next start does it, or hpcbench consolidate",
                file=sys.stderr,
                flush=True,
            )

    def _there_is_time(self) -> bool:
        """Return whether segments and store can be joined before this process may be killed."""
        segments = self.process.folder.segment_paths()
        size = 0
        for path in (self.process.folder.store, *segments):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return not segments or size / CONSOLIDATED_A_SECOND < self.process.stop.seconds_to_the_kill


def in_words(error: Exception, folder: RunFolder) -> Exception:
    """Convert an error of the file system below the run folder to one with a clear message.

    Parameters
    ----------
    error : Exception
        Any error; others are returned unchanged.
    folder : RunFolder
        The run's folder.
    """
    if not isinstance(error, OSError) or str(folder.path) not in str(error.filename):
        return error
    return StoreError(
        f"{error.filename}: {error.strerror}; what was computed is safe: correct this, and give "
        f"the same command again"
    )


def consolidate_if_idle(store: str | os.PathLike[str]) -> None:
    """Consolidate the segments that a launch has left, and remove torn files.

    Nothing is done while a launch is running. This serves launches whose ranks did not all come to
    their end.
    """
    folder = RunFolder(store)
    if not (folder.segment_paths() or folder.torn_files()):
        return
    try:
        folder.lock()
    except StoreError:
        return
    try:
        folder.remove_torn_files()
        if folder.segment_paths():
            result_settings = folder.settings()
            consolidate(folder, schema_of(result_settings), result_settings)
    finally:
        folder.unlock()
