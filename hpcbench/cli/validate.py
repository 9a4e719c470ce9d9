"""The command ``hpcbench validate``."""

from __future__ import annotations

import argparse

from hpcbench.cli.options import add_settings
from hpcbench.cli.run import add_launch_options
from hpcbench.cli.run import run as launch
from hpcbench.config_loading import DEFAULT_FILE
from hpcbench.protocols import LOEW, OF_REFERENCES

HELP = "compare a potential's phonons with references, such as DFT"
DESCRIPTION = """\
Compute the phonons of a potential for crystals whose phonons are known, in the same
supercells, and keep both in one store: the crystal's row is the potential's, the row
ID:reference has what it is compared with.

PATH is, searched recursively,
  phonopy's YAML files   with force constants or forces in them or beside them (FORCE_SETS,
                         force_constants.hdf5), compressed or not: one for each material, as
                         in the MDR and Alexandria databases, or a folder for each
  labels                 a CSV table or a JSON file with structures, and columns such as
                         phonondb_max_freq_thz or heat_capacity: only these are compared
  a store of this program, which has to be named itself: its rows are the references

A reference that cannot be compared with (no forces, a supercell that is not its cell's, Born
charges) has its reason in the table, and is in no average. So has a crystal that the potential
cannot compute.

This is a run: ranks share the crystals, and the same command continues what was killed. At
the end it prints how many were compared and the mean error of the highest frequency;
hpcbench accuracy STORE prints the tables.
"""
EPILOG = f"""\
protocols (docs/concepts/protocols.md says what they do, and where they differ from the papers):
  loew      from the reference's cell relaxed to 0.005 eV/A with its symmetry kept, then the
            reference's supercell and displacements; mesh of 20x20x20; criterion loew
  lee-xia   no relaxation: forces at the reference's own cell and displacements, also where all
            atoms are displaced at once; mesh by a length of 75; modes under 0.1 THz left out;
            criterion lee-xia (-0.5 THz)
A fixed cell is --relax positions. --supercell is for references that name none.

Settings may also stand in a TOML file (--config; {DEFAULT_FILE} of the working folder where no
--reference is given), in which the references are the key `sources`, and in environment
variables (HPCBENCH_MODEL for --model).

examples:
  hpcbench validate --reference mdr/ --model chgnet --out chgnet.h5
  hpcbench validate --reference mp-1000.yaml.bz2 --model mattersim-v1.0.0-5M --dtype float64
  hpcbench validate --reference labels.csv --protocol lee-xia --model sevennet-0
  srun -n 32 python -m hpcbench validate --reference pbe/ --model mattersim-v1.0.0-5M
"""
_SETTINGS = (
    "out", "model", "criterion", "relax", "fmax", "max_steps", "supercell", "supercell_atoms",
    "largest_supercell", "displacement", "symprec", "symmetry_tolerance", "mesh", "band_points",
    "temperatures", "cutoff_frequency", "dtype", "leave_out_born", "device", "workers",
    "share_gpu", "time_limit", "max_atoms",
    "sample", "seed", "keep_dos", "read_limits", "report",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--reference",
        nargs="+",
        default=[],
        dest="sources",
        metavar="PATH",
        help="where the references are",
    )
    parser.add_argument(
        "--protocol",
        choices=OF_REFERENCES,
        help=f"the paper whose way of comparing is followed (default: {LOEW})",
    )
    add_launch_options(add_settings(parser, only=_SETTINGS))
    parser.set_defaults(validate=True, defaults={"protocol": LOEW})


def run(options: argparse.Namespace) -> int:
    """Compute a validation, as one rank of its world; return the exit code."""
    return launch(options)
