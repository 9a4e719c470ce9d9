"""The command ``hpcbench doctor``."""

from __future__ import annotations

import argparse

from hpcbench.cli.options import add_store

HELP = "check this machine and this installation"
DESCRIPTION = (
    "Check Python, packages, MPI, potentials, GPUs, and the folder of a store. "
    "Under srun or mpiexec all ranks are checked together: do they find each other, have a "
    "GPU each, run the same software, see the same folder?"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)


def run(options: argparse.Namespace) -> int:
    """Check this machine, and return the exit code."""
    from hpcbench.cli import doctor_checks

    return doctor_checks.run(options)
