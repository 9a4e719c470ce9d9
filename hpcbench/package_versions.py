"""Versions of the packages that determine results, without importing these."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hpcbench.version import __version__

DECIDING = ("phonopy", "ase", "spglib", "seekpath", "numpy", "torch")


def deciding_versions(*more: str) -> dict[str, str]:
    """Return versions by package: hpcbench, the packages behind every result, and ``more``.

    It takes about ten file operations for each package.
    """
    # The version of the running code, which may differ from an installed one.
    return {"hpcbench": __version__} | {name: installed(name) for name in (*DECIDING, *more)}


def installed(package: str) -> str:
    """Return the version of an installed package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
