"""Standard input, output and error: closed ones, those that nobody reads, and whose they are."""

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
    """A stream whose reader may go away, or whose disk may fill: that does not end the program."""

    _is_told = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what can be written; the rest is dropped, and said once on standard error."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if not LastingFile._is_told:
                LastingFile._is_told = True
                with contextlib.suppress(OSError):
                    text = f"hpcbench: output cannot be written ({error.strerror}): going on\n"
                    os.write(2, text.encode())
            return memoryview(data).nbytes


def lasting(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a text stream that outlives its reader.

    Parameters
    ----------
    descriptor : int
        Where it writes to; it is not closed with the stream.
    like : TextIOWrapper
        Whose encoding it takes.
    """
    raw = LastingFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=like.encoding, errors=like.errors, line_buffering=True
    )


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    The next files would get their numbers, and what is printed would be written into them.
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
    """Let no character end a command where the terminal has ASCII only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def outlive_readers() -> None:
    """Let standard output and error outlive those who read them: a computation goes on."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            new = lasting(descriptor, stream)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)


@contextlib.contextmanager
def own_output() -> Iterator[TextIO]:
    """Keep standard output for the program, and standard input from everybody.

    Inside, whatever is printed, by Python or below it, goes to standard error; nobody waits for
    what a person may type. Gives a stream that goes to standard output still.
    """
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper) or before is not sys.__stdout__:
        # Somebody else's stream, as in a notebook: only Python's prints can be led away.
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
