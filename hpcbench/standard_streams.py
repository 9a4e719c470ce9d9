"""Standard input, output and error: closed streams, lost readers, and redirection."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class LastingFile(io.FileIO):
    """A stream that survives the loss of its reader and a full disk."""

    _is_told = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data if possible; otherwise drop them, with one message on standard error."""
        try:
            return super().write(data)
        except OSError as error:
            if not LastingFile._is_told:
                LastingFile._is_told = True
                with contextlib.suppress(OSError):
                    text = f"hpcbench: output cannot be written ({error.strerror}): going on\n"
                    os.write(2, text.encode())
            return memoryview(data).nbytes


def lasting(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a text stream that survives the loss of its reader.

    Parameters
    ----------
    descriptor : int
        Descriptor that it writes to; it is not closed with the stream.
    like : TextIOWrapper
        A stream with the same encoding.
    """
    raw = LastingFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=like.encoding, errors=like.errors, line_buffering=True
    )


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next opened files would get their numbers, and output would be written into them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
            stream = os.fdopen(descriptor, "w" if descriptor else "r", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def print_any_character() -> None:
    """Replace characters that the terminal cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def outlive_readers() -> None:
    """Make standard output and error survive the loss of their readers."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            new = lasting(descriptor, stream)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)


@contextlib.contextmanager
def own_output() -> Iterator[TextIO]:
    """Reserve standard output for the program, and close standard input for everything else.

    Inside, all other output, of Python or of libraries, goes to standard error, and reading from
    standard input returns nothing. Yields a stream that still writes to standard output.
    """
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper) or before is not sys.__stdout__:
        # A foreign stream, as in a notebook: only Python's prints can be redirected.
        with contextlib.redirect_stdout(sys.stderr):
            yield before or sys.stderr
        return
    before.flush()
    kept_output, kept_input = os.dup(1), os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    own_descriptor = os.dup(1)
    own = lasting(own_descriptor, before)
    try:
        os.dup2(2, 1)
        os.dup2(nothing, 0)
        with contextlib.redirect_stdout(sys.stderr):
            yield own
    finally:
        own.close()
        os.dup2(kept_output, 1)
        os.dup2(kept_input, 0)
        for descriptor in (own_descriptor, kept_output, kept_input, nothing):
            os.close(descriptor)
