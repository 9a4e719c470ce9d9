"""The command ``hpcbench export``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from hpcbench.cli.options import add_force, add_store
from hpcbench.cli.stores import store_path
from hpcbench.counting import counted
from hpcbench.errors import UsageError
from hpcbench.interop.export_formats import FORMATS, TRAINING
from hpcbench.interop.training_recipe import EXTXYZ, VASP, Recipe
from hpcbench.outputs import appended
from hpcbench.standard_streams import own_output
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
    _add_recipe(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(f"training sets (--format {TRAINING})")
    default = Recipe()
    group.add_argument(
        "--per-crystal",
        type=int,
        metavar="N",
        help=f"supercells of each crystal (default: {default.per_crystal})",
    )
    group.add_argument(
        "--displacement",
        type=float,
        nargs=2,
        metavar=("SHORTEST", "LONGEST"),
        help="range of the lengths in A by which all atoms are displaced, each at random (default: "
        f"{default.displacement[0]:g} {default.displacement[1]:g})",
    )
    group.add_argument(
        "--atoms",
        type=int,
        nargs=2,
        metavar=("FEWEST", "MOST"),
        help="number of atoms of a supercell; of those in the range the one that is highest in its "
        f"lowest direction (default: {default.atoms[0]} {default.atoms[1]})",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"of the displacements and the split (default: {default.seed})",
    )
    group.add_argument(
        "--split",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the crystals in each part, as near as possible without a composition in "
        f"two of them (default: {' '.join(f'{share:g}' for share in default.split)})",
    )
    group.add_argument(
        "--unlabelled",
        choices=(VASP, EXTXYZ),
        help="write supercells without labels, to compute them by DFT: a folder with a POSCAR for "
        "each, or files of frames (default: with labels, as extended XYZ)",
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe of a training set.

    Raises
    ------
    UsageError
        If its options are given with another format, or have impossible values.
    """
    given: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(Recipe)
        if (value := getattr(options, field.name)) is not None
    }
    if given and options.format != TRAINING:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{flag} is for --format {TRAINING} only, not for {options.format}")
    return Recipe(**given)


def run(options: argparse.Namespace) -> int:
    """Write results in another format; return the exit code."""
    from hpcbench.interop.exporting import export, export_training_set
    from hpcbench.interop.tables import table_text
    from hpcbench.store.reader import Store

    recipe = _recipe(options)
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
    if options.format == TRAINING:
        # Potentials print what they like.
        with own_output():
            summary = export_training_set(store, path, recipe, force=options.force)
        print(f"{path}: {summary.text}")
        return 0
    number = export(store, options.format, path, force=options.force)
    print(f"{path}: {counted(number, 'crystal')}")
    return 0
