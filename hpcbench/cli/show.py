"""The command ``hpcbench show``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.options import add_force, add_store
from hpcbench.cli.stores import store_path

HELP = "one crystal: its data and its bands"
DESCRIPTION = (
    "Print what the store has of one crystal, and draw its band structure in "
    "the terminal or into a PNG."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "crystal",
        metavar="ID",
        help="an id, the beginning of one, or a name; with :first and the like behind it an "
        "earlier computation of the crystal, as is printed of those computed more than once",
    )
    add_store(parser)
    add_store(parser, positional=False)
    parser.add_argument("--png", metavar="FILE", help="draw the bands into this file instead")
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Print a crystal's data and draw its bands; return 1 if it has none."""
    from hpcbench.report.terminal import draw_bands, print_crystal
    from hpcbench.store.reader import Store
    from hpcbench.store.schema import DONE

    store = Store(store_path(options.store_option or options.store))
    key = store.find(options.crystal)
    row = store.row(key)
    crystal = row.get("parent") or key
    others = [store.row(other) for other in store.versions(crystal) if other != key]
    print_crystal(row, store.settings["temperatures"], others)
    if row["status"] != DONE:
        return 1
    if options.png:
        from hpcbench.report.band_plots import save_bands

        picture = Path(options.png)
        print(save_bands(store.bands(key), picture, title=row["name"], force=options.force))
    else:
        draw_bands(store.bands(key))
    return 0
