"""Reading a store, finished or under way."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import StoreError, UsageError
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS, DONE
from hpcbench.store.tables import TableReader

if TYPE_CHECKING:
    import pandas
    from phonopy import Phonopy


@dataclass(frozen=True, eq=False)
class Bands:
    """A band structure as stored.

    Attributes
    ----------
    distances : list of ndarray, each shape (nq,)
        Distance along the path in 1/A, by segment.
    frequencies : list of ndarray, each shape (nq, nbands)
        In THz, by segment.
    labels : list of (str, str)
        First and last point of each segment.
    """

    distances: list[NDArray[np.float64]]
    frequencies: list[NDArray[np.float64]]
    labels: list[tuple[str, str]]


class Store:
    """The results of a run: the consolidated file, and segments that are not in it yet.

    Opening it changes nothing and works while a run is under way; it shows what was committed
    when it was opened, or since :meth:`refresh`. When a launch ends, its segments become part
    of a new file: then it looks again by itself.

    Parameters
    ----------
    path : path
        The store, e.g. ``store.h5``.

    Raises
    ------
    StoreError
        If there is neither a store nor a run of this name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = RunFolder(path)
        self.path = self.folder.store
        # Segments are listed before the store is: one that is consolidated in between is then
        # found in the store, not missed.
        segments = self.folder.segment_paths()
        segments = [path for path in segments if path.exists()]
        self._parts = [*([self.path] if self.path.exists() else []), *segments]
        if not self._parts and not self.folder.path.exists():
            raise StoreError(f"{self.path}: no such store")
        self._where: dict[str, tuple[Path, int]] = {}
        self._inodes: dict[Path, int] = {}
        self._table: pandas.DataFrame | None = None
        voided = self.folder.voided()
        for part in self._parts:
            with TableReader(part) as reader:
                self._inodes[part] = part.stat().st_ino
                for index, key in reader.keys(voided):
                    self._where.setdefault(key, (part, index))

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.__init__(self.path)  # type: ignore[misc]

    def _refresh_if_replaced(self) -> None:
        # A launch that ends puts its segments into a new file.
        for part, inode in self._inodes.items():
            if not part.exists() or part.stat().st_ino != inode:
                self.refresh()
                return

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def __repr__(self) -> str:
        return f"<hpcbench store {self.path} with {len(self)} crystals>"

    @property
    def ids(self) -> list[str]:
        """Content ids in order of storage."""
        return list(self._where)

    def finished_ids(self) -> list[str]:
        """Ids of crystals that have a result: computed, or failed with a reason."""
        return [key for key in self._where if not key.startswith("x")]

    def unfinished_ids(self) -> list[str]:
        """Ids of crystals of the run's list that have no result yet."""
        if not self.folder.crystals.exists():
            return []
        with TableReader(self.folder.crystals) as reader:
            listed = zip(reader.column("id"), reader.column("reason"), strict=True)
            return [key for key, reason in listed if not reason and key not in self._where]

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the results: protocol, model, weights, precision, supercell, ..."""
        if self._parts:
            with TableReader(self._parts[0]) as reader:
                return reader.settings
        return self.folder.settings()

    @property
    def table(self) -> pandas.DataFrame:
        """All scalar columns, a row for each crystal, those that failed included."""
        self._refresh_if_replaced()
        if self._table is None:
            self._table = self._read_table()
        return self._table

    def _read_table(self) -> pandas.DataFrame:
        import pandas

        frames = []
        for part in self._parts:
            with TableReader(part) as reader:
                columns = {name: reader.column(name) for name in reader.column_names()}
            keep = [
                index
                for index, key in enumerate(columns["id"])
                if self._where.get(key) == (part, index)
            ]
            scalars = {name: values for name, values in columns.items() if values.ndim == 1}
            frames.append(pandas.DataFrame(scalars).iloc[keep])
        if self.folder.crystals.exists():
            # Crystals that were set aside before the run have their row from the start.
            with TableReader(self.folder.crystals) as reader:
                listed = {
                    name: reader.column(name)
                    for name in ("id", "name", "origins", "formula", "natoms", "status", "reason")
                }
            frame = pandas.DataFrame(listed)
            aside = (frame["reason"] != "") & ~frame["id"].isin(list(self._where))
            frames.append(frame[aside])
        frames = [frame for frame in frames if len(frame)]
        if not frames:
            return pandas.DataFrame({"id": [], "name": [], "status": [], "reason": []})
        table = pandas.concat(frames, ignore_index=True)
        texts = [c for c in table.columns if not pandas.api.types.is_numeric_dtype(table[c])]
        table[texts] = table[texts].fillna("")
        return table.set_index("id", drop=False)

    def find(self, words: str) -> str:
        """The id of the crystal that an id, the beginning of one, or a name stands for.

        Raises
        ------
        UsageError
            If it stands for none or for several.
        """
        if words in self._where:
            return words
        table = self.table
        matches = list(table.index[table["name"] == words]) or [
            key for key in table.index if len(words) >= 4 and key.startswith(words)
        ]
        if len(matches) == 1:
            return str(matches[0])
        if not matches:
            raise UsageError(f"{self.path} has no crystal {words!r}: give an id or a name")
        raise UsageError(f"{words!r} stands for {len(matches)} crystals: {', '.join(matches[:5])}")

    def row(self, key: str) -> dict[str, Any]:
        """Everything that is stored of one crystal.

        Raises
        ------
        KeyError
            If there is no such id.
        """
        self._refresh_if_replaced()
        if key not in self._where:
            return self._listed_row(key)
        part, index = self._where[key]
        with TableReader(part) as reader:
            return reader.row(index)

    def _listed_row(self, key: str) -> dict[str, Any]:
        if self.folder.crystals.exists():
            with TableReader(self.folder.crystals) as reader:
                found = np.flatnonzero(reader.column("id") == key)
                if len(found):
                    (row,) = reader.rows([int(found[0])], CRYSTALS)
                    return row
        raise KeyError(key)

    def phonopy(self, key: str) -> Phonopy:
        """The crystal's ``Phonopy`` object with its force constants.

        ``key`` is an id, the beginning of one, or a name. Cells, matrices and force constants
        are those of the run.

        Raises
        ------
        UsageError
            If there is no such crystal.
        StoreError
            If the crystal has no phonons, or this phonopy orders its supercell otherwise.
        """
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms

        key = self.find(key)
        row = self.row(key)
        self._require_phonons(key, row)
        phonon = Phonopy(
            PhonopyAtoms(
                numbers=row["numbers"],
                cell=row["relaxed_cell"],
                positions=row["relaxed_positions"],
            ),
            supercell_matrix=row["supercell_matrix"],
            primitive_matrix=row["primitive_matrix"],
            symprec=self.settings["symprec"],
        )
        if not np.array_equal(phonon.primitive.p2s_map, row["p2s_map"]):
            raise StoreError(
                f"{key}: the installed phonopy orders the supercell otherwise than the one that "
                f"computed it ({json.loads(row['provenance']).get('phonopy')})"
            )
        shape = (len(phonon.primitive), len(phonon.supercell), 3, 3)
        phonon.force_constants = np.array(row["force_constants"]).reshape(shape)
        return phonon

    def bands(self, key: str) -> Bands:
        """The crystal's band structure; ``key`` as in :meth:`phonopy`.

        Raises
        ------
        UsageError
            If there is no such crystal.
        StoreError
            If the crystal has no phonons.
        """
        key = self.find(key)
        row = self.row(key)
        self._require_phonons(key, row)
        qpoints, edges = row["band_qpoints"], row["band_segments"]
        frequencies = np.array(row["band_frequencies"]).reshape(len(qpoints), -1)
        primitive = row["primitive_matrix"].T @ row["relaxed_cell"]
        cartesian = qpoints @ np.linalg.inv(primitive).T
        distances, start = [], 0.0
        for first, end in itertools.pairwise(edges):
            steps = np.linalg.norm(np.diff(cartesian[first:end], axis=0), axis=1)
            distances.append(start + np.concatenate([[0.0], np.cumsum(steps)]))
            start = float(distances[-1][-1])
        return Bands(
            distances,
            [frequencies[a:b] for a, b in itertools.pairwise(edges)],
            [(a, b) for a, b in json.loads(row["band_labels"])],
        )

    def _require_phonons(self, key: str, row: dict[str, Any]) -> None:
        if row["status"] != DONE:
            raise StoreError(f"{row['name']} ({key}) has no phonons: {row['reason']}")


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store for reading; see :class:`Store`."""
    return Store(path)
