"""The command ``hpcbench export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpcbench.cli.options import add_force, add_store
from hpcbench.cli.stores import store_path
from hpcbench.counting import counted
from hpcbench.errors import UsageError
from hpcbench.interop.export_formats import FORMATS
from hpcbench.outputs import appended
from hpcbench.texts import printable

HELP = "results in other formats"
DESCRIPTION = "Write a store, or some of its crystals, in another format:\n\n" + "".join(
    f"  {name:12s} {form.text}\n" for name, form in FORMATS.items()
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="csv", help="what to write (default: csv)"
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="only crystals for which it holds, in the table's columns and pandas' words, e.g. "
        "\"verdict == 'stable' and natoms < 10\"",
    )
    parser.add_argument(
        "--id",
        nargs="+",
        metavar="ID",
        help="only these: ids, beginnings of ids, or names; with :first and the like behind them "
        "(see hpcbench show) earlier computations of a crystal",
    )
    parser.add_argument(
        "--output",
        "-o",
        metavar="PATH",
        help="file or folder to write (default: the store's name with an ending behind it; "
        "- for standard output with csv and json)",
    )
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Write results in another format; return the exit code."""
    from hpcbench.interop.exporting import export
    from hpcbench.interop.tables import table_text
    from hpcbench.store.reader import Store

    store = Store(store_path(options.store))
    if options.id:
        store = store[[store.find(words) for words in options.id]]
    if options.where:
        store = store.where(options.where)
    form = FORMATS[options.format]
    if options.output == "-":
        if not form.streams:
            raise UsageError(f"{options.format} cannot go to standard output: give -o PATH")
        text = table_text(store, options.format)
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        return 0
    path = Path(options.output or appended(store.path, form.ending))
    number = export(store, options.format, path, force=options.force)
    print(f"{path}: {counted(number, 'crystal')}")
    return 0
