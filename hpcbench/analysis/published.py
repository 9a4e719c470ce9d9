"""Numbers that PhononBench published about generators (arXiv 2512.21227 v1)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpcbench.analysis.rates import Rate
from hpcbench.origin import Generator

SOURCE = "PhononBench, arXiv 2512.21227 v1"
_FILE = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class PublishedOutcome:
    """A row of Table 3 or 4; numbers that the paper does not give are ``None``.

    Attributes
    ----------
    generator : Generator
        With its training set or condition.
    generated, unique, suitable, done, stable : int or None
        As in :class:`hpcbench.analysis.generators.Outcome`; ``unique`` after sampling, ``suitable``
        is "input script success", ``done`` is "relaxed".
    drawn_from : str
        The row with these crystals, for a row that has none of its own.
    """

    generator: Generator
    generated: int | None
    unique: int | None
    suitable: int | None
    done: int
    stable: int
    drawn_from: str

    @property
    def rate(self) -> Rate:
        """Stable crystals among those with phonons, as in the paper."""
        return Rate(self.stable, self.done)


@dataclass(frozen=True)
class PublishedSpeed:
    """A row of Table 1: hours, entries per minute, and these scaled to a batch of 200."""

    name: str
    generated: int
    hours: float
    speed: float
    equivalent: float


@dataclass(frozen=True)
class PublishedSize:
    """A row of Table 2: architecture, and parameters in millions."""

    name: str
    architecture: str
    parameters: float


def published_outcomes() -> list[PublishedOutcome]:
    """Return the rows of Tables 3 and 4."""
    return [
        PublishedOutcome(
            Generator(row["name"], row.get("training_set", ""), row.get("condition", "")),
            row.get("generated"),
            row.get("unique"),
            row.get("suitable"),
            row["done"],
            row["stable"],
            row.get("drawn_from", ""),
        )
        for row in _tables()["generators"]
    ]


def published_speeds() -> list[PublishedSpeed]:
    """Return the rows of Table 1."""
    return [PublishedSpeed(**row) for row in _tables()["speeds"]]


def published_sizes() -> list[PublishedSize]:
    """Return the rows of Table 2."""
    return [PublishedSize(**row) for row in _tables()["sizes"]]


def published_crystal_systems() -> dict[str, float]:
    """Return Figure 2a: percent stable by crystal system, for CrystalFormer trained on Alex-20."""
    found: dict[str, float] = _tables()["crystal_systems"]
    return found


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
