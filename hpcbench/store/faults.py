"""Describe faults of a table's file in words."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import DamageError

NOT_AS_WRITTEN = "not what was written"
NOT_FOUND = "it cannot be found"
SAYS_MORE = "hpcbench verify says more"


@dataclass(frozen=True)
class Damage:
    """Something that does not read back as it was written.

    Attributes
    ----------
    path : str
        The field; ``""`` for the file itself, or what is in it beside rows.
    first, end : int
        The rows in question.
    what : str
        What is wrong.
    """

    path: str
    first: int
    end: int
    what: str

    def __str__(self) -> str:
        where = f"{self.path}, rows {self.first} to {self.end - 1}: " if self.path else ""
        return f"{where}{self.what}"


def in_words(error: OSError) -> str:
    """Say why HDF5 cannot open a file."""
    if cut := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", str(error)):
        there, written = map(int, cut.groups())
        return f"cut off: {there} of {written} bytes are there"
    if "file signature not found" in str(error):
        return "is no HDF5 file, or its beginning is damaged"
    return f"cannot be opened as HDF5 ({error})"


def left_alone(store: Path) -> str:
    """Return what to do about a store whose file is broken, for whoever asked to have it mended."""
    aside = f"mv {shlex.quote(str(store))} {shlex.quote(str(store) + '.damaged')}"
    return (
        f"{store} cannot be repaired, and is as it was: put a copy of it there if you have one, "
        f"else move it away ({aside}) and give the same hpcbench run again, which writes a new "
        f"store; results in the run's folder that are not in the store yet are kept"
    )


def without_path(error: DamageError, path: Path) -> str:
    """Return what a table's reader has said, for those who know of which file and what to do.

    Parameters
    ----------
    error : DamageError
        What it has raised.
    path : Path
        The file.
    """
    return str(error).removeprefix(f"{path}: ").removesuffix(f"; {SAYS_MORE}").splitlines()[0]


def is_of_system(error: BaseException) -> bool:
    """Tell whether an error says nothing of the file: the system could not read it just now."""
    if isinstance(error, MemoryError):
        return True
    # HDF5's own errors come without a number; those of the system it quotes.
    return isinstance(error, OSError) and (error.errno is not None or "errno = " in str(error))


def require_each_once(path: Path | str, keys: Iterable[str]) -> None:
    """Refuse a table that has a crystal twice: nobody knows which of the two it is.

    Parameters
    ----------
    path : Path or str
        Names the table in the error.
    keys : iterable of str
        The ids of its rows.

    Raises
    ------
    DamageError
        With its id.
    """
    for key, times in Counter(keys).items():
        if times > 1:
            raise DamageError(f"{path}: {key} is in it {times} times; hpcbench repair leaves one")
