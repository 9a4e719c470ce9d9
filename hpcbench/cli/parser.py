"""The commands and their options. Loads nothing heavy: ``--help`` must be instant."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpcbench import __version__
from hpcbench.cli.texts import (
    DESCRIPTION,
    EPILOG,
    IMPORT_DESCRIPTION,
    PLAN_DESCRIPTION,
    REANALYSE_DESCRIPTION,
    RUN_DESCRIPTION,
    RUN_EPILOG,
)
from hpcbench.config import settings
from hpcbench.config_loading import DEFAULT_FILE
from hpcbench.errors import UsageError
from hpcbench.interop.export_formats import FORMATS
from hpcbench.settings_hash import IMPORTED, REANALYSED


class Parser(argparse.ArgumentParser):
    """As argparse's, but its complaints name what is near (argparse's own do from Python 3.14)."""

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; ends the process with a sentence if it is wrong."""
        options, unknown = self.parse_known_args(words)
        if unknown:
            parser = self._commands.choices.get(options.command, self)
            flags = [flag for action in parser._actions for flag in action.option_strings]
            hints = [hint_at(word.partition("=")[0], flags) for word in unknown]
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with a hint at the nearest choice, and where help is."""
        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found:
            word = found.group(1)
            message += hint_at(word, re.findall(r"[\w-]+", found.group(2)))
            if "COMMAND" in message and Path(word).exists():
                message += f": did you mean hpcbench run {word}?"
        self.exit(UsageError.exit_code, f"{self.prog}: {message}\nsee {self.prog} --help\n")

    @functools.cached_property
    def _commands(self) -> Any:
        kind = argparse._SubParsersAction
        return next(action for action in self._actions if isinstance(action, kind))


def hint_at(word: str, known: Sequence[str]) -> str:
    """A question about the nearest known word, to be put behind a complaint; or nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f": did you mean {near[0]}?" if near else ""


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="hpcbench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hpcbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run(commands)
    _add_plan(commands)
    _add_status(commands)
    _add_show(commands)
    _add_export(commands)
    _add_import(commands)
    _add_reanalyse(commands)
    _add_report(commands)
    _add_check(commands)
    _add_combine(commands)
    _add_models(commands)
    _add_doctor(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="compute phonons and verdicts of crystals",
        description=RUN_DESCRIPTION,
        epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the crystals are")
    groups = _add_settings(parser)
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
    # For launch.sh --stage.
    parser.add_argument("--where-weights", action="store_true", help=argparse.SUPPRESS)


def _add_settings(
    parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """An option for each setting, or for those named; returns the groups by name."""
    groups: dict[str, Any] = {}
    for setting in settings():
        if setting.name == "sources" or (only is not None and setting.name not in only):
            continue
        name = setting.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_setting(groups[name], setting)
    groups["input and output"].add_argument(
        "--config", metavar="FILE", help="settings in a TOML file"
    )
    return groups


def _add_setting(group: Any, setting: dataclasses.Field[Any]) -> None:
    meta = setting.metadata
    flag = "--" + setting.name.replace("_", "-")
    text = meta["help"].replace("%", "%%")
    if setting.default is None:
        shown = ""
    elif isinstance(setting.default, bool):
        shown = f" (default: {'yes' if setting.default else 'no'})"
    elif isinstance(setting.default, tuple):
        shown = f" (default: {' '.join(f'{x:g}' for x in setting.default)})"
    elif setting.default == 0 and "(0:" in text:
        shown = ""
    else:
        shown = f" (default: {setting.default})"
    options: dict[str, Any] = {"help": text + shown, "default": None, "dest": setting.name}
    if isinstance(setting.default, bool):
        options["action"] = argparse.BooleanOptionalAction
    else:
        words = getattr(meta["parse"], "words", None)
        options["metavar"] = "|".join(words) if words else meta["metavar"]
        if meta["many"]:
            options["nargs"] = "+"
    group.add_argument(flag, **options)


def _add_store(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    text = f"the store (default: that of {DEFAULT_FILE}, else store.h5)"
    if positional:
        parser.add_argument("store", nargs="?", metavar="STORE", help=text)
    else:
        parser.add_argument("--store", metavar="STORE", dest="store_option", help="the same")


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="also replace files that hpcbench did not write"
    )


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="how long a run will take, and what it needs",
        description=PLAN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the crystals are")
    parser.add_argument(
        "--ranks",
        nargs="+",
        type=_positive,
        metavar="N",
        help="numbers of ranks to say the wall time for (default: some from 1 to 1024)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: seconds and bytes")
    _add_settings(parser)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return int(text)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of ranks, not {text!r}")
    return number


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="how far a run has come",
        description="Say how many crystals are done, failed (by reason), under way and left, the "
        "rate, and when it will end; after the run, what was predicted and what it took. Reads "
        "the event logs: works while a run is under way, and from another machine.",
    )
    _add_store(parser)
    parser.add_argument("--watch", action="store_true", help="draw a bar until the run has ended")
    parser.add_argument("--ranks", action="store_true", help="a line for each rank as well")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="say it by the exit code: 0 all done, 1 done but some failed, 75 not at the end",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="one crystal: its data and its bands",
        description="Print what the store has of one crystal, and draw its band structure in "
        "the terminal or into a PNG.",
    )
    parser.add_argument(
        "crystal",
        metavar="ID",
        help="an id, the beginning of one, or a name; with :first and the like behind it an "
        "earlier computation of the crystal, as is printed of those computed more than once",
    )
    _add_store(parser)
    _add_store(parser, positional=False)
    parser.add_argument("--png", metavar="FILE", help="draw the bands into this file instead")
    _add_force(parser)


def _add_export(commands: Any) -> None:
    formats = "".join(f"  {name:12s} {form.text}\n" for name, form in FORMATS.items())
    parser = commands.add_parser(
        "export",
        help="results in other formats",
        description=f"Write a store, or some of its crystals, in another format:\n\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_store(parser)
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
    _add_force(parser)


def _add_import(commands: Any) -> None:
    parser = commands.add_parser(
        "import",
        help="phonons that others computed, as a store",
        description=IMPORT_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders, files, patterns")
    _add_settings(parser, only=("out", *IMPORTED))


def _add_reanalyse(commands: Any) -> None:
    parser = commands.add_parser(
        "reanalyse",
        help="other meshes, criteria or temperatures, from the stored force constants",
        description=REANALYSE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_store(parser)
    _add_settings(parser, only=("out", *REANALYSED))


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="tables and figures as one HTML file",
        description="Write a report: verdicts, reasons of failures, the stable share by each "
        "criterion, band structures drawn; and the benchmark of the generators, where a manifest "
        "or the crystals' files name them: counts, rates with intervals, ranks, figures.",
    )
    _add_store(parser)
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
    _add_force(parser)


def _add_check(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="check that a store is what was written",
        description="Read every value of a store and compare its checksums, in a process of its "
        "own, for damaged files can end or stop the one that reads them; count its rows; compute "
        "the bands of some crystals again from their force constants. Exit code 1 if something "
        "is wrong.",
    )
    _add_store(verify)
    verify.add_argument(
        "--sample",
        type=_count,
        default=20,
        metavar="N",
        help="crystals whose bands are computed again (default: 20)",
    )
    repair = commands.add_parser(
        "repair",
        help="make a store of what is intact in a damaged one",
        description="Write a new store of the rows that are as they were written; the damaged "
        "one stays beside it as STORE.damaged. Says what is lost: the same hpcbench run computes "
        "that again, and no more. A file whose structure is broken is left as it is. Exit code 1 "
        "if results are lost, 3 if the store cannot be repaired.",
    )
    _add_store(repair)
    for parser in (verify, repair):
        parser.add_argument(
            "--patience",
            type=float,
            default=120.0,
            metavar="S",
            help="seconds that reading one block may take (default: 120)",
        )


def _add_combine(commands: Any) -> None:
    consolidate = commands.add_parser(
        "consolidate",
        help="join what a run has committed so far",
        description="Bring the results that a run has committed into the store. A run does so by "
        "itself when it ends; this may be given while it is under way, to copy the store as it "
        "is, or after all of its processes were killed.",
    )
    _add_store(consolidate)
    merge = commands.add_parser(
        "merge",
        help="several stores as one",
        description="Write the crystals of several stores, computed with the same settings, into "
        "a new one. A crystal that is in several is taken from the first that could compute it.",
    )
    merge.add_argument("stores", nargs="+", metavar="STORE", help="in order of precedence")
    merge.add_argument("--output", "-o", required=True, metavar="FILE", help="the new store")
    diff = commands.add_parser(
        "diff",
        help="crystals of which two stores say different things",
        description="Compare the crystals that two stores have in common: status, verdict, lowest "
        "frequencies. Exit code 1 if they differ.",
    )
    diff.add_argument("first", metavar="STORE")
    diff.add_argument("second", metavar="STORE")
    diff.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="THZ",
        help="differences of frequencies up to this do not count (default: 0.01)",
    )
    diff.add_argument("--png", metavar="FILE", help="draw one's frequencies against the other's")
    diff.add_argument("--csv", metavar="FILE", help="write all that differ into a table")
    _add_force(diff)


def _add_models(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="potentials: which there are, which can be used here",
        description="List the potentials, or fetch weights.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download the weights of a MatterSim potential")
    fetch.add_argument("name", metavar="NAME", help="e.g. mattersim-v1.0.0-5M")


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check this machine and this installation",
        description="Check Python, packages, MPI, potentials, GPUs, and the folder of a store. "
        "Under srun or mpiexec all ranks are checked together: do they find each other, have a "
        "GPU each, run the same software, see the same folder?",
    )
    _add_store(parser)
