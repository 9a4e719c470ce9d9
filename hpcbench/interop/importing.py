"""Phonons that others computed, as a store: the same spectra and verdicts as of a run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcbench.config import RunConfig
from hpcbench.config_loading import load_config
from hpcbench.errors import SetupError, StoreError
from hpcbench.interop import phononbench
from hpcbench.interop.finding import Found, Job
from hpcbench.interop.one_crystal import MODEL, NOTHING, How, id_by_origin, import_one
from hpcbench.results.analysis_settings import phonon_settings
from hpcbench.results.phonon_columns import Keep
from hpcbench.results.rows import schema_of
from hpcbench.settings_hash import IMPORTING, settings_hash
from hpcbench.store.dimension_scales import decorate
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE
from hpcbench.store.table_writer import TableWriter


@dataclass(eq=False)
class Imported:
    """What became of an import.

    Attributes
    ----------
    total, done : int
        Crystals, and those with phonons.
    reasons : dict
        Number of failures by kind.
    with_nac : int
        Crystals with Born charges.
    changed : list of str
        Those whose verdict is another one without them.
    agree, differ : int
        Crystals whose verdict is the label that came with them, and is not.
    different : list of str
        The first ones that differ.
    without_phonons : int
        Labels of crystals without force constants.
    repeated : list of str
        Crystals that another file has, in the same supercell; the first one counts.
    inputs : int
        Files without phonons that are left out, as another one of their name has phonons.
    """

    total: int = 0
    done: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    with_nac: int = 0
    changed: list[str] = field(default_factory=list)
    agree: int = 0
    differ: int = 0
    different: list[str] = field(default_factory=list)
    without_phonons: int = 0
    repeated: list[str] = field(default_factory=list)
    inputs: int = 0


def import_config(found: Found, flags: Mapping[str, Any], file: str | None) -> RunConfig:
    """The settings of an import.

    Those that are not given are of the exported store, if the folder is from one; where there are
    PhononBench's labels, the protocol is PhononBench's.

    Raises
    ------
    ConfigError
        As :func:`hpcbench.config_loading.load_config`.
    """
    defaults: dict[str, Any] = {"protocol": "phononbench"} if found.label_files else {}
    if len(found.settings) == 1:
        defaults |= {key: found.settings[0][key] for key in IMPORTING if key in found.settings[0]}
    given = {key: value for key, value in flags.items() if value is not None}
    explicit = load_config(given, file)
    plain = RunConfig().resolved()
    for key, value in defaults.items():
        # What the environment or the file sets is not a default either.
        set_elsewhere = getattr(explicit, key) != getattr(plain, key)
        if key not in given and not set_elsewhere:
            given[key] = value
    return load_config(given, file)


def import_settings(config: RunConfig) -> dict[str, Any]:
    """What decides the results of an import, with its hash, as JSON types."""
    every = config.result_settings()
    result_settings = {key: every[key] for key in IMPORTING if key in every}
    result_settings |= {
        "model": MODEL,
        "weights_sha256": "",
        "relax": "none",
        "supercell": "source",
        "dtype": "float64",
    }
    result_settings["hash"] = settings_hash(result_settings)
    return result_settings


def import_found(
    found: Found,
    config: RunConfig,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Write the store of what was found.

    Parameters
    ----------
    found : Found
        From :func:`hpcbench.interop.finding.find`.
    config : RunConfig
        ``out``, ``protocol`` and what else decides, ``keep_forces``, ``band_dtype``, ``workers``.
    tell : callable, optional
        Called with the number of crystals that are finished and that of all.

    Raises
    ------
    StoreError
        If there is a store of this name, or it cannot be written.
    """
    folder = RunFolder(config.out)
    folder.require_free()
    result_settings = import_settings(config)
    how = How(
        phonon_settings(config),
        str(config.criterion),
        config.symmetry_tolerance,
        Keep(config.keep_forces, config.band_dtype, config.keep_dos),
        result_settings,
    )
    summary = Imported()
    rows = _rows(found.jobs, how, _workers(config.workers), summary, tell)
    try:
        with TableWriter(
            folder.store,
            schema_of(result_settings, config.band_dtype),
            result_settings,
            finish=lambda file: decorate(file, result_settings),
            # Another one may have been made meanwhile.
            check=lambda path: folder.require_free(),
        ) as writer:
            writer.append(_counted(rows, summary))
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot write {folder.store}: {error}") from error
    return summary


def _workers(asked: int | str) -> int:
    return len(os.sched_getaffinity(0)) if isinstance(asked, str) else asked


def _rows(
    jobs: Sequence[Job],
    how: How,
    workers: int,
    summary: Imported,
    tell: Callable[[int, int], None],
) -> Iterator[list[dict[str, Any]]]:
    """Rows of crystals with phonons in the order of the jobs, then of those that failed.

    A file without phonons is left out if another one has its crystal: PhononBench's input lies
    beside its output.
    """
    failed, named = [], set()
    for number, (job, rows) in enumerate(_computed(jobs, how, workers)):
        tell(number + 1, len(jobs))
        if rows[0]["status"] == DONE:
            named.add(job.name)
            yield rows
        else:
            # Cells and a sentence: these fit into the memory.
            failed.append((job, rows))
    for job, rows in failed:
        if job.candidates and rows[0]["reason"].startswith(NOTHING) and job.name in named:
            summary.inputs += 1
        else:
            yield rows


def _computed(
    jobs: Sequence[Job], how: How, workers: int
) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    if workers < 2 or len(jobs) < 2:
        for job in jobs:
            yield job, import_one(job, how)
        return
    from loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(max_workers=workers)
    waiting: deque[tuple[Job, Any]] = deque()
    try:
        for job in jobs:
            waiting.append((job, executor.submit(import_one, job, how)))
            # Rows that wait to be written are in memory.
            if len(waiting) > 4 * workers:
                yield _received(*waiting.popleft())
        while waiting:
            yield _received(*waiting.popleft())
    finally:
        executor.shutdown(wait=False, kill_workers=True)


def _received(job: Job, future: Any) -> tuple[Job, list[dict[str, Any]]]:
    try:
        return job, future.result()
    except Exception as error:  # loky's own, when a worker process is killed
        raise SetupError(
            f"a worker process ended at {job.origin} or near it ({type(error).__name__}); "
            f"--workers 0 tells which file does it"
        ) from error


def _counted(
    crystals: Iterable[list[dict[str, Any]]], summary: Imported
) -> Iterator[dict[str, Any]]:
    """Count crystals by their rows, and leave out those that there are already."""
    seen: set[str] = set()
    for row, *without in crystals:
        if row["id"] in seen:
            if row["status"] == DONE:
                summary.repeated.append(row["name"])
                continue
            # What failed keeps its reason, though another file has the same crystal.
            row = {**row, "id": id_by_origin(row)}
        seen.add(row["id"])
        summary.total += 1
        label = row.get("imported_label", "")
        for other in without:
            summary.with_nac += 1
            if other["verdict"] != row["verdict"]:
                summary.changed.append(f"{row['name']} ({other['verdict']} without)")
        if row["status"] != DONE:
            kind = row["reason"].partition(":")[0]
            summary.reasons[kind] = summary.reasons.get(kind, 0) + 1
            summary.without_phonons += bool(label)
        else:
            summary.done += 1
        if label and row["status"] == DONE:
            # The scripts' labels are by their criterion, whatever this store's own is.
            agrees = phononbench.label_of(row).lower() == label.lower()
            summary.agree += agrees
            summary.differ += not agrees
            if not agrees and len(summary.different) < 10:
                summary.different.append(row["name"])
        yield row
        yield from without
