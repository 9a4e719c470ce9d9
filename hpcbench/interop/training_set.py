"""Export of a training set: perturbed supercells of the relaxed crystals of a store."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from hpcbench.counting import counted
from hpcbench.errors import StoreError
from hpcbench.interop.export_files import done_rows, file_names
from hpcbench.interop.spreadsheets import as_cell
from hpcbench.interop.training_labels import gives_stress, label
from hpcbench.interop.training_recipe import PARTS, VASP, Recipe
from hpcbench.interop.training_split import (
    FIELDS,
    Split,
    composition_of,
    supercell_of,
)
from hpcbench.outputs import TRAINING_FILE, written_whole
from hpcbench.phonons.perturbed import perturbations
from hpcbench.texts import one_line, shown_reason

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.protocol import Potential
    from hpcbench.store.reader import Store

TABLE = "crystals.csv"
"""The file that says what became of each crystal."""

_COLUMNS = (
    "id", "name", "composition", "part", "repeated", "atoms", "supercells", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Count what a training set holds.

    Attributes
    ----------
    crystals, supercells : Counter
        Their numbers, by part.
    left_out : int
        Crystals that are in no part.
    """

    crystals: Counter[str] = field(default_factory=Counter)
    supercells: Counter[str] = field(default_factory=Counter)
    left_out: int = 0

    @property
    def text(self) -> str:
        """The numbers, for people."""
        parts = ", ".join(
            f"{part} {counted(self.crystals[part], 'crystal')} and "
            f"{counted(self.supercells[part], 'supercell')}"
            for part in PARTS
        )
        left_out = f"; {counted(self.left_out, 'crystal')} left out" if self.left_out else ""
        return f"{parts}{left_out}: see {TABLE}"


@dataclass
class _Perturbed:
    """A crystal on its way into the set; without supercells it is left out."""

    row: Mapping[str, Any]
    part: str = ""
    repeated: tuple[int, ...] = ()
    supercells: list[Atoms] = field(default_factory=list)
    reason: str = ""


def write_training_set(
    store: Store, folder: Path, recipe: Recipe, split: Split, potential: Potential | None
) -> Summary:
    """Write perturbed supercells of all crystals with phonons, crystal by crystal.

    The random numbers of a crystal follow from the seed and its id: other crystals do not change
    them, and a larger ``per_crystal`` only adds supercells.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the files go.
    recipe : Recipe
        What is wanted.
    split : Split
        Where the crystals go.
    potential : Potential or None
        Gives the labels, where the recipe wants them.

    Raises
    ------
    StoreError
        If no supercell could be labelled.
    """
    crystals, supercells, left_out = Counter[str](), Counter[str](), 0
    over_earlier = (folder / TRAINING_FILE).exists()
    with contextlib.ExitStack() as open_files:
        writer: _Folders | _Frames
        if recipe.unlabelled == VASP:
            writer = _Folders(folder, file_names(store))
        else:
            writer = _Frames(folder, open_files)
        table = _open(folder / TABLE, open_files)
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow(_COLUMNS)
        for one in _labelled(_perturbed(store, recipe, split), potential):
            if one.supercells:
                crystals[one.part] += 1
                supercells[one.part] += len(one.supercells)
                writer.write(one)
            else:
                left_out += 1
            lines.writerow(_line(one))
        if not supercells:
            raise StoreError(f"{store.path}: no supercell could be labelled ({one.reason})")
    for part in PARTS:
        if over_earlier and not supercells[part]:
            # By --force: a part of the earlier set would be taken for one of this.
            (folder / f"{part}.extxyz").unlink(missing_ok=True)
    summary = Summary(crystals, supercells, left_out)
    with written_whole(folder / TRAINING_FILE) as temporary:
        temporary.write_text(_about(store, recipe, potential, summary))
    return summary


def _perturbed(store: Store, recipe: Recipe, split: Split) -> Iterator[_Perturbed]:
    for row in done_rows(store, FIELDS):
        if same := split.duplicates.get(row["id"]):
            yield _Perturbed(row, reason=f"duplicate: the same crystal as {same}")
            continue
        try:
            repeated = supercell_of(row, recipe)
        except StoreError as error:
            yield _Perturbed(row, reason=shown_reason(str(error)))
            continue
        if row["id"] not in split.crystals:
            # A run goes on while its store is read.
            yield _Perturbed(row, reason="new: finished after the set was begun")
            continue
        part = split.parts[composition_of(row)]
        supercells = list(itertools.islice(_supercells(row, repeated, recipe), recipe.per_crystal))
        yield _Perturbed(row, part, repeated, supercells)


def _supercells(
    row: Mapping[str, Any], repeated: tuple[int, int, int], recipe: Recipe
) -> Iterator[Atoms]:
    from ase import Atoms

    ideal = Atoms(
        numbers=row["numbers"],
        cell=row["relaxed_cell"],
        positions=row["relaxed_positions"],
        pbc=True,
    ).repeat(repeated)
    # VASP wants the atoms of an element together.
    ideal = ideal[np.argsort(ideal.numbers, kind="stable")]
    key = f"{recipe.seed} {row['id']}"
    for number, positions in enumerate(
        perturbations(ideal.positions, *recipe.displacement, key), start=1
    ):
        atoms = ideal.copy()
        atoms.positions = positions
        atoms.info.update(id=row["id"], name=one_line(row["name"]), perturbation=number)
        yield atoms


def _labelled(crystals: Iterator[_Perturbed], potential: Potential | None) -> Iterator[_Perturbed]:
    """Yield crystals with labels; those of several are computed together, as many as fit."""
    if potential is None:
        yield from crystals
        return
    stress: bool | None = None
    for together in _batches(crystals, potential):
        supercells = [atoms for one in together for atoms in one.supercells]
        if supercells:
            if stress is None:
                stress = gives_stress(potential, supercells)
            reasons = label(potential, supercells, stress=bool(stress))
            failed = {id(supercells[index]): reason for index, reason in reasons.items()}
            for one in together:
                _leave_out(one, failed)
        yield from together


def _leave_out(one: _Perturbed, failed: Mapping[int, str]) -> None:
    """Take supercells without labels out of a crystal."""
    reasons = [failed[id(atoms)] for atoms in one.supercells if id(atoms) in failed]
    if reasons:
        what = f"{counted(len(reasons), 'supercell')} without labels"
        one.reason = shown_reason(f"{what}: {reasons[0]}")
        one.supercells = [atoms for atoms in one.supercells if id(atoms) not in failed]


def _batches(crystals: Iterator[_Perturbed], potential: Potential) -> Iterator[list[_Perturbed]]:
    waiting: list[_Perturbed] = []
    load = 0.0
    for one in crystals:
        cost = sum(
            potential.cost(len(atoms), abs(np.linalg.det(atoms.cell))) for atoms in one.supercells
        )
        if waiting and load + cost > potential.capacity:
            yield waiting
            waiting, load = [], 0.0
        waiting.append(one)
        load += cost
    if waiting:
        yield waiting


class _Frames:
    """Writes a file of frames for each part."""

    def __init__(self, folder: Path, open_files: contextlib.ExitStack) -> None:
        self._folder, self._open_files = folder, open_files
        self._streams: dict[str, TextIO] = {}

    def write(self, one: _Perturbed) -> None:
        """Write the supercells of a crystal."""
        from ase.io import write

        if one.part not in self._streams:
            path = self._folder / f"{one.part}.extxyz"
            self._streams[one.part] = _open(path, self._open_files)
        for atoms in one.supercells:
            write(self._streams[one.part], atoms, format="extxyz")


class _Folders:
    """Writes a folder with a POSCAR for each supercell."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self._folder, self._names = folder, names

    def write(self, one: _Perturbed) -> None:
        """Write the supercells of a crystal."""
        from ase.io import write

        for atoms in one.supercells:
            name = self._names[one.row["id"]]
            place = self._folder / one.part / name / str(atoms.info["perturbation"])
            place.mkdir(parents=True, exist_ok=True)
            with written_whole(place / "POSCAR") as temporary:
                write(temporary, atoms, format="vasp", direct=False)


def _open(path: Path, open_files: contextlib.ExitStack) -> TextIO:
    """Open a file that appears under its name when all are closed."""
    temporary = open_files.enter_context(written_whole(path))
    return open_files.enter_context(temporary.open("w", newline=""))


def _line(one: _Perturbed) -> list[str | int]:
    try:
        composition = composition_of(one.row)
    except (IndexError, ValueError):  # the reason says that it is no crystal
        composition = ""
    return [
        as_cell(str(one.row["id"])),
        as_cell(one_line(one.row["name"])),
        composition,
        one.part if one.supercells else "",
        " ".join(map(str, one.repeated)),
        len(one.supercells[0]) if one.supercells else 0,
        len(one.supercells),
        as_cell(one.reason),
    ]


def _about(store: Store, recipe: Recipe, potential: Potential | None, summary: Summary) -> str:
    labels = None
    if potential is not None:
        info = potential.info
        labels = {
            "model": info.name,
            "package": info.package,
            "version": info.version,
            "weights_sha256": info.weights_sha256,
            "dtype": info.dtype,
        }
    about = {
        "store": store.path.name,
        "recipe": asdict(recipe),
        "labels": labels,
        "crystals": {part: summary.crystals[part] for part in PARTS},
        "supercells": {part: summary.supercells[part] for part in PARTS},
        "left_out": summary.left_out,
    }
    return json.dumps(about, indent=1) + "\n"
