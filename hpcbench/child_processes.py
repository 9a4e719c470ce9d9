"""Command line and environment of hpcbench's own child processes."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from hpcbench.version import PACKAGE


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of one of this package's modules.

    Python does not look for modules in the working folder then: a file ``h5py.py`` next to a user's
    data must not be taken for the package.

    Parameters
    ----------
    module : str
        Its full name.
    *arguments : str
        Its arguments.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return the variables of this process, with the place of this package in ``PYTHONPATH``.

    The working folder, for which an empty entry stands, is removed from it.
    """
    home = str(PACKAGE.resolve().parent)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = ""
    with contextlib.suppress(OSError):  # it may have been removed
        here = os.getcwd()
    kept = [path for path in given if path and (not here or os.path.abspath(path) != here)]
    if Path(home).name not in ("site-packages", "dist-packages"):
        # A source folder, which contains no other Python packages.
        kept.append(home)
    return os.environ | {"PYTHONPATH": os.pathsep.join(kept)}
