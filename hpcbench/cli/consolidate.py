"""The command ``hpcbench consolidate``."""

from __future__ import annotations

import argparse

from hpcbench.cli.options import add_store
from hpcbench.cli.stores import store_path
from hpcbench.counting import counted

HELP = "join what a run has committed so far"
DESCRIPTION = (
    "Bring the results that a run has committed into the store. A run does so by "
    "itself when it ends; this may be given while it is under way, to copy the store as it "
    "is, or after all of its processes were killed."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)


def run(options: argparse.Namespace) -> int:
    """Join the committed results of a run into its store; return the exit code."""
    from hpcbench.results.rows import schema_of
    from hpcbench.store.consolidate import consolidate
    from hpcbench.store.run_folder import RunFolder

    folder = RunFolder(store_path(options.store))
    settings = folder.settings()
    rows = consolidate(folder, schema_of(settings), settings)
    print(f"{folder.store}: {counted(rows, 'row')}")
    return 0
