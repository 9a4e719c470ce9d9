"""The command ``hpcbench models``."""

from __future__ import annotations

import argparse

HELP = "potentials: which there are, which can be used here"
DESCRIPTION = "List the potentials, or fetch weights."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download the weights of a potential")
    fetch.add_argument("name", metavar="NAME", help="e.g. mattersim-v1.0.0-5M")


def run(options: argparse.Namespace) -> int:
    """List potentials, or fetch weights; return the exit code."""
    if options.action == "fetch":
        from hpcbench.potentials.fetch import fetch_weights

        print(fetch_weights(options.name))
        return 0
    from hpcbench.potentials.registry import listed_potentials

    for line in listed_potentials():
        mark = "+" if line.available else "-"
        print(f"{mark} {line.name:22} {line.description:42} {line.state}")
        if line.abilities:
            print(f"  {'':22} {line.abilities}")
    print("  FILE.pth               a MatterSim checkpoint")
    print("  FILE.nqx, FILE.pt      weights of Nequix")
    print("  FILE.model             a model of MACE, with package mace-torch")
    print("  module:callable        any ASE calculator, e.g. ase.calculators.emt:EMT")
    return 0
