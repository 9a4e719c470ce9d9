"""``hpcbench export`` and ``hpcbench report``: what others read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpcbench.cli.look import store_path
from hpcbench.errors import SetupError

ENDINGS = {"csv": ".csv", "json": ".json", "extxyz": ".extxyz", "phonopy": "-phonopy"}


def export_command(options: argparse.Namespace) -> int:
    """Write results in another format."""
    from hpcbench.store import export
    from hpcbench.store.reader import Store

    store = Store(store_path(options.store))
    if options.output == "-" and options.format in ("csv", "json"):
        sys.stdout.write(export.table_text(store, options.format))
        return 0
    path = Path(options.output or f"{store.path.with_suffix('')}{ENDINGS[options.format]}")
    number = export.write(store, options.format, path)
    print(f"{path}: {number} crystals")
    return 0


def report_command(options: argparse.Namespace) -> int:
    """Write the HTML report."""
    from hpcbench.farm.launch import consolidate_if_idle
    from hpcbench.store.reader import Store

    path = store_path(options.store)
    # A launch of which a rank was killed leaves its segments: nothing else joins them.
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
    output = Path(options.output) if options.output else store.path.with_suffix(".html")
    print(f"report: {write_report(store, output)}")
    return 0
