"""The command ``hpcbench report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.options import add_force, add_store
from hpcbench.cli.stores import store_path
from hpcbench.counting import counted
from hpcbench.errors import SetupError
from hpcbench.outputs import appended, settings_text

HELP = "tables and figures as one HTML file"
DESCRIPTION = (
    "Write a report: verdicts, reasons of failures, the stable share by each "
    "criterion, band structures drawn; and the benchmark of the generators, where a manifest "
    "or the crystals' files name them: counts, rates with intervals, ranks, figures."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    parser.add_argument(
        "--output", "-o", metavar="FILE", help="default: the store's name with .html behind it"
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="write the page; the default, unless --json or --figures are given",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the benchmark of the generators for other programs (docs/benchmark.md)",
    )
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="write the benchmark's figures as PNG and SVG, and their numbers as CSV",
    )
    parser.add_argument("--table", action="store_true", help="print the table as well")
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Write the report as a page, JSON or figures; return the exit code."""
    from hpcbench.scheduler.shutdown import consolidate_if_idle
    from hpcbench.store.reader import Store

    path = store_path(options.store)
    # A launch with a killed rank leaves segments that are not joined yet.
    consolidate_if_idle(path)
    try:
        from hpcbench.report.html import write_report
    except ImportError as error:
        raise SetupError(
            f"{error}: ./launch.sh setup report, or pip install '.[report]' in hpcbench's folder"
        ) from error
    store = Store(path)
    if options.table:
        from hpcbench.report.terminal import print_results

        print_results(store)
    if options.json:
        from hpcbench.report.benchmark_json import benchmark_json
        from hpcbench.report.json_files import write_numbers

        to = write_numbers(benchmark_json(store), Path(options.json), force=options.force)
        print(f"benchmark: {to}")
    if options.figures:
        from hpcbench.analysis.generators import ranked_outcomes
        from hpcbench.report.benchmark_figures import benchmark_figures
        from hpcbench.report.figure import save_figures

        table = store.table
        figures = benchmark_figures(table, ranked_outcomes(table))
        settings = settings_text(store.settings)
        written = save_figures(figures, Path(options.figures), settings, force=options.force)
        print(f"figures: {len(figures)}, in {counted(len(written), 'file')} in {options.figures}")
    if options.html or options.output or not (options.json or options.figures):
        output = Path(options.output or appended(store.path, ".html"))
        print(f"report: {write_report(store, output, force=options.force)}")
    return 0
