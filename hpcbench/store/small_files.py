"""Small files of a run's folder: read whole, replaced whole, and told apart."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hpcbench.errors import StoreError
from hpcbench.outputs import HDF5, temporary_name

Stamp = tuple[int, int, int] | None
"""Inode, time of change in ns, and size of a file; ``None`` of one that is not there."""


def begins_as_hdf5(path: Path) -> bool:
    """Tell whether a file begins as HDF5 files do."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.read(len(HDF5)) == HDF5
    return False


def text_of(path: Path) -> str:
    """Return the text of a small file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If it cannot be read, or is no file: reading from a pipe would wait for somebody who writes.
    """
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path}: cannot be read: is no file")
        return path.read_text()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def stamp(path: Path) -> Stamp:
    """Return what tells a file from one that has replaced it; ``None`` if there is none.

    The number of its inode alone does not: numbers are used again.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def replace_text(path: Path, text: str) -> None:
    """Write a small file that readers see whole, in its old or its new form.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        What is in it then.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    temporary = temporary_name(path.parent, path.name)
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
