"""The parser of the command line. Loads no large package, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpcbench.cli.commands import COMMANDS
from hpcbench.config import settings
from hpcbench.errors import UsageError
from hpcbench.version import __version__

DESCRIPTION = """\
Phonons and stability verdicts of very many crystals.

  hpcbench run crystals/ --out store.h5          compute; the same again goes on
  srun -n 32 python -m hpcbench run ...          one MPI rank per GPU
  hpcbench validate --reference dft/             a potential against DFT
  hpcbench plan crystals/                        how long that will take
  hpcbench status                                how far it has come
  hpcbench show NAME                             one crystal, its bands drawn
  hpcbench report                                tables and figures as one HTML file
  hpcbench verify                                is the store what was written?
"""
EPILOG = """\
exit codes: 0 done, 1 some crystals failed, 2 wrong use, 3 wrong environment,
75 stopped before the end: give the same command again
"""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors name the nearest word (argparse does from Python 3.14)."""

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; end the process with a message if it is wrong."""
        options, unknown = self.parse_known_args(words)
        if unknown:
            parser = self._commands.choices.get(options.command, self)
            flags = [flag for action in parser._actions for flag in action.option_strings]
            hints = [_hint(word.partition("=")[0], flags) for word in unknown]
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Print an error with the nearest choice and the help, and end the process."""
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


def _hint(word: str, flags: Sequence[str]) -> str:
    """Return a hint for an unknown option: it may be a setting of the settings file alone."""
    name = word.lstrip("-").replace("-", "_")
    if any(name == one.name and not one.metadata["flag"] for one in settings()):
        return f": write `{name} = VALUE` into a TOML file and give --config FILE"
    return hint_at(word, flags)


def hint_at(word: str, known: Sequence[str]) -> str:
    """Return a hint at the nearest known word, to end an error message with.

    Parameters
    ----------
    word : str
        The wrong word.
    known : sequence of str
        The known words.

    Returns
    -------
    str
        Empty if no word is near.
    """
    near = difflib.get_close_matches(word, known, 1)
    return f": did you mean {near[0]}?" if near else ""


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="hpcbench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hpcbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        description = command.DESCRIPTION
        # Texts of several lines keep their line breaks.
        formatter = (
            argparse.RawDescriptionHelpFormatter if "\n" in description else argparse.HelpFormatter
        )
        command.add_options(
            commands.add_parser(
                name,
                help=command.HELP,
                description=description,
                epilog=getattr(command, "EPILOG", None),
                formatter_class=formatter,
            )
        )
    return parser
