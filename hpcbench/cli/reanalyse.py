"""The command ``hpcbench reanalyse``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.cli.options import add_settings, add_store
from hpcbench.cli.stores import store_path
from hpcbench.settings_hash import REANALYSED

if TYPE_CHECKING:
    from hpcbench.config import RunConfig
    from hpcbench.maintenance.reanalysis import Reanalysis


HELP = "other meshes, criteria or temperatures, from the stored force constants"
DESCRIPTION = """\
Compute spectra, verdicts and thermal properties of a store again from its force constants, with
other meshes, paths, criteria or temperatures; no potential is needed. They are written into a
store of their own beside it (NAME.again.h5), which all commands take: hpcbench diff shows which
verdicts changed. Settings that are not given stay as they are in the store.

A reanalysis that was killed is continued by the same command. Ranks share the work:
  srun -n 32 python -m hpcbench reanalyse store.h5 --mesh 75
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    add_settings(parser, only=("out", *REANALYSED))


def run(options: argparse.Namespace) -> int:
    """Analyse a store again, as one rank of its world; return the exit code."""
    from hpcbench.cli.as_rank import as_a_rank

    def prepare() -> tuple[RunConfig, Reanalysis]:
        from hpcbench.maintenance.reanalysis import reanalysis

        flags = {name: getattr(options, name, None) for name in REANALYSED}
        parent = Path(store_path(options.store))
        workload = reanalysis(parent, flags, options.config, options.out)
        return workload.config, workload

    return as_a_rank(options.command, prepare, None)
