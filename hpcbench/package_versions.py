"""Versions of the packages that decide results. Loads none of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hpcbench.version import __version__

DECIDING = ("phonopy", "ase", "spglib", "seekpath", "numpy", "torch")


def deciding_versions(*more: str) -> dict[str, str]:
    """Versions by package: hpcbench, those that every result goes through, and ``more``.

    About ten file operations for each package.
    """
    # Of what runs, which need not be what is installed.
    return {"hpcbench": __version__} | {name: installed(name) for name in (*DECIDING, *more)}


def installed(package: str) -> str:
    """The version of an installed package; empty where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
