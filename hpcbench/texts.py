"""Foreign texts, made safe for a terminal and short enough to be read."""

from __future__ import annotations

import re

LONGEST_REASON = 500
"""Largest number of characters of a reason that is recorded or shown."""

# ECMA-48: control sequences (colours, the cursor), and strings for the terminal itself (its title,
# its clipboard); of a sequence without end, the control characters are removed.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# Control characters, and Unicode's marks of the direction of writing and line separators.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Remove everything from a text that a terminal would obey; lines and tabs stay."""
    if _is_plain(text):
        return text
    # Halves of characters cannot be printed at all.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return _CONTROL.sub("", _SEQUENCE.sub("", whole))


def one_line(text: str) -> str:
    """Return a text as one line that is safe to print."""
    return text if _is_plain(text) else " ".join(printable(text).split())


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def shortened(text: str, most: int = LONGEST_REASON) -> str:
    """Shorten a text to a number of characters; " ..." marks one that was cut.

    Parameters
    ----------
    text : str
        The text.
    most : int
        Largest number of characters, at least 4.
    """
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def shown_reason(text: str) -> str:
    """Return a reason as it is recorded and shown: one short line."""
    # First cut: a message may have megabytes.
    return shortened(one_line(text[: 4 * LONGEST_REASON]))
