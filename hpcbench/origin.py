"""Where a crystal came from, and who made it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.json_text import json_of

NOVELTY = "novelty"
"""Among an origin's columns: whether the crystal is known, where it was compared with such."""
MENDED = "mended"
"""Among an origin's columns: what was wrong with its text and could be put right."""
NOTE = "note"
"""Among an origin's columns: what its source says that was not taken as it stands."""


@dataclass(frozen=True)
class Generator:
    """A program that makes crystals, trained on something and asked for something.

    Attributes
    ----------
    name : str
        Its name.
    training_set : str
        What it was trained on; empty where nobody says.
    condition : str
        What it was asked for; empty where it was free.
    hours : float or None
        That generating took.
    generated : int or None
        So many entries, in these hours.
    batch_size : int or None
        So many at a time.
    architecture : str
        In a word.
    parameters : float or None
        Millions of them.
    """

    name: str
    training_set: str = ""
    condition: str = ""
    hours: float | None = None
    generated: int | None = None
    batch_size: int | None = None
    architecture: str = ""
    parameters: float | None = None

    @property
    def label(self) -> str:
        """What tables call it; empty where nobody says who it was."""
        return ", ".join(filter(None, (self.name, self.training_set, self.condition)))


UNKNOWN = Generator("")


@dataclass(frozen=True)
class Origin:
    """Where a crystal came from: one entry of a source.

    Attributes
    ----------
    file : str
        The path as given (an archive's member as ``archive.zip::member``).
    index : int
        Its position in that file (0 where the file holds one crystal).
    made_by : Generator
        Who made it, as far as the source or a manifest says.
    set_aside : str
        Why this entry does not count: ``duplicate: of ID``, ``not sampled``; empty if it does.
    columns : tuple of (str, value)
        What is said of it: what the run was asked to carry along, ``novelty``, ``mended``,
        ``note``.
    """

    file: str
    index: int = 0
    made_by: Generator = UNKNOWN
    set_aside: str = ""
    columns: tuple[tuple[str, Any], ...] = ()

    @property
    def generator(self) -> str:
        """The label of who made it."""
        return self.made_by.label

    def __str__(self) -> str:
        return f"{self.file}#{self.index}"


def with_note(origins: Iterable[Origin], notes: Iterable[str]) -> tuple[Origin, ...]:
    """Return origins with a note added to each; empty notes are none.

    Parameters
    ----------
    origins : iterable of Origin
        Those of a crystal.
    notes : iterable of str
        What is to be said, put together into one note.
    """
    text = "; ".join(filter(None, notes))
    if not text:
        return tuple(origins)
    return tuple(replace(one, columns=(*one.columns, (NOTE, text))) for one in origins)


def notes_of(origins: Iterable[Origin]) -> str:
    """Return the notes of all origins as one text, each once."""
    texts = (text for one in origins for name, text in one.columns if name == NOTE)
    return "; ".join(dict.fromkeys(note for text in texts for note in str(text).split("; ")))


def origins_to_json(origins: Iterable[Origin]) -> str:
    """Origins as a store has them; what is empty at the end of one is left out."""
    return json.dumps([_as_list(origin) for origin in origins])


def _as_list(origin: Origin) -> list[Any]:
    made_by = {name: value for name, value in asdict(origin.made_by).items() if value}
    # Most sources say no more than a name.
    is_name = not made_by or list(made_by) == ["name"]
    parts = [origin.file, origin.index, origin.made_by.name if is_name else made_by]
    if origin.set_aside or origin.columns:
        parts.append(origin.set_aside)
    if origin.columns:
        parts.append(dict(origin.columns))
    return parts


def origins_from_json(text: str) -> tuple[Origin, ...]:
    """Return what :func:`origins_to_json` has written; none of an empty text.

    Raises
    ------
    StoreError
        If it is no such text.
    """
    found = json_of(text or "[]", "origins of a crystal")
    try:
        return tuple(_of_parts(*parts) for parts in found)
    except TypeError as error:
        raise StoreError(
            f"origins of a crystal are not as hpcbench writes them: {error}"
        ) from error


def _of_parts(
    file: str,
    index: int,
    made_by: str | dict[str, Any],
    set_aside: str = "",
    columns: dict[str, Any] | None = None,
) -> Origin:
    generator = Generator(made_by) if isinstance(made_by, str) else Generator(**made_by)
    texts = (file, set_aside, generator.name, generator.training_set, generator.condition)
    numbers = (generator.hours, generator.generated, generator.batch_size, generator.parameters)
    if (
        not all(isinstance(value, str) for value in (*texts, generator.architecture))
        or not all(isinstance(value, int | float | None) for value in (index, *numbers))
        or not isinstance(columns, dict | None)
    ):
        raise TypeError("a text or a number is none")
    return Origin(file, index, generator, set_aside, tuple((columns or {}).items()))
