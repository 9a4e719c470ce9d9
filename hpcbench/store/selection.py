"""Select the rows of a store: the crystals of the latest list, or chosen ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpcbench.store.files import Files
from hpcbench.store.schema import AGAIN


class Selection:
    """The crystals of the latest list, or chosen rows.

    Parameters
    ----------
    files : Files
        The files of the store.
    ids : iterable of str, optional
        The rows that were chosen.
    """

    def __init__(self, files: Files, ids: Iterable[str] | None = None) -> None:
        self._files = files
        self._chosen: list[str] | None = None
        if ids is not None:
            wanted = set(ids)
            self._chosen = [key for key in files.where if key in wanted]
        # By the generation of the files.
        self._selected: tuple[int, dict[str, tuple[Path, int]]] | None = None

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing was chosen."""
        return self._chosen is None

    @property
    def where(self) -> dict[str, tuple[Path, int]]:
        """Return, by id, the file and the row in it, in the order of storage."""
        where = self._files.where
        if self._selected is None or self._selected[0] != self._files.generation:
            chosen = self._chosen
            if chosen is None:
                earlier = self._files.earlier
                chosen = [key for key in where if AGAIN not in key and key not in earlier]
            some = {key: where[key] for key in chosen if key in where}
            self._selected = self._files.generation, some
        return self._selected[1]

    def has(self, key: str) -> bool:
        """Tell whether there is such a crystal, also of an earlier list, or earlier computation."""
        beside = AGAIN in key or key in self._files.earlier
        return key in self.where or (beside and key in self._files.where)

    def belonging(self, is_wanted: Callable[[str], bool]) -> Iterator[str]:
        """Yield ids of rows that belong to crystals, to those that were chosen if some were."""
        earlier = self._files.earlier
        for crystal, others in self._files.others.items():
            # Of a damaged store it may be that only the history is left.
            is_counted = self.is_whole and crystal not in earlier
            if is_counted or crystal in self.where:
                yield from filter(is_wanted, others)
