"""Archives (zip and tar, compressed or not), read in memory.

Nothing is extracted, so a member's path is only a name: absolute paths and ``..`` do no harm.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple, cast

from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits

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

# A member of a compressed tar that is opened twice is kept, up to so many bytes: going back would
# unpack the archive from its beginning.
_KEPT = 2**24
# Headers of a tar that are longer are no names. Data are read in smaller pieces.
_LONGEST_HEADER = 2**22
# Bytes of a zip's list of contents for each member, above which there is more than names in it.
_LONGEST_ENTRY = 1024
_COMPRESSED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"]\0\0", lzma.open),
)
_END, _END_64 = b"PK\5\6", b"PK\6\6"


class Member(NamedTuple):
    """Describe a file in an archive.

    Attributes
    ----------
    name : str
        As the archive has it.
    size : int
        In bytes, as the archive says.
    open : callable or None
        Opens it, before the next one is asked for; ``None`` for links and devices.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None


def members(path: str, limits: Limits = DEFAULT) -> Iterator[Member]:
    """Files of an archive in its own order, each with a way to open it.

    Raises
    ------
    UnreadableError
        Kind "archive", at the place where the archive is damaged, and kind "too large", where
        there are more members or bytes than the limits: members before it come first.
    """
    found = _zip_members if path.lower().endswith(".zip") else _tar_members
    try:
        for number, member in enumerate(found(path, limits), start=1):
            limits.check("archive", "members", number)
            yield member
    except BROKEN as error:
        raise UnreadableError("archive", f"damaged or not an archive ({error})") from error


def _zip_members(path: str, limits: Limits) -> Iterator[Member]:
    _check_contents(path, limits)
    total = 0
    begun: set[int] = set()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # A file of some kB could hold any number of large ones so.
            if member.header_offset in begun:
                raise zipfile.BadZipFile("members that overlap")
            begun.add(member.header_offset)
            limits.check("archive", "bytes", total)
            total += member.file_size
            if not member.is_dir():
                yield Member(member.filename, member.file_size, partial(archive.open, member))


def _check_contents(path: str, limits: Limits) -> None:
    """Look at the size of a zip's list of contents, which the library reads as a whole."""
    with open(path, "rb") as stream:
        length = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, length - 2**16 - 2**10))
        tail = stream.read()
    at, at_64 = tail.rfind(_END), tail.rfind(_END_64)
    sizes: list[int] = []
    if 0 <= at <= len(tail) - 16:
        sizes += struct.unpack_from("<I", tail, at + 12)
    if 0 <= at_64 <= len(tail) - 48:
        sizes += struct.unpack_from("<Q", tail, at_64 + 40)
    known = [size for size in sizes if size <= length]
    if max(known, default=0) > _LONGEST_ENTRY * limits.of("archive", "members"):
        raise limits.error("archive", "members")


class _Headers:
    """Refuse a header of a tar whose reading would take much memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self._stream.read(size)
        return self.last


def _tar_members(path: str, limits: Limits) -> Iterator[Member]:
    with open(path, "rb") as stream, _unpacked(stream) as plain:
        headers = _Headers(plain)
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as archive:
            # In the order of the file: going back in a compressed archive would start it anew.
            while (member := archive.next()) is not None:
                # It would keep all headers.
                archive.members.clear()  # type: ignore[attr-defined]
                # Where the next header is: holes of a sparse member take no room before it.
                limits.check("archive", "bytes", archive.offset)
                if not member.isdir():
                    opener = _opener(archive, member) if member.isreg() else None
                    yield Member(member.name, member.size, opener)
        # The library takes a header that it cannot read for the end.
        if headers.last.strip(b"\0"):
            raise tarfile.ReadError("a header in the middle of it")


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Return what is in a stream, compressed or not: names of tar archives often do not say it."""
    start = stream.read(6)
    stream.seek(0)
    for magic, opened in _COMPRESSED:
        if start.startswith(magic):
            return cast(IO[bytes], opened(stream))
    return stream


def _opener(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    content: bytes | None = None

    def opened() -> IO[bytes]:
        nonlocal content
        if content is None and member.size <= _KEPT:
            with _open(archive, member) as stream:
                # In pieces: one that is larger than any header would be taken for a bad one.
                content = b"".join(iter(lambda: stream.read(_LONGEST_HEADER // 2), b""))
        return _open(archive, member) if content is None else io.BytesIO(content)

    return opened


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:  # not for regular files, the only ones asked for
        raise tarfile.ReadError(f"{member.name} has no content")
    return stream
