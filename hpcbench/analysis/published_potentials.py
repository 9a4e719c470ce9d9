"""Numbers that Loew et al. and Lee and Xia published about potentials."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("published_potentials.toml")


@dataclass(frozen=True)
class PublishedErrors:
    """A row of Loew's Tables I to III.

    Attributes
    ----------
    name : str
        Of the potential.
    values : mapping of str to float
        ``failed`` (percent), errors by the keys of
        :mod:`hpcbench.analysis.accuracy.quantities`, and ``true_stable``, ``false_unstable``,
        ``true_unstable``, ``false_stable`` (percent); what the tables leave open is not in it.
    """

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class PublishedTransitions:
    """Lee and Xia's polymorphs at a temperature.

    Attributes
    ----------
    temperature : float
        In K.
    mae, r2 : float
        Of the differences of A_vib, in meV/atom.
    reference, potential, both : int
        Transitions by DFT, by the potential, and by both.
    """

    temperature: float
    mae: float
    r2: float
    reference: int
    potential: int
    both: int


@dataclass(frozen=True)
class PublishedLeeXia:
    """The numbers of Lee and Xia's potential.

    Attributes
    ----------
    name : str
        Of the potential.
    materials : int
        Their number.
    mae, r2 : mapping of str to float
        By the keys of :mod:`hpcbench.analysis.accuracy.quantities`, and ``frequencies`` in THz.
    accuracy, true_negative, false_positive, false_negative : float
        Of stability, in percent of all materials; positive is stable.
    compositions, polymorphs : int
        Their numbers.
    transitions : list of PublishedTransitions
        By temperature.
    """

    name: str
    materials: int
    mae: Mapping[str, float]
    r2: Mapping[str, float]
    accuracy: float
    true_negative: float
    false_positive: float
    false_negative: float
    compositions: int
    polymorphs: int
    transitions: list[PublishedTransitions]


LOEW_SOURCE = "Loew et al., npj Comput. Mater. 11, 178 (preprint of 2024-12-24)"
PUBLISHED_COUNTS = 8189, 1769
"""Crystals that are stable, and unstable, by Loew's reference (Table III)."""
LEE_XIA_SOURCE = "Lee and Xia, arXiv 2407.09674"


def published_loew() -> list[PublishedErrors]:
    """Return the rows of Loew's Tables I to III, in their order."""
    return [
        PublishedErrors(row["name"], {key: row[key] for key in row if key != "name"})
        for row in _tables()["loew"]["potentials"]
    ]


def published_lee_xia() -> PublishedLeeXia:
    """Return the numbers of Lee and Xia's text, of their Figures 4 to 7."""
    found = _tables()["lee_xia"]
    polymorphs = found["polymorphs"]
    return PublishedLeeXia(
        found["name"],
        found["materials"],
        found["mae"],
        found["r2"],
        accuracy=found["accuracy"],
        true_negative=found["true_negative"],
        false_positive=found["false_positive"],
        false_negative=found["false_negative"],
        compositions=polymorphs["compositions"],
        polymorphs=polymorphs["polymorphs"],
        transitions=[PublishedTransitions(**row) for row in polymorphs["at"]],
    )


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
