"""Whether a run can write where it wants to."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

# Enough that a quota or a full disk says so, and done in some 20 ms.
PROBE_BYTES = 4 * 2**20
# A file that another host has just written may take so long to appear (NFS), in seconds.
PATIENCE = 10.0


def write_probe(path: Path) -> None:
    """Write a file to the disk as results are written: for good, not into a cache.

    Raises
    ------
    OSError
        If it cannot be written; nothing of it is left then.
    """
    try:
        with path.open("xb") as stream:
            # Random, for some file systems compress.
            stream.write(os.urandom(PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def look(folder: Path, name: str, rank: int) -> tuple[bool, str, str]:
    """Whether rank 0's file is missing here; why this rank cannot write, and what to do."""
    if not name:
        return False, "", ""  # rank 0 could not write: it says so, and there is nothing to see
    end = time.monotonic() + PATIENCE
    while not os.path.exists(folder / name):  # unlike Path's, without an error
        if time.monotonic() > end:
            return True, "", ""
        time.sleep(0.1)
    # A link: what a lease is, and the one thing that every rank must be able to make.
    link = folder / f"{name.removesuffix('.part')}-{rank:05d}.part"
    try:
        link.symlink_to(name)
        link.unlink()
    except OSError as error:
        return False, error.strerror or str(error), remedy(error, folder)
    return False, "", ""


def remedy(error: OSError, folder: Path) -> str:
    """What to do about a folder that cannot be written."""
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
    """A note if the file system has less room than the results will take, in bytes; or empty."""
    free = free_bytes(folder)
    if free >= needed:
        return ""
    return (
        f"the results will take about {size(needed)}, but {folder.parent} has {size(free)} free "
        f"(a quota may be smaller still): make room while the run goes on, or stop it and give "
        f"--out elsewhere. A full disk ends the run, and loses nothing that was written before"
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system; quotas are not seen."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def size(number: float) -> str:
    """Bytes for people."""
    exponent = next((e for e in (12, 9, 6) if number >= 10**e), 3)
    return f"{number / 10**exponent:.3g} {({12: 'T', 9: 'G', 6: 'M', 3: 'k'})[exponent]}B"
