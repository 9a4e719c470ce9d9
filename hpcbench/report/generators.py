"""The generators side by side: what each of them wrote, and what became of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcbench.report.wording import percent, texts_of, wilson_interval
from hpcbench.store.schema import DONE, FAILED, UNDETERMINED, UNREADABLE

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class GeneratorRow:
    """One generator.

    Attributes
    ----------
    name : str
        As its files or the manifest say.
    written : int
        Entries of its files.
    unreadable : int
        Those that could not be read.
    crystals : int
        Different ones among the others. One that two generators wrote counts for both.
    done : int
        Crystals with phonons.
    stable, undetermined : int
        By the verdict.
    share, interval : str
        Of stable ones among those with phonons, and Wilson's 95 % interval.
    share_of_crystals : str
        Of stable ones among all different crystals.
    """

    name: str
    written: int
    unreadable: int
    crystals: int
    done: int
    stable: int
    undetermined: int
    share: str
    interval: str
    share_of_crystals: str


def generators_of(table: pandas.DataFrame) -> list[GeneratorRow]:
    """Generators by their share of stable crystals; none where no origin names one."""
    written: Counter[str] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    # A store in which nothing was done may lack verdicts.
    columns = [
        texts_of(table, name) or [""] * len(table) for name in ("origins", "status", "verdict")
    ]
    for origins, status, verdict in zip(*columns, strict=True):
        names = [generator for _, _, generator in json.loads(origins or "[]")]
        written.update(names)
        for name in set(names):
            counts[name, status] += 1
            counts[name, verdict] += status == DONE
    named = [name for name in written if name]
    if not named:
        return []
    rows = []
    for name in (*named, *([""] if written[""] else [])):
        stable, done = counts[name, "stable"], counts[name, DONE]
        unreadable = counts[name, UNREADABLE]
        crystals = sum(counts[name, status] for status in (DONE, FAILED))
        row = GeneratorRow(
            name or "not said",
            written[name],
            unreadable,
            crystals,
            done,
            stable,
            counts[name, UNDETERMINED],
            percent(stable, done),
            wilson_interval(stable, done),
            percent(stable, crystals),
        )
        rows.append((stable / done if done else -1.0, row))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
