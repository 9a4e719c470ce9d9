"""Looking at everything in a table: whether it is what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

import h5py

from hpcbench.errors import StoreError
from hpcbench.store.datasets import REFUSED
from hpcbench.store.faults import NOT_AS_WRITTEN, NOT_FOUND, Damage, is_of_system
from hpcbench.store.integrity import GROUP, digest, digest_frame
from hpcbench.store.structure import foreign_object
from hpcbench.store.table_reader import TableReader

ENCODINGS = ("array", "string-array", "categorical", "ragged")
"""Of fields, as this version knows them."""


class Examiner(TableReader):
    """Reads a table that may be damaged, and says what is.

    For a process that may die of it. Opened as a :class:`TableReader`.
    """

    def __init__(self, source: Path, *, tolerant: bool = False) -> None:
        super().__init__(source, tolerant=tolerant)
        what = ""
        # What is damaged is found when it is read.
        with contextlib.suppress(KeyError, OSError, RuntimeError, ValueError):
            what = foreign_object(self._file, with_gallery=True)
        if what:
            self.close()
            raise StoreError(REFUSED.format(self.path, what))

    def expected_rows(self) -> int:
        """Return how many rows were written."""
        return int(self._block_ends()[-1])

    def damage(
        self,
        tell: Callable[[tuple[str, int, int]], None] = lambda place: None,
        skip: Container[tuple[str, int, int]] = (),
    ) -> Iterator[Damage]:
        """Look at everything in the file, and say what is not as it was written.

        Parameters
        ----------
        tell : callable
            Told what is read next: a field and rows. A damaged file can end the process.
        skip : container
            What of that is not to be read.

        Raises
        ------
        OSError
            If the system cannot read the file, whatever is in it.
        """
        frame = ("", 0, 0)
        tell(frame)
        sums: Mapping[str, Sequence[bytes | None]] = {}
        try:
            edges = list(self.edges())
            # Without its sums a value is as good as HDF5's own checksums say.
            sums = dict.fromkeys(self._fields, [None] * len(edges))
            if frame not in skip:
                yield from self._damage_of_frame()
            sums = self.sums()
        except Exception as error:  # a broken file fails in all kinds of ways
            yield Damage(*frame, self._blame(error))
            if not sums:
                return
        for number, (first, end) in enumerate(edges):
            for path in sums:
                tell((path, first, end))
                if (path, first, end) not in skip and not self._is_unknown(path):
                    yield from self._damage_of_values(path, first, end, sums[path][number])

    def damage_of_values(self, path: str, first: int, end: int, expected: bytes | None) -> str:
        """Say what is wrong with the values of a field in a block; empty if nothing is.

        Parameters
        ----------
        path : str
            The field.
        first, end : int
            The block's rows.
        expected : bytes or None
            SHA-256 of its values; ``None`` where that is not known.

        Raises
        ------
        OSError
            If the system cannot read the file.
        """
        try:
            is_sound = expected in (None, digest(self._values(path, first, end)))
            return "" if is_sound else NOT_AS_WRITTEN
        except Exception as error:
            return self._blame(error)

    def _damage_of_values(
        self, path: str, first: int, end: int, expected: bytes | None
    ) -> Iterator[Damage]:
        what = self.damage_of_values(path, first, end, expected)
        if what:
            yield Damage(path, first, end, what)

    def _blame(self, error: Exception) -> str:
        """Return a description of damage from an error; raise the error if it is of the system."""
        if is_of_system(error):
            raise error
        return f"{type(error).__name__}: {error}".splitlines()[0]

    def _is_unknown(self, path: str) -> bool:
        """Return whether a field has an encoding that only later versions know."""
        if path in self._fields:
            return False
        try:
            kind = self._file[path].attrs["encoding-type"]
        except Exception:
            return False
        return kind not in ENCODINGS

    def _damage_of_frame(self) -> Iterator[Damage]:
        length = self.expected_rows()
        paths = set(self._summed_paths())
        if set(self._fields) - paths:
            yield Damage("", 0, 0, "the names of the fields with checksums are not as written")
            paths = set(self._fields)
        for path in sorted(paths - set(self._fields)):
            if not self._is_unknown(path):
                yield Damage(path, 0, length, NOT_FOUND)
        for path in sorted(paths & set(self._fields)):
            try:
                there = self._rows_of(path)
                what = f"{there} rows of {length}"
            except Exception as error:
                there, what = -1, f"{NOT_FOUND} ({self._blame(error)})"
            if there != length:
                yield Damage(path, 0, length, what)
        if digest_frame(self._file, paths) != bytes(self._file[f"{GROUP}/frame"][:]):
            yield Damage("", 0, 0, "settings, units or names are not what was written")

    def _rows_of(self, path: str) -> int:
        item = self._file[path]
        if path.startswith("ragged/"):
            return len(item["indptr"]) - 1
        return len(item["codes"] if isinstance(item, h5py.Group) else item)
