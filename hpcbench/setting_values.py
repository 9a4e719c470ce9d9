"""Values of settings from text, TOML or Python: checked, and converted to one form.

Each function returns the value or raises ``ValueError`` with a description of valid values.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from typing import Any

# In A; shorter than any length in use: a single small number probably means points along each axis.
SHORTEST_MESH = 30.0
SHORTEST_SUPERCELL = 5.0


def as_list(value: Any) -> list[Any]:
    """Return a value as a list; texts are split at blanks and commas."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    if isinstance(value, list | tuple):
        return [y for x in value for y in (x.split(",") if isinstance(x, str) else [x])]
    return [value]


def text(value: Any) -> str:
    """Return a text, or a path as text."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError("text")
    return str(value)


def texts(value: Any) -> tuple[str, ...]:
    """Return one or several texts, without splitting them, since these are paths."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text(x) for x in values)


def number(value: Any) -> float:
    """Return a finite number."""
    if isinstance(value, bool):
        raise ValueError("a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("a number") from None
    if number != number or abs(number) == float("inf"):
        raise ValueError("a finite number")
    return number


def positive(value: Any) -> float:
    """Return a number above 0."""
    if (result := number(value)) <= 0:
        raise ValueError("a number above 0")
    return result


def not_negative(value: Any) -> float:
    """Return a number that is not negative."""
    if (result := number(value)) < 0:
        raise ValueError("a number that is not negative")
    return result


def time_limit(value: Any) -> float:
    """Return the seconds of a time in a format of sbatch.

    These are minutes, M:SS, H:MM:SS, D-H, D-HH:MM, and D-HH:MM:SS.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(value).strip())
    if found is None:
        raise ValueError("a time such as 90 (minutes), 1:30:00 or 1-12:00:00")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    # Without days the first number means hours only if two more follow.
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError("a time above 0")
    return float(total)


def count(value: Any) -> int:
    """Return a whole number that is not negative."""
    if (result := not_negative(value)) != int(result):
        raise ValueError("a whole number that is not negative")
    return int(result)


def count_or_auto(value: Any) -> int | str:
    """Return a whole number that is not negative, or the word ``auto``."""
    if value == "auto":
        return "auto"
    try:
        return count(value)
    except ValueError:
        raise ValueError("a whole number that is not negative, or the word auto") from None


def switch(value: Any) -> bool:
    """Return true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def mesh(value: Any) -> tuple[float, ...]:
    """Return three whole numbers above 0, or one length in A."""
    values = as_list(value)
    wanted = f"three whole numbers above 0, or a length of at least {SHORTEST_MESH:g} A"
    if len(values) == 1:
        if (length := number(values[0])) < SHORTEST_MESH:
            raise ValueError(wanted)
        return (length,)
    numbers = tuple(count(x) for x in values)
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(wanted)
    return numbers


def supercell(value: Any) -> tuple[float, ...] | str:
    """Return three or nine whole numbers, a length in A, or the word ``source``."""
    values = as_list(value)
    if values == ["source"]:
        return "source"
    if len(values) == 1:
        try:
            length = number(values[0])
        except ValueError:
            length = 0.0
        if length < SHORTEST_SUPERCELL:
            raise ValueError(
                f"3 whole numbers, 9 for a full matrix (rows), a length of at least "
                f"{SHORTEST_SUPERCELL:g} A, or the word source"
            )
        return (length,)
    if len(values) == 3 and all(isinstance(x, list | tuple) for x in values):
        values = [y for x in values for y in x]
    try:
        exact = [number(x) for x in values]
    except ValueError:
        exact = []
    numbers = tuple(int(x) for x in exact)
    if len(numbers) not in (3, 9) or list(numbers) != exact:
        raise ValueError(
            "3 whole numbers, 9 for a full matrix (rows), a length in A, or the word source"
        )
    matrix = (
        numbers if len(numbers) == 9 else (numbers[0], 0, 0, 0, numbers[1], 0, 0, 0, numbers[2])
    )
    a, b, c, d, e, f, g, h, i = matrix
    if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 1:
        raise ValueError("a supercell matrix with a positive determinant")
    return numbers


def temperatures(value: Any) -> tuple[float, ...]:
    """Return at least one temperature in K."""
    numbers = tuple(not_negative(x) for x in as_list(value))
    if not numbers:
        raise ValueError("at least one temperature in K")
    return numbers


def one_of(*words: str) -> Callable[[Any], str]:
    """Return a function that accepts one of some words, and suggests the nearest otherwise."""

    def parse(value: Any) -> str:
        if value not in words:
            near = difflib.get_close_matches(str(value), words, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"one of {', '.join(words)}{hint}")
        return str(value)

    parse.words = words  # type: ignore[attr-defined]
    return parse
