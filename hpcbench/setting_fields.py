"""Declaration of a setting: its default, its check, its help and its group."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import field
from typing import Any


def _setting(
    default: Any,
    parse: Callable[[Any], Any],
    text: str,
    *,
    group: str,
    metavar: str = "",
    many: bool = False,
    decides: bool = False,
    flag: bool = True,
) -> Any:
    """Return the field of a setting.

    Parameters
    ----------
    default : Any
        Its value if none is given.
    parse : callable
        Returns a value in the setting's one form, or raises ``ValueError`` with what it expects.
    text : str
        Its help.
    group : str
        Heading of its group in the help.
    metavar : str
        Name of its value in the help.
    many : bool
        Whether a flag takes several values.
    decides : bool
        Whether it affects results.
    flag : bool
        Whether the command line has an option for it. What nobody sets by hand is set in a
        settings file, or from Python.
    """
    return field(
        default=default,
        metadata={
            "parse": parse,
            "group": group,
            "help": text,
            "metavar": metavar,
            "many": many,
            "decides": decides,
            "flag": flag,
        },
    )


# One for each group; all settings of the calculation affect results.
of_calculation = functools.partial(_setting, group="what is computed", decides=True)
of_machine = functools.partial(_setting, group="where it is computed")
of_crystals = functools.partial(_setting, group="which crystals")
of_files = functools.partial(_setting, group="input and output")
