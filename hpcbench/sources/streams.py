"""Read no more of a stream than a limit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

from hpcbench.limits import Limits

# A reading of more than this at once would allocate it.
_CHUNK = 2**20


class Capped(io.RawIOBase):
    """Give no more bytes of a stream than a format's limit.

    Raises
    ------
    UnreadableError
        Kind "too large", from reading beyond it.
    """

    def __init__(self, stream: IO[bytes], kind: str, limits: Limits) -> None:
        self._stream: Any = stream
        self._kind, self._limits = kind, limits
        self._read = 0

    def readable(self) -> bool:
        """Tell that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at most a MiB at once, and never more than the limit in all."""
        # What is intact before damage comes first: so much as is there, and no more.
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
        How much is read.

    Raises
    ------
    UnreadableError
        Kind "too large", as soon as there are more than the limit of the format.
    """
    parts: list[bytes] = []
    with io.BufferedReader(Capped(stream, kind, limits), _CHUNK) as reader:
        while part := reader.read1(_CHUNK):
            parts.append(part)
    return b"".join(parts)


def lines_of(stream: IO[bytes], kind: str, limits: Limits) -> Iterator[str]:
    """Yield lines of a text, with their ends as they are.

    Parameters
    ----------
    stream : file
        The text.
    kind : str
        Its format.
    limits : Limits
        How much is read.

    Raises
    ------
    UnreadableError
        Kind "too large", at a line or after bytes above the limits of the format.
    """
    most = limits.of(kind, "line")
    reader = io.BufferedReader(Capped(stream, kind, limits), _CHUNK)
    text = io.TextIOWrapper(reader, encoding="utf-8-sig", errors="replace", newline="")
    while line := text.readline(most + 1):
        limits.check(kind, "line", len(line))
        yield line
