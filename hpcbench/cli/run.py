"""The command ``hpcbench run``."""

from __future__ import annotations

import argparse
from typing import Any

from hpcbench.cli.options import add_settings
from hpcbench.config_loading import DEFAULT_FILE
from hpcbench.outputs import target_of

HELP = "compute phonons and verdicts of crystals"
DESCRIPTION = """\
Relax crystals, compute their phonons, and write verdicts, force constants and bands
into one HDF5 store.

SOURCE is a folder (searched recursively), a file, a pattern, a .zip or .tar(.gz), or a
list of such in a .txt file. Files may be CIF, POSCAR, extended XYZ, pymatgen JSON, an ASE
database, phonopy.yaml, or what generators write: .pt files of arrays (CDVAE, DiffCSP,
CrystalFlow, FlowMM), and CSV tables with structures or Wyckoff positions. A manifest.toml
with tables [[generators]] (name, files) says who wrote what: the report compares them,
with duplicates and known crystals told apart (--unique, --against).

What lies in a folder is taken by its content, links to folders are followed, and what is
left out is counted by its kind: tables, metrics, stores and exports of this program, and
of MatterGen's results the trajectories and the second copy. Name a file itself to read it.

A run that was killed is continued by the same command; crystals that are finished are
not computed again.
"""
EPILOG = f"""\
Settings may also stand in a TOML file (--config; {DEFAULT_FILE} of the working folder where
no SOURCE is given), with underscores for dashes, and in environment variables
(HPCBENCH_MAX_STEPS for --max-steps). Flags win over the environment, the environment over
the file.

examples:
  hpcbench run generated/ --model mattersim-v1.0.0-5M --out generated.h5
  hpcbench run manifest.toml --unique --sample 4000 --against mp_20.csv
  hpcbench run POSCAR --relax none --supercell 3 3 3 --dtype float64
  srun -n 32 python -m hpcbench run list.txt --protocol phononbench --out bench.h5
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the crystals are")
    add_launch_options(add_settings(parser))


def add_launch_options(groups: dict[str, Any]) -> None:
    """Add the options of a launch, which are no settings, to groups of options by name."""
    groups["where it is computed"].add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="REASON",
        help="compute crystals again that failed; only those whose reason (see hpcbench status) "
        "begins with REASON, if it is given",
    )
    groups["input and output"].add_argument(
        "--where", action="store_true", help="only check the settings and print the store's path"
    )
    # Used by launch.sh --stage.
    groups["input and output"].add_argument(
        "--where-weights", action="store_true", help=argparse.SUPPRESS
    )


def run(options: argparse.Namespace) -> int:
    """Compute a run, as one rank of its world; return the exit code."""
    from hpcbench.cli.as_rank import as_a_rank, config_of, weights_path

    if options.where:
        print(target_of(config_of(options).out))
        return 0
    if options.where_weights:
        print(weights_path(config_of(options).model))
        return 0
    return as_a_rank(options.command, lambda: (config_of(options), None), options.retry_failed)
