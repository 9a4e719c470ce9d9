"""Options of several commands."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from hpcbench.config import OF_VALIDATION, settings
from hpcbench.config_loading import DEFAULT_FILE


def add_settings(
    parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Add an option for each setting.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser of the command.
    only : tuple of str, optional
        Names of the settings to add; by default all but those of a validation.

    Returns
    -------
    dict
        The groups of options by name.
    """
    groups: dict[str, Any] = {}
    for setting in settings():
        if setting.name == "sources" or not setting.metadata["flag"]:
            continue
        if setting.name in OF_VALIDATION if only is None else setting.name not in only:
            continue
        name = setting.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_setting(groups[name], setting)
    groups["input and output"].add_argument(
        "--config",
        metavar="FILE",
        help="settings in a TOML file, also those without an option here (docs/commands.md)",
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


def add_store(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Add an argument for the store of a command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser of the command.
    positional : bool
        Whether to add it without a flag; else as ``--store``.
    """
    text = f"the store (default: that of {DEFAULT_FILE}, else store.h5)"
    if positional:
        parser.add_argument("store", nargs="?", metavar="STORE", help=text)
    else:
        parser.add_argument("--store", metavar="STORE", dest="store_option", help="the same")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    parser.add_argument(
        "--force", action="store_true", help="also replace files that hpcbench did not write"
    )


def count(text: str) -> int:
    """Parse a number, 0 included, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Parse a positive number of ranks, for argparse."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of ranks, not {text!r}")
    return number
