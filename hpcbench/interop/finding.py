"""Search for phonon calculations and PhononBench's files in folders."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.errors import SourceError
from hpcbench.interop import phononbench
from hpcbench.interop.calculation import Beside
from hpcbench.outputs import SETTINGS_FILE
from hpcbench.sources import formats

# phonopy's results and settings, which are next to its crystals in every working folder.
_OTHERS = re.compile(
    r"(band|mesh|qpoints|thermal_|total_dos|projected_dos|gruneisen|irreps|modulation|disp\.|"
    r"group_velocity|dynmat|debug|config|environment|mkdocs|_config|\.)",
    re.IGNORECASE,
)
KINDS = ("_params", "", "_disp")
"""Kinds of phonopy's YAML files, by their names, in order of precedence: the one that may contain
most comes first."""


@dataclass(frozen=True)
class Label:
    """A label of a label file."""

    file: Path
    name: str
    text: str


@dataclass(frozen=True)
class Job:
    """One crystal to import.

    Attributes
    ----------
    name : str
        Of the crystal.
    candidates : tuple of Path
        Its YAML files; empty if there is only a relaxed crystal or a label.
    beside : Beside
        Files next to them.
    label : Label or None
        PhononBench's label.
    cif : Path or None
        Its relaxed crystal.
    reason : str
        Why there is no YAML file, if PhononBench's summary says it.
    """

    name: str
    candidates: tuple[Path, ...]
    beside: Beside = field(default_factory=Beside)
    label: Label | None = None
    cif: Path | None = None
    reason: str = ""

    @property
    def origin(self) -> str:
        """The file that represents the crystal."""
        if self.candidates:
            return str(self.candidates[0])
        return str(self.cif or (self.label.file if self.label else self.name))


@dataclass(frozen=True)
class Found:
    """Everything that can be imported.

    Attributes
    ----------
    jobs : tuple of Job
        Crystals.
    label_files : tuple of Path
        PhononBench's label files.
    settings : tuple of dict
        Settings of the stores that the folders were exported from, each once.
    """

    jobs: tuple[Job, ...]
    label_files: tuple[Path, ...]
    settings: tuple[dict[str, Any], ...]


def find(sources: Sequence[str]) -> Found:
    """Find all calculations in folders (searched to the bottom), files and patterns.

    Raises
    ------
    SourceError
        If a source does not exist, or there is nothing to import.
    """
    files = list(dict.fromkeys(_files(sources)))
    by_folder: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files:
        by_folder[path.parent][path.name] = path
    labels = _labels(files)
    relaxed = _by_name(files, phononbench.RELAXED)
    jobs = []
    for folder in by_folder:
        jobs += [_with_label(job, labels, relaxed) for job in _calculations(by_folder[folder])]
    jobs += _without_phonons(jobs, labels, relaxed, files)
    if not jobs:
        raise SourceError(
            f"{' '.join(sources)}: no phonon calculation: neither a phonopy YAML file nor "
            f"files of PhononBench's scripts"
        )
    label_files = {label.file for entries in labels.values() for label in entries}
    settings = {text: None for path in files if (text := _settings_text(path))}
    return Found(tuple(jobs), tuple(sorted(label_files)), tuple(map(json.loads, settings)))


def _files(sources: Iterable[str]) -> Iterator[Path]:
    for source in sources:
        if os.path.isdir(source):
            for parent, folders, names in os.walk(source):
                folders[:] = sorted(name for name in folders if not formats.is_hidden(name))
                yield from (Path(parent, name) for name in sorted(names) if name[0] != ".")
        elif os.path.isfile(source):
            yield from _with_neighbours(Path(source))
        elif glob.has_magic(source) and (matches := sorted(glob.glob(source, recursive=True))):
            yield from _files(matches)
        else:
            raise SourceError(f"There is no file or folder {source!r}.")


def _with_neighbours(path: Path) -> Iterator[Path]:
    """Yield a named file and the forces that belong to it."""
    yield path
    match = formats.PHONOPY_FILE.fullmatch(formats.phonopy_stem(path.name))
    if match:
        for name in beside_names(match["rest"]):
            if (beside := path.with_name(name)).is_file():
                yield beside


def beside_names(rest: str) -> tuple[str, ...]:
    """Return the names of phonopy's other files that belong to a YAML file of its naming.

    Parameters
    ----------
    rest : str
        What the YAML file's name has behind its kind.

    Returns
    -------
    tuple of str
        Of force constants (HDF5, text), forces, and Born charges.
    """
    names = ("force_constants.hdf5", "FORCE_CONSTANTS", "FORCE_SETS", formats.BORN)
    return tuple(
        f"{stem}{rest}{dot}{ending}" for stem, dot, ending in (n.partition(".") for n in names)
    )


def _calculations(files: dict[str, Path]) -> Iterator[Job]:
    """Yield the calculations of one folder."""
    grouped: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for name, path in files.items():
        if formats.format_of(name) != "phonopy" or _OTHERS.match(name):
            continue
        stem = formats.phonopy_stem(name)
        match = formats.PHONOPY_FILE.fullmatch(stem)
        if match:
            kind = match["kind"].lower()
            grouped[match["rest"]].append((KINDS.index(kind), path))
        else:
            name = stem.removesuffix(phononbench.SINGLE_FORCE_CONSTANTS)
            yield Job(name, (path,))
    for rest, found in grouped.items():
        hdf5, text, forces, born = (files.get(name) for name in beside_names(rest))
        paths = tuple(path for _, path in sorted(found))
        folder = paths[0].parent.resolve().name
        yield Job(
            f"{folder}{rest}" if rest == "" else rest.strip("_-."),
            paths,
            Beside(hdf5 or text, forces, born),
        )


def _labels(files: Iterable[Path]) -> dict[str, list[Label]]:
    """Return all labels by the name of the crystal."""
    labels: dict[str, list[Label]] = defaultdict(list)
    for path in files:
        found: dict[str, str] = {}
        # A label file that cannot be read costs a comparison, not the import.
        with contextlib.suppress(OSError):
            if path.name in phononbench.LABEL_FILES:
                found = phononbench.read_labels(path)
            elif path.name == phononbench.SINGLE_SUMMARY:
                found = phononbench.read_single_summary(path)
        for name, text in found.items():
            labels[name].append(Label(path, name, text))
    return labels


def _by_name(files: Iterable[Path], ending: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path.name.endswith(ending):
            found[path.name.removesuffix(ending)].append(path)
    return found


def _with_label(job: Job, labels: dict[str, list[Label]], relaxed: dict[str, list[Path]]) -> Job:
    near = job.candidates[0]
    label = max(
        labels.get(job.name, ()), key=lambda entry: _nearness(entry.file, near), default=None
    )
    cif = max(relaxed.get(job.name, ()), key=lambda path: _nearness(path, near), default=None)
    return Job(job.name, job.candidates, job.beside, label, cif)


def _nearness(path: Path, other: Path) -> tuple[int, bool]:
    """Return how close two files are in the tree of folders, for comparison.

    Names repeat from one generator's folder to the next, and labels are in another tree than
    phonons, in a folder of the same name (gpu0_part0).
    """
    common = os.path.commonpath([path.absolute(), other.absolute()])
    return len(Path(common).parts), path.parent.name == other.parent.name


def _without_phonons(
    jobs: Sequence[Job],
    labels: dict[str, list[Label]],
    relaxed: dict[str, list[Path]],
    files: Iterable[Path],
) -> Iterator[Job]:
    """Yield crystals that have only a relaxed cell or a label."""
    taken = {job.label for job in jobs} | {job.cif for job in jobs}
    reasons: dict[str, str] = {}
    for path in files:
        if path.name == phononbench.RUN_SUMMARY:
            with contextlib.suppress(OSError):
                reasons |= phononbench.read_failures(path)
    labelled: set[Path] = set()
    for name, entries in labels.items():
        for label in entries:
            if label in taken:
                continue
            cif = max(
                relaxed.get(name, ()), key=lambda path: _nearness(path, label.file), default=None
            )
            if cif is not None and cif not in taken:
                labelled.add(cif)
            else:
                cif = None
            yield Job(name, (), Beside(), label, cif, reasons.get(name, ""))
    for name, paths in relaxed.items():
        for path in paths:
            if path not in taken and path not in labelled:
                yield Job(name, (), Beside(), None, path, reasons.get(name, ""))


def _settings_text(path: Path) -> str:
    if path.name != SETTINGS_FILE:
        return ""
    with contextlib.suppress(OSError, ValueError):
        return json.dumps(json.loads(path.read_text()), sort_keys=True)
    return ""
