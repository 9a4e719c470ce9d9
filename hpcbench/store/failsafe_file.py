"""A file that HDF5 survives writing to, whatever the disk does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


class PatientFile(io.FileIO):
    """A file that remembers its first error instead of raising it.

    HDF5 does not survive a write that fails: on a full disk it ends the process with a
    segmentation fault when it closes the file. Nor does it survive to read something else than
    it has written. So it is told that all went well, what could not be written is kept until the
    file is closed, and the writer looks at ``error`` after each block of rows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self.error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        """Write, or keep what cannot be written."""
        view = memoryview(data).cast("B")
        place, done = self.tell(), 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        if done < len(view):
            self._unwritten.append((place, bytes(view)))
            self.seek(place + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, or would have been."""
        view = memoryview(buffer).cast("B")
        place = self.tell()
        there = super().readinto(view) or 0
        if self.error is None:
            return there
        view[there:] = bytes(len(view) - there)
        for first, data in self._unwritten:
            start, end = max(first, place), min(first + len(data), place + len(view))
            if start < end:
                view[start - place : end - place] = data[start - first : end - first]
        self.seek(place + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length, or remember that it could not be changed."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
