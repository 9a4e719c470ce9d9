"""Keep standard output for the program; what libraries and potentials print goes elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


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
    own = os.fdopen(os.dup(1), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        os.dup2(2, 1)
        os.dup2(nothing, 0)
        with contextlib.redirect_stdout(sys.stderr):
            yield own
    finally:
        own.close()
        os.dup2(kept_output, 1)
        os.dup2(kept_input, 0)
        for descriptor in (kept_output, kept_input, nothing):
            os.close(descriptor)
