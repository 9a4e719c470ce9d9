"""``hpcbench consolidate``, ``merge`` and ``diff``: several files."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.look import store_path
from hpcbench.counting import counted


def consolidate_command(options: argparse.Namespace) -> int:
    """Bring what a run has committed into its store."""
    from hpcbench.results.rows import schema_of
    from hpcbench.store.consolidate import consolidate
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(store_path(options.store))
    settings = folder.settings()
    rows = consolidate(folder, schema_of(settings), settings)
    print(f"{folder.store}: {counted(rows, 'row')}")
    return 0


def merge_command(options: argparse.Namespace) -> int:
    """Write the crystals of several stores into a new one."""
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


def diff_command(options: argparse.Namespace) -> int:
    """Say where two stores differ; 1 if they do."""
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
