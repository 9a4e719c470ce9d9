"""The origin of a crystal: its file and its generator."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.json_text import json_of

NOVELTY = "novelty"
"""Name of an origin's column: whether the crystal is among known ones, if it was compared."""
MENDED = "mended"
"""Name of an origin's column: errors of its text that were corrected."""
NOTE = "note"
"""Name of an origin's column: data of its source that were changed or ignored."""


@dataclass(frozen=True)
class Generator:
    """A program that makes crystals, with its training set and condition.

    Attributes
    ----------
    name : str
        Its name.
    training_set : str
        Its training set; empty if unknown.
    condition : str
        The requested property; empty for unconditional generation.
    hours : float or None
        Time of the generation.
    generated : int or None
        Number of entries generated in this time.
    batch_size : int or None
        Entries generated at once.
    architecture : str
        In a word.
    parameters : float or None
        In millions.
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
        """Its name in tables; empty if the generator is unknown."""
        return ", ".join(filter(None, (self.name, self.training_set, self.condition)))


UNKNOWN = Generator("")


@dataclass(frozen=True)
class Origin:
    """The origin of a crystal: one entry of a source.

    Attributes
    ----------
    file : str
        The path as given (an archive's member as ``archive.zip::member``).
    index : int
        Its position in that file (0 if the file holds one crystal).
    made_by : Generator
        The generator, as far as the source or a manifest names it.
    set_aside : str
        Why this entry does not count: ``duplicate: of ID``, ``not sampled``; empty if it does.
    columns : tuple of (str, value)
        Data of the entry: columns that the run carries along, ``novelty``, ``mended``, ``note``.
    """

    file: str
    index: int = 0
    made_by: Generator = UNKNOWN
    set_aside: str = ""
    columns: tuple[tuple[str, Any], ...] = ()

    @property
    def generator(self) -> str:
        """The label of its generator."""
        return self.made_by.label

    def __str__(self) -> str:
        return f"{self.file}#{self.index}"


def with_note(origins: Iterable[Origin], notes: Iterable[str]) -> tuple[Origin, ...]:
    """Return origins with a note added to each; empty notes add nothing.

    Parameters
    ----------
    origins : iterable of Origin
        Those of a crystal.
    notes : iterable of str
        Parts of the note.
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
    """Return origins as a text for a store; empty fields at the end are left out."""
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
    """Return the origins from a text of :func:`origins_to_json`; none from an empty text.

    Raises
    ------
    StoreError
        If the text is malformed.
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
        raise TypeError("a value has another type")
    return Origin(file, index, generator, set_aside, tuple((columns or {}).items()))
