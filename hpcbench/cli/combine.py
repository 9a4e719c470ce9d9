"""``hpcbench merge`` and ``hpcbench diff``: several stores."""

from __future__ import annotations

import argparse
from pathlib import Path


def merge_command(options: argparse.Namespace) -> int:
    """Write the crystals of several stores into a new one."""
    from hpcbench.store.merge import merge

    merged = merge([Path(store) for store in options.stores], Path(options.output))
    print(
        f"{options.output}: {merged.rows} crystals, {merged.in_several} of them in several stores"
    )
    return 0


def diff_command(options: argparse.Namespace) -> int:
    """Say where two stores differ; 1 if they do."""
    from hpcbench.report.difference import draw_difference, print_difference, write_difference
    from hpcbench.store.diff import diff
    from hpcbench.store.reader import Store

    difference = diff(Store(options.first), Store(options.second), options.tolerance)
    print_difference(difference)
    if options.csv:
        write_difference(difference, Path(options.csv))
        print(options.csv)
    if options.png:
        titles = (Path(options.first).name, Path(options.second).name)
        draw_difference(difference, titles, Path(options.png))
        print(options.png)
    return 0 if difference.is_empty else 1
