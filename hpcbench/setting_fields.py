"""How a setting is declared: its default, its check, its help and its group."""

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
) -> Any:
    """Return the field of a setting.

    Parameters
    ----------
    default : Any
        Its value where none is given.
    parse : callable
        Returns a value in the setting's one form, or raises ``ValueError`` with what it expects.
    text : str
        Its help.
    group : str
        Under which heading the help has it.
    metavar : str
        What the help calls its value.
    many : bool
        Whether a flag takes several values.
    decides : bool
        Whether it decides results.
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
        },
    )


# One for each group; all settings of what is computed decide results.
of_calculation = functools.partial(_setting, group="what is computed", decides=True)
of_machine = functools.partial(_setting, group="where it is computed")
of_crystals = functools.partial(_setting, group="which crystals")
of_files = functools.partial(_setting, group="input and output")
