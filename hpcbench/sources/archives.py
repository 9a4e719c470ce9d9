"""Archives (zip and tar, compressed or not), read in memory.

Nothing is extracted, so a member's path is only a name: absolute paths and ``..`` do no harm.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple

from hpcbench.errors import UnreadableError

BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # zipfile's word for an encrypted member
    NotImplementedError,  # and for an unknown compression
    ValueError,
)
"""What the libraries raise for damaged archives and members."""


class Member(NamedTuple):
    """A file in an archive, and a way to open it before the next one is asked for."""

    name: str
    open: Callable[[], IO[bytes]]


def members(path: str) -> Iterator[Member]:
    """Files of an archive in its own order, each with a way to open it.

    Raises
    ------
    UnreadableError
        Kind "archive", at the place where the archive is damaged: members before it come first.
    """
    try:
        if path.lower().endswith(".zip"):
            yield from _zip_members(path)
        else:
            yield from _tar_members(path)
    except BROKEN as error:
        raise UnreadableError("archive", f"damaged or not an archive ({error})") from error


def _zip_members(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield Member(member.filename, partial(archive.open, member))


def _tar_members(path: str) -> Iterator[Member]:
    # In the order of the file: going back in a compressed archive would start it anew.
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isreg():
                yield Member(member.name, partial(_open, archive, member))


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:  # not for regular files, the only ones asked for
        raise tarfile.ReadError(f"{member.name} has no content")
    return stream
