"""Checks that a run can write to its folder."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

# Enough to detect a quota or a full disk, and written in some 20 ms.
PROBE_BYTES = 4 * 2**20
# Seconds after which a file that another host has just written has appeared (NFS).
PATIENCE = 10.0


def write_probe(path: Path) -> None:
    """Write a file and sync it to disk, as results are written.

    Raises
    ------
    OSError
        If it cannot be written; the file is then removed.
    """
    try:
        with path.open("xb") as stream:
            # Random, because some file systems compress.
            stream.write(os.urandom(PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def look(folder: Path, name: str, rank: int) -> tuple[bool, str, str]:
    """Check that this rank sees rank 0's file, and can make a link to it.

    Parameters
    ----------
    folder : Path
        The run's folder.
    name : str
        Name of the file that rank 0 wrote; empty if it could not.
    rank : int
        This rank.

    Returns
    -------
    bool, str, str
        Whether the file is missing, why this rank cannot write, and the remedy.
    """
    if not name:
        return False, "", ""  # rank 0 could not write, and reports it
    end = time.monotonic() + PATIENCE
    while not os.path.exists(folder / name):  # unlike Path's, without an error
        if time.monotonic() > end:
            return True, "", ""
        time.sleep(0.1)
    # A link, because a lease is one: every rank must be able to make it.
    link = folder / f"{name.removesuffix('.part')}-{rank:05d}.part"
    try:
        link.symlink_to(name)
        link.unlink()
    except OSError as error:
        return False, error.strerror or str(error), remedy(error, folder)
    return False, "", ""


def remedy(error: OSError, folder: Path) -> str:
    """Return advice on a folder that cannot be written.

    Parameters
    ----------
    error : OSError
        The error.
    folder : Path
        The folder.
    """
    match error.errno:
        case errno.ENOSPC:
            return f"make room (`df -h {folder}`, `df -i {folder}`), or give --out elsewhere"
        case errno.EDQUOT:
            return "your quota is used up: make room (`quota -s`), or give --out elsewhere"
        case errno.EPERM | errno.ENOSYS | errno.EOPNOTSUPP:
            return "ranks need a file system with symbolic links: give --out on another one"
        case _:
            return "give --out a path in a folder that every node can write"


def compare_room(folder: Path, needed: float) -> str:
    """Return a note if the file system has less room than the results need; else "".

    Parameters
    ----------
    folder : Path
        The run's folder.
    needed : float
        In bytes.
    """
    free = free_bytes(folder)
    if free >= needed:
        return ""
    return (
        f"the results will take about {size(needed)}, but {folder.parent} has {size(free)} free "
        f"(a quota may be smaller still): make room while the run goes on, or stop it and give "
        f"--out elsewhere. A full disk ends the run, and loses nothing that was written before"
    )


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to the file system, without quotas."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def size(number: float) -> str:
    """Format a number of bytes for people."""
    exponent = next((e for e in (12, 9, 6) if number >= 10**e), 3)
    return f"{number / 10**exponent:.3g} {({12: 'T', 9: 'G', 6: 'M', 3: 'k'})[exponent]}B"
