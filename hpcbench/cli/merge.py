"""The command ``hpcbench merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.counting import counted

HELP = "several stores as one"
DESCRIPTION = (
    "Write the crystals of several stores, computed with the same settings, into "
    "a new one. A crystal that is in several is taken from the first that could compute it."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("stores", nargs="+", metavar="STORE", help="in order of precedence")
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the new store")


def run(options: argparse.Namespace) -> int:
    """Write the crystals of several stores into a new one; return the exit code."""
    from hpcbench.maintenance.merge import merge
    from hpcbench.report.wording import earlier_words

    merged = merge([Path(store) for store in options.stores], Path(options.output))
    print(
        f"{options.output}: {counted(merged.crystals, 'crystal')}, {merged.in_several} of them "
        f"in several stores"
    )
    if note := earlier_words(merged.earlier):
        print(note)
    return 0
