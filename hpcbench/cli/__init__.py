"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcbench.cli.commands import COMMANDS
from hpcbench.cli.complaints import complain, is_first_here
from hpcbench.cli.parser import build_parser
from hpcbench.config_loading import DEFAULT_FILE
from hpcbench.errors import HpcbenchError, LaunchError, UsageError
from hpcbench.process_end import say_end
from hpcbench.scheduler.launcher_shim import stand_between
from hpcbench.standard_streams import open_closed_streams, outlive_readers, print_any_character

# Files that a sentence names.
MOST_NAMED = 3
# Exit code of shells for a process that Ctrl-C has ended.
INTERRUPTED = 130
COMPUTING = ("run", "validate", "reanalyse")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit code."""
    open_closed_streams()
    print_any_character()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words and Path(DEFAULT_FILE).is_file():
        words = ["run"]
    parser = build_parser()
    if not words:
        parser.print_help()
        return 0
    options = parser.parse_words(words)
    if options.command is None:
        parser.print_help()
        return 2
    if arguments is None and options.command in COMPUTING:
        # Only in the program itself, and before everything else.
        outlive_readers()
        stand_between()
    code = _run(options)
    say_end(code)
    return code


def _run(options: argparse.Namespace) -> int:
    """Run the command, report any error, and return the exit code."""
    try:
        return int(COMMANDS[options.command].run(options))
    except HpcbenchError as error:
        # Every rank has the same error of the command or the launch.
        if not isinstance(error, UsageError | LaunchError) or is_first_here():
            complain(error, options.command)
        return error.exit_code
    except BrokenPipeError:
        # The reader of the output (head, less) has ended.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print(f"hpcbench {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # no traceback is shown, and exit code 1 is for failed crystals
        return complain(error, options.command, _about(options))


def _about(options: argparse.Namespace) -> str:
    """Return the command with the files in its arguments, for messages."""
    names: list[str] = []
    for name in ("store", "sources", "stores", "first", "second"):
        given = getattr(options, name, None) or []
        names += [given] if isinstance(given, str) else given
    more = ["..."] if len(names) > MOST_NAMED else []
    return " ".join([options.command, *names[:MOST_NAMED], *more])
