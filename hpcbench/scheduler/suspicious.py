"""Crystals and files that may have ended a process, and how they are treated.

Crystals that a process had begun and not committed when it died are suspects. Each is computed
alone, in a separate process (``isolated_worker.py``); one that ends it several times is a failure.
A file that was being read is read in a separate process, and left out if that dies, or if ranks die
with it several times.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.errors import CrystalError, StoreError
from hpcbench.json_text import json_of
from hpcbench.scheduler.journal import Told, journal_path, read_journal
from hpcbench.store.small_files import replace_text

# Deaths of a process with only this crystal after which it is a failure.
MOST_DEATHS = 3
SET_ASIDE = "kills its process"
"""The kind of failure of such a crystal."""


@dataclass(frozen=True)
class Suspicion:
    """The deaths that a crystal may have caused.

    Attributes
    ----------
    deaths : int
        How many times it ended a process that computed nothing else.
    attempts : int
        How many times a process died that had begun it.
    """

    deaths: int = 0
    attempts: int = field(default=1, compare=False)

    def and_also(self, other: Suspicion) -> Suspicion:
        """Return the sum of two suspicions against one crystal."""
        return Suspicion(self.deaths + other.deaths, self.attempts + other.attempts)


Suspicions = dict[str, Suspicion]
"""Suspicions by the id of the crystal."""


def set_aside(deaths: int, how: str = "") -> CrystalError:
    """Return the failure of a crystal that has ended its process too often.

    Parameters
    ----------
    deaths : int
        How many times it did.
    how : str
        How the process ended the last time.
    """
    return CrystalError(
        SET_ASIDE,
        f"computed alone, it ended its process {deaths} times{f' ({how})' if how else ''}; "
        f"--retry-failed tries again",
    )


def suspects_of(told: Told, finished: Container[str]) -> Suspicions:
    """Return the suspects that follow from the journal of a dead process.

    Parameters
    ----------
    told : Told
        The journal.
    finished : container of str
        Ids of crystals that have a result.
    """
    if told.in_order:
        # It was asked to stop. Crystals from which it would never have returned come last.
        return {key: Suspicion() for key in told.hung if key not in finished}
    begun = [key for key in told.begun if key not in finished]
    # Only the last one can have been alone when the process died.
    if begun and told.begun[begun[-1]] and begun[-1] == list(told.begun)[-1]:
        return {begun[-1]: Suspicion(1)}
    return {key: Suspicion() for key in begun}


def deaths_of(told: Told, finished: Container[str]) -> Suspicions:
    """Return the crystals that ended the isolated worker of a rank.

    Parameters
    ----------
    told : Told
        The rank's journal.
    finished : container of str
        Ids of crystals that have a result.
    """
    died = [key for key in told.died if key not in finished]
    # The attempt is counted from the isolated worker's own journal.
    return {key: Suspicion(died.count(key), attempts=0) for key in died}


def suspects_of_rank(launch: Path, rank: int, finished: Container[str]) -> Suspicions:
    """Return the suspects of a rank that died in this launch, and of its isolated workers.

    Parameters
    ----------
    launch : Path
        The launch's folder.
    rank : int
        The rank.
    finished : container of str
        Ids of crystals that have a result.
    """
    name = f"rank-{rank:05d}"
    told = read_journal(journal_path(launch, name))
    parts = [suspects_of(told, finished), deaths_of(told, finished)]
    for path in launch.glob(f"journal/{name}.isolated-*"):
        parts.append(_of_isolated_worker(read_journal(path), finished))
    return joined(parts)


def joined(parts: Iterable[Mapping[str, Suspicion]]) -> Suspicions:
    """Add up the suspicions against each crystal."""
    result: Suspicions = {}
    for part in parts:
        for key, suspicion in part.items():
            there = result.get(key)
            result[key] = suspicion if there is None else there.and_also(suspicion)
    return result


SuspectFiles = dict[str, int]
"""Files that were being read when a process died, with how many times they were read alone."""


def suspect_files(launches: Iterable[Path], file: Path) -> SuspectFiles:
    """Return files that may have ended the process that read them, and were not read well since.

    Parameters
    ----------
    launches : iterable of Path
        Folders of launches that are over.
    file : Path
        The summary of launches before them.
    """
    kept = _read(file)
    files: SuspectFiles = dict(kept["files"])
    for launch in launches:
        if launch.name in kept["launches"]:
            continue
        for path in sorted(launch.glob("journal/rank-*")):
            told = read_journal(path)
            for name in told.read_well:
                files.pop(name, None)
            if told.reading and not told.in_order:
                files[told.reading] = files.get(told.reading, 0) + told.alone
    return files


def fold_launches(
    launches: Iterable[Path], file: Path, finished: Container[str], forgiven: Container[str] = ()
) -> Suspicions:
    """Summarise the journals of finished launches in one file, and remove their folders.

    Parameters
    ----------
    launches : iterable of Path
        Their folders.
    file : Path
        The summary of earlier launches; replaced.
    finished : container of str
        Ids of crystals that have a result, and are no longer suspects.
    forgiven : container of str
        Ids of crystals that get another chance.

    Returns
    -------
    dict
        The suspicions by id.

    Raises
    ------
    OSError
        If the file cannot be written; the folders are then still there.
    """
    kept = _read(file)
    known = set(kept["launches"])
    launches = list(launches)
    files = suspect_files(launches, file)
    parts = [{key: Suspicion(*values) for key, values in kept["suspicions"].items()}]
    for launch in launches:
        if launch.name in known:
            continue
        for path in sorted(launch.glob("journal/*")):
            told = read_journal(path)
            parts.append(deaths_of(told, finished))
            is_rank = ".isolated-" not in path.name
            parts.append((suspects_of if is_rank else _of_isolated_worker)(told, finished))
    suspicions = joined(parts)
    for key in list(suspicions):
        if key in finished:
            del suspicions[key]
        elif key in forgiven:
            suspicions[key] = Suspicion(attempts=suspicions[key].attempts)
    values = {key: [s.deaths, s.attempts] for key, s in sorted(suspicions.items())}
    if launches or values != kept["suspicions"]:
        # The names are written before the folders are removed: after a kill in between, nothing is
        # counted twice.
        names = [launch.name for launch in launches]
        replace_text(
            file, json.dumps({"launches": names, "suspicions": values, "files": files}) + "\n"
        )
        for launch in launches:
            shutil.rmtree(launch, ignore_errors=True)
    return suspicions


def _of_isolated_worker(told: Told, finished: Container[str]) -> Suspicions:
    """Return suspects without deaths: only the rank counts these, since both may be killed."""
    return {key: Suspicion() for key in suspects_of(told, finished)}


def _read(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json_of(file.read_text(), str(file))
        # Older versions did not record the files that they read.
        return {
            "launches": values["launches"],
            "suspicions": values["suspicions"],
            "files": values.get("files", {}),
        }
    except (FileNotFoundError, StoreError, ValueError, KeyError, TypeError):
        # Torn when a machine went down: suspects will reveal themselves by ending processes again.
        return {"launches": [], "suspicions": {}, "files": {}}
