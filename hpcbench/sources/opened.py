"""An open file of crystals, as readers get it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import IO

from hpcbench.errors import UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.sources.streams import read_whole


@dataclass(frozen=True)
class OpenFile:
    """An open file of crystals, or a member of an archive.

    Attributes
    ----------
    stream : file
        What is in it, decompressed, in binary mode.
    path : str
        Its path, or its name in an archive.
    kind : str
        Name of its format.
    stem : str
        First part of the names of crystals without a name of their own.
    with_supercell : bool
        Whether to keep the supercell matrix that a file asks for, which is part of the content id.
    limits : Limits
        How much of it is read.
    """

    stream: IO[bytes]
    path: str
    kind: str
    stem: str
    with_supercell: bool = False
    limits: Limits = DEFAULT

    def data(self) -> bytes:
        """Return all bytes.

        Raises
        ------
        UnreadableError
            Kind "too large".
        """
        return read_whole(self.stream, self.kind, self.limits)

    def text(self) -> str:
        """Return the whole text; bytes that are not UTF-8, as in authors' names, are replaced.

        Raises
        ------
        UnreadableError
            Kinds "too large" (the file, or a line or the nesting, where the format has a limit for
            it), "empty", "binary".
        """
        data = self.data()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16", errors="replace")
        else:
            text = data.decode("utf-8-sig", errors="replace")
        del data
        if not text or text.isspace():
            raise UnreadableError("empty", "the file is empty")
        if "\0" in text:
            raise UnreadableError("binary", "the file is not text")
        text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        self.limits.check_text(self.kind, text)
        return text
