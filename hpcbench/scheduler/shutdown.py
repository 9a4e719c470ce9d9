"""How a launch ends on a rank: ranks leave together, and one of them brings the store together."""

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
    """How a launch ended on this rank.

    ``complete`` is false where the run was asked to stop. ``last`` is true on the one rank
    that has the last word: it has consolidated the store. ``nobody_died`` says whether all
    ranks came to their end. ``problem`` is the error that ended this rank's work, if one did.
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
        This rank's.
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
            There was something that this rank could not do, or not in the time that is left.
        problem : Exception or None
            What ended this rank's work.
        on_end : callable
            Called on the rank that has the last word, when the store is consolidated.
        """
        if not isinstance(problem, PotentialError):
            # A potential that breaks may have been broken by a crystal: those are suspects.
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
            problem = self._have_the_last_word(problem, on_end)
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

    def _have_the_last_word(
        self, problem: Exception | None, on_end: Callable[[], None]
    ) -> Exception | None:
        """Consolidate the store, and let the other ranks go; the first problem there was."""
        try:
            # A start that failed leaves no store behind.
            has_results = problem is None or self.process.folder.segment_paths()
            if has_results and self._there_is_time():
                consolidate(
                    self.process.folder,
                    schema_of(self.process.result_settings),
                    self.process.result_settings,
                )
                # How fast it was, for the next plan.
                learn(
                    Store(self.process.folder.store),
                    ProgressReader(self.process.folder.events).read(),
                )
                on_end()
        except Exception as error:
            # A rank that was stopped may have been replaced meanwhile.
            if not self.heartbeat.is_closed():
                problem = problem or error
        finally:
            with contextlib.suppress(OSError):
                self.heartbeat.close()
        return problem

    def _leave_nothing_in_segments(self, last: bool) -> None:
        """Consolidate once more; by each rank, for whoever comes last.

        One that was stopped and taken for dead may have committed something after the others
        had consolidated.
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
        """Whether segments and store can be joined before this process may be killed."""
        segments = self.process.folder.segment_paths()
        size = 0
        for path in (self.process.folder.store, *segments):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return not segments or size / CONSOLIDATED_A_SECOND < self.process.stop.seconds_to_the_kill


def in_words(error: Exception, folder: RunFolder) -> Exception:
    """An error of the file system below the run folder, in words."""
    if not isinstance(error, OSError) or str(folder.path) not in str(error.filename):
        return error
    return StoreError(
        f"{error.filename}: {error.strerror}; what was computed is safe: mend this and give the "
        f"same command again"
    )


def consolidate_if_idle(store: str | os.PathLike[str]) -> None:
    """Consolidate what a launch left in segments, and remove torn files, unless one is under way.

    For a launch whose ranks did not all come to their end.
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
