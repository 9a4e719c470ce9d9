"""Reading of streams up to a limit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

from hpcbench.limits import Limits

# Bytes that are read at once: a larger request would allocate its whole size.
_CHUNK = 2**20


class Capped(io.RawIOBase):
    """A stream that cannot be read beyond a format's limit.

    Raises
    ------
    UnreadableError
        Kind "too large", when more is read.
    """

    def __init__(self, stream: IO[bytes], kind: str, limits: Limits) -> None:
        self._stream: Any = stream
        self._kind, self._limits = kind, limits
        self._read = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at most a MiB at once, and never more than the limit in all."""
        # read1 returns intact data before it meets damage; read would lose them.
        data = self._stream.read1(min(len(buffer), _CHUNK))
        self._read += len(data)
        self._limits.check(self._kind, "bytes", self._read)
        buffer[: len(data)] = data
        return len(data)


def read_whole(stream: IO[bytes], kind: str, limits: Limits) -> bytes:
    """Return all bytes of a stream.

    Parameters
    ----------
    stream : file
        The stream.
    kind : str
        Its format.
    limits : Limits
        Largest number of bytes.

    Raises
    ------
    UnreadableError
        Kind "too large", as soon as the limit of the format is exceeded.
    """
    parts: list[bytes] = []
    with io.BufferedReader(Capped(stream, kind, limits), _CHUNK) as reader:
        while part := reader.read1(_CHUNK):
            parts.append(part)
    return b"".join(parts)


def lines_of(stream: IO[bytes], kind: str, limits: Limits) -> Iterator[str]:
    """Yield the lines of a text, with their line ends.

    Parameters
    ----------
    stream : file
        The text.
    kind : str
        Its format.
    limits : Limits
        Largest numbers of bytes and of characters in a line.

    Raises
    ------
    UnreadableError
        Kind "too large", if a line or the number of bytes exceeds the limits of the format.
    """
    most = limits.of(kind, "line")
    reader = io.BufferedReader(Capped(stream, kind, limits), _CHUNK)
    text = io.TextIOWrapper(reader, encoding="utf-8-sig", errors="replace", newline="")
    while line := text.readline(most + 1):
        limits.check(kind, "line", len(line))
        yield line
