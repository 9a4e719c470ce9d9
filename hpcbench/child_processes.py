"""Say what processes of our own are started with."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from hpcbench.version import PACKAGE


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of ours, which does not look into the working folder.

    A file ``h5py.py`` beside somebody's data must not be taken for the package.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return the variables of this process, with the place of this package in ``PYTHONPATH``.

    Without the working folder there, which an empty entry stands for.
    """
    home = str(PACKAGE.resolve().parent)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = ""
    with contextlib.suppress(OSError):  # it may have been removed
        here = os.getcwd()
    kept = [path for path in given if path and (not here or os.path.abspath(path) != here)]
    if Path(home).name not in ("site-packages", "dist-packages"):
        # Not installed, or where its sources are: nothing else of Python lies there.
        kept.append(home)
    return os.environ | {"PYTHONPATH": os.pathsep.join(kept)}
