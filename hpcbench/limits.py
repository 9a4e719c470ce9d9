"""Limits on how much of a file is read, for each format, before memory is used.

A compressed file, a sparse archive or an alias of a YAML file can stand for any amount of data.
Data above a limit become a row with its reason, which names the limit, so that it can be raised if
the data are real: ``--read-limits json.bytes=2G``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcbench.crystal_formats import CRYSTAL_FORMATS
from hpcbench.errors import UnreadableError

KIND = "too large"
"""The kind of reason for data above a limit."""
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    # bytes: unpacked, of everything in it; members: files.
    "archive": {"bytes": 2**36, "members": 10**6},
    **{name: form.limits for name, form in CRYSTAL_FORMATS.items()},
    "list": {"bytes": 2**24},
    "manifest": {"bytes": 2**24},
}
_WORDS = {
    "bytes": "bytes",
    "line": "characters in a line",
    "nesting": "levels of nesting",
    "members": "members",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Characters of a text whose nesting is counted at once.
_PART = 2**20


@dataclass(frozen=True)
class Limits:
    """Largest numbers of bytes, characters of a line, nesting levels and members, by format.

    Attributes
    ----------
    given : tuple of str
        Differences from the defaults: ``json.bytes=2G``, or ``bytes=2G`` for all formats.
    """

    given: tuple[str, ...] = ()
    _values: Mapping[str, Mapping[str, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_values", _with(self.given))

    def of(self, kind: str, what: str) -> int:
        """Return a limit of a format.

        Parameters
        ----------
        kind : str
            The format.
        what : str
            ``bytes``, ``line``, ``nesting`` or ``members``.
        """
        return self._values[kind][what]

    def check(self, kind: str, what: str, number: int) -> None:
        """Compare a number with a limit.

        Parameters
        ----------
        kind, what : str
            As in :meth:`of`.
        number : int
            The number.

        Raises
        ------
        UnreadableError
            Kind "too large", if it is above.
        """
        if number > self.of(kind, what):
            raise self.error(kind, what)

    def error(self, kind: str, what: str) -> UnreadableError:
        """Return the error for data above a limit.

        Parameters
        ----------
        kind, what : str
            As in :meth:`of`.
        """
        return UnreadableError(
            KIND,
            f"more than {self.of(kind, what):,} {_WORDS[what]}; --read-limits {kind}.{what}=N "
            f"raises the limit",
        )

    def check_text(self, kind: str, text: str) -> None:
        """Compare the lines of a text with the limit of its format; without one, its nesting.

        Parameters
        ----------
        kind : str
            The format.
        text : str
            The text.

        Raises
        ------
        UnreadableError
            Kind "too large", if a limit is exceeded.
        """
        if "line" in self._values[kind]:
            self.check_lines(kind, text)
        elif "nesting" in self._values[kind]:
            self.check_tree(kind, text)

    def check_lines(self, kind: str, text: str) -> None:
        """Compare the longest line of a text with the limit of its format.

        Parameters
        ----------
        kind : str
            The format.
        text : str
            The text.

        Raises
        ------
        UnreadableError
            Kind "too large", if it is above.
        """
        most = self.of(kind, "line")
        if len(text) > most and re.search(rf"[^\n]{{{most + 1}}}", text):
            raise self.error(kind, "line")

    def check_tree(self, kind: str, text: str) -> None:
        """Compare nesting and number of values of JSON, or of a Python literal, with the limits.

        Brackets and commas inside strings are counted as well, for example those of a CIF.

        Parameters
        ----------
        kind : str
            The format.
        text : str
            The text.

        Raises
        ------
        UnreadableError
            Kind "too large", if one limit is exceeded.
        """
        self.check(kind, "members", text.count(",") + text.count("[") + text.count("{"))
        for deepest in depths_of(text):
            self.check(kind, "nesting", deepest)


def depths_of(text: str) -> Iterator[int]:
    """Yield the deepest nesting of brackets in each part of a text, those in strings included."""
    import numpy as np

    depth = 0
    for start in range(0, len(text), _PART):
        part = text[start : start + _PART].encode("ascii", "replace")
        letters = np.frombuffer(part, dtype=np.uint8)
        opening = (letters == ord("[")) | (letters == ord("{"))
        closing = (letters == ord("]")) | (letters == ord("}"))
        depths = depth + np.cumsum(opening.astype(np.int32) - closing)
        yield int(depths.max())
        depth = int(depths[-1])


def read_limits(value: Any) -> tuple[str, ...]:
    """Return the setting ``read_limits``: texts such as ``json.bytes=2G``.

    Raises
    ------
    ValueError
        The message says what is expected.
    """
    texts = value.split() if isinstance(value, str) else list(value)
    _with(texts)
    return tuple(texts)


def _with(given: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    values = {kind: dict(limits) for kind, limits in _DEFAULTS.items()}
    for text in given:
        name, _, number = text.partition("=")
        amount = re.fullmatch(r"(\d+)([KMGT]?)", number.strip(), re.IGNORECASE)
        kind, _, what = name.strip().rpartition(".")
        kinds = [kind] if kind else list(values)
        places = [values[kind] for kind in kinds if what in values.get(kind, ())]
        if amount is None or not places:
            names = [f"{kind}.{what}" for kind, limits in values.items() for what in limits]
            near = difflib.get_close_matches(name, names, 1)
            hint = f" (did you mean {near[0]}?)" if near and near[0] != name else ""
            raise ValueError(
                f"FORMAT.WHAT=N with {', '.join(_WORDS)} of {', '.join(values)}, such as "
                f"json.bytes=2G{hint}"
            )
        for limits in places:
            limits[what] = int(amount[1]) * _UNITS[amount[2].upper()]
    return values


DEFAULT = Limits()
"""The limits by default."""
