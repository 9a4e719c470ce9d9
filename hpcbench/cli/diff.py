"""The command ``hpcbench diff``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.options import add_force

HELP = "crystals of which two stores say different things"
DESCRIPTION = (
    "Compare the crystals that two stores have in common: status, verdict, lowest "
    "frequencies. Exit code 1 if they differ."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("first", metavar="STORE")
    parser.add_argument("second", metavar="STORE")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="THZ",
        help="differences of frequencies up to this do not count (default: 0.01)",
    )
    parser.add_argument("--png", metavar="FILE", help="draw one's frequencies against the other's")
    parser.add_argument("--csv", metavar="FILE", help="write all that differ into a table")
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Print the differences of two stores; return 1 if there are any."""
    from hpcbench.maintenance.diff import diff
    from hpcbench.report.difference import draw_difference, print_difference, write_difference
    from hpcbench.store.reader import Store

    difference = diff(Store(options.first), Store(options.second), options.tolerance)
    print_difference(difference)
    if options.csv:
        write_difference(difference, Path(options.csv), force=options.force)
        print(options.csv)
    if options.png:
        titles = (Path(options.first).name, Path(options.second).name)
        draw_difference(difference, titles, Path(options.png), force=options.force)
        print(options.png)
    return 0 if difference.is_empty else 1
