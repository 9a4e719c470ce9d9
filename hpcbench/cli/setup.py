"""``hpcbench models``: the potentials, and their weights."""

from __future__ import annotations

import argparse


def models_command(options: argparse.Namespace) -> int:
    """List potentials, or fetch weights."""
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
    print("  module:callable        any ASE calculator, e.g. ase.calculators.emt:EMT")
    return 0
