"""Reading of archives (zip and tar, compressed or not) in memory.

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
    RuntimeError,  # from zipfile, for an encrypted member
    NotImplementedError,  # from zipfile, for an unknown compression
    ValueError,
)
"""Exceptions of the libraries for damaged archives and members."""

# Largest size in bytes at which an opened member of a tar is kept in memory: opening it again would
# decompress the archive from its beginning.
_KEPT = 2**24
# Longer headers of a tar contain no names. Data are read in smaller pieces.
_LONGEST_HEADER = 2**22
# Largest plausible number of bytes for each member in a zip's list of contents.
_LONGEST_ENTRY = 1024
_COMPRESSED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"]\0\0", lzma.open),
)
_END, _END_64 = b"PK\5\6", b"PK\6\6"


class Member(NamedTuple):
    """A file in an archive.

    Attributes
    ----------
    name : str
        Name in the archive.
    size : int
        In bytes, according to the archive.
    open : callable or None
        Opens it, before the next one is requested; ``None`` for links and devices.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None


def members(path: str, limits: Limits = DEFAULT) -> Iterator[Member]:
    """Yield the files of an archive in its own order.

    Parameters
    ----------
    path : str
        The archive.
    limits : Limits
        Largest numbers of members and bytes.

    Raises
    ------
    UnreadableError
        Kind "archive", at the place where the archive is damaged, and kind "too large", if
        there are more members or bytes than the limits. Earlier members have been yielded.
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
            # Overlapping members would let a file of some kB contain any number of large ones.
            if member.header_offset in begun:
                raise zipfile.BadZipFile("members that overlap")
            begun.add(member.header_offset)
            limits.check("archive", "bytes", total)
            total += member.file_size
            if not member.is_dir():
                yield Member(member.filename, member.file_size, partial(archive.open, member))


def _check_contents(path: str, limits: Limits) -> None:
    """Check the size of a zip's list of contents, which the library reads as a whole."""
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
    """A stream that refuses to read tar headers that would take much memory."""

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
            # In the order of the file: going back would decompress it again from the beginning.
            while (member := archive.next()) is not None:
                # The library would keep all headers in memory.
                archive.members.clear()  # type: ignore[attr-defined]
                # The position of the next header: holes of sparse members do not count.
                limits.check("archive", "bytes", archive.offset)
                if not member.isdir():
                    opener = _opener(archive, member) if member.isreg() else None
                    yield Member(member.name, member.size, opener)
        # The library stops at a header that it cannot read, as if the file ended there.
        if headers.last.strip(b"\0"):
            raise tarfile.ReadError("a header in the middle of it")


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Return the decompressed stream; names of tar archives often do not show the compression."""
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
                # In pieces smaller than _LONGEST_HEADER, above which _Headers refuses to read.
                content = b"".join(iter(lambda: stream.read(_LONGEST_HEADER // 2), b""))
        return _open(archive, member) if content is None else io.BytesIO(content)

    return opened


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:  # not for regular files, the only ones asked for
        raise tarfile.ReadError(f"{member.name} has no content")
    return stream
