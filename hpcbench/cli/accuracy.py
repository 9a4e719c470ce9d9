"""The command ``hpcbench accuracy``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hpcbench import setting_values
from hpcbench.cli.options import add_force
from hpcbench.counting import counted
from hpcbench.errors import SetupError, UsageError
from hpcbench.outputs import appended, settings_text

# Seconds between two lines of progress.
_INTERVAL = 10.0

HELP = "errors of potentials against reference phonons, in the tables of the literature"
DESCRIPTION = (
    "Compare the crystals of a store with their references: the tables and figures of Loew et al. "
    "and of Lee and Xia with their published numbers beside, softening, errors by element, crystal "
    "system and size, and polymorphs. Several stores are set side by side on the crystals that "
    "they share. Prints the tables and writes a page."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("stores", nargs="+", metavar="STORE", help="a store for each potential")
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="the page; default: the first store's name with .accuracy.html behind it",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all numbers for other programs (docs/accuracy.md)"
    )
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="write the figures as PNG and SVG, and their numbers as CSV",
    )
    parser.add_argument(
        "--mesh",
        nargs="+",
        type=float,
        metavar="N",
        default=(),
        help="compare frequencies on a mesh of the Brillouin zone as well: three numbers, or a "
        "length in A; takes seconds for each crystal",
    )
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Print the tables, write the page, and JSON and figures where asked for; return 0."""
    from hpcbench.scheduler.shutdown import consolidate_if_idle
    from hpcbench.store.reader import Store

    try:
        mesh = setting_values.mesh(options.mesh) if options.mesh else ()
    except ValueError as error:
        raise UsageError(f"--mesh expects {error}") from None
    for path in options.stores:
        consolidate_if_idle(path)
    try:
        from hpcbench.report.accuracy.page import accuracy_of, print_accuracy, write_accuracy
    except ImportError as error:
        raise SetupError(
            f"{error}: ./launch.sh setup report, or pip install '.[report]' in hpcbench's folder"
        ) from error
    stores = [Store(path) for path in options.stores]
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _INTERVAL:
            told = time.monotonic()
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    found = accuracy_of(stores, mesh, tell)
    print_accuracy(found)
    if options.json:
        from hpcbench.report.accuracy.numbers import accuracy_json
        from hpcbench.report.json_files import write_numbers

        to = write_numbers(accuracy_json(found), Path(options.json), force=options.force)
        print(f"numbers: {to}")
    if options.figures:
        from hpcbench.report.accuracy.page import figures_of
        from hpcbench.report.figure import save_figures

        figures = figures_of(found)
        settings = settings_text(stores[0].settings)
        written = save_figures(figures, Path(options.figures), settings, force=options.force)
        print(f"figures: {len(figures)}, in {counted(len(written), 'file')} in {options.figures}")
    output = Path(options.output or appended(stores[0].path, ".accuracy.html"))
    print(f"page: {write_accuracy(found, output, force=options.force)}")
    return 0
