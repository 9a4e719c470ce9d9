"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcbench.cli.parser import build_parser
from hpcbench.config_loading import DEFAULT_FILE
from hpcbench.errors import HpcbenchError, LaunchError, UsageError
from hpcbench.farm.world import rank_by_launcher
from hpcbench.texts import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
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
    try:
        return _dispatch(options)
    except HpcbenchError as error:
        # What is wrong with the command or the launch is so on every rank: one says it.
        if rank_by_launcher() == 0 or not isinstance(error, UsageError | LaunchError):
            print(f"hpcbench: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        sys.stderr.close()
        return 0


def _dispatch(options: argparse.Namespace) -> int:
    # Imported here: each command loads what it needs and no more.
    command = options.command
    if command == "reanalyse":
        from hpcbench.cli.run import reanalyse_command as handler
    elif command == "run":
        from hpcbench.cli.run import run_command as handler
    elif command == "plan":
        from hpcbench.cli.plan import plan_command as handler
    elif command in ("status", "show"):
        from hpcbench.cli import look

        handler = getattr(look, f"{command}_command")
    elif command in ("export", "import", "report"):
        from hpcbench.cli import output

        handler = getattr(output, f"{command}_command")
    elif command in ("verify", "repair"):
        from hpcbench.cli import check

        handler = getattr(check, f"{command}_command")
    elif command in ("consolidate", "merge", "diff"):
        from hpcbench.cli import combine

        handler = getattr(combine, f"{command}_command")
    elif command == "models":
        from hpcbench.cli.setup import models_command as handler
    else:
        from hpcbench.cli.doctor import doctor_command as handler
    return int(handler(options))
