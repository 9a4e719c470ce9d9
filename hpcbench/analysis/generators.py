"""Counts and rates of each generator: PhononBench's Table 3, from a store."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcbench.analysis.rates import Rate, rank, stable_rate
from hpcbench.origin import MENDED, NOVELTY, Generator, origins_from_json
from hpcbench.store.schema import DONE, FAILED, SET_ASIDE, UNDETERMINED, UNREADABLE

if TYPE_CHECKING:
    import pandas

NOT_COMPUTABLE = (
    "cell", "coordinates", "overlap", "no mass", "large supercell", "unknown element", "too large",
)  # fmt: skip
"""Kinds of failures before the relaxation: the input cannot be computed."""
BATCH = 200
"""Batch size for which PhononBench's Table 1 gives equivalent speeds."""
SECONDS = ("seconds_relaxation", "seconds_forces", "seconds_analysis")
HULL = "hull"
"""Part of the name of a carried column with the energy above the convex hull, in eV/atom."""
NEAR_HULL = 0.1
"""In eV/atom: the limit of stability in the S.U.N. (stable, unique, novel) rates of MatterGen and
others."""


@dataclass(frozen=True)
class Outcome:
    """The entries of one generator, and their results.

    Attributes
    ----------
    generator : Generator
        The generator; one with a name of its own for entries whose origin is unknown.
    generated : int
        Entries of its files.
    readable : int
        Entries that could be read as crystals.
    unique : int
        Different crystals among them; without duplicates, if the run looked for those.
    sampled : int
        Unique crystals that were to be computed.
    suitable : int
        Sampled crystals that can be computed ("input script success").
    done : int
        Suitable crystals with a relaxed cell and phonons ("relaxed").
    stable, undetermined : int
        By the verdict.
    by_criterion : mapping
        The rate of stable crystals by each criterion, among those for which it has an answer.
    novel : int or None
        Done crystals that are not among the known ones; ``None`` if nothing was compared.
    stable_and_novel : int or None
        Stable crystals among the novel ones.
    near_hull : int or None
        Crystals among these whose energy above the hull, given by their source, is at most 0.1
        eV/atom; ``None`` if no source gives it.
    complete : bool
        Whether nothing is left to compute; otherwise entries without a result are in no number.
    too_large : int
        Unique crystals that were left out of the sample because of their number of atoms.
    seconds : float
        Rank seconds of the done crystals.
    mended : mapping
        Entries whose text was corrected on reading, by the kind of error.
    reasons : mapping
        Sampled crystals without phonons, and entries that could not be read, by the kind of reason.
    ids : mapping
        Ids of the crystals in ``unique``, ``sampled``, ``suitable``, ``done``, ``determined``,
        ``stable``.
    """

    generator: Generator
    generated: int
    readable: int
    unique: int
    sampled: int
    suitable: int
    done: int
    stable: int
    undetermined: int
    by_criterion: Mapping[str, Rate]
    novel: int | None
    stable_and_novel: int | None
    near_hull: int | None
    complete: bool
    too_large: int
    seconds: float
    mended: Mapping[str, int]
    reasons: Mapping[str, int]
    ids: Mapping[str, list[str]] = field(repr=False)

    @property
    def determined(self) -> int:
        """The number of done crystals that are stable or unstable by the verdict."""
        return self.done - self.undetermined

    @property
    def rates(self) -> dict[str, Rate]:
        """The rates of stable crystals for each way of counting failures.

        Undetermined crystals are in none of these numbers.
        """
        return {
            "determined": Rate(self.stable, self.determined),
            "suitable": Rate(self.stable, self.suitable - self.undetermined),
            "sampled": Rate(self.stable, self.sampled - self.undetermined),
        }

    def of_generated(self, count: int) -> float:
        """Return the share of generated entries that some sampled crystals represent.

        NaN if it is not known: if the sample was drawn from small crystals only, or the run is not
        complete.
        """
        if not self.sampled or not self.generated or self.too_large or not self.complete:
            return math.nan
        return count / self.sampled * self.unique / self.generated

    @property
    def speed(self) -> float | None:
        """Generated entries per minute, if it is known how long generation took."""
        if self.generator.hours is None:
            return None
        return (self.generator.generated or self.generated) / (60 * self.generator.hours)

    @property
    def equivalent_speed(self) -> float | None:
        """The speed scaled to a batch of 200, as in PhononBench's Table 1."""
        batch = self.generator.batch_size
        return None if self.speed is None or batch is None else self.speed * BATCH / batch


def ranked_outcomes(table: pandas.DataFrame, complete: bool = True) -> list[Outcome]:
    """Return the outcomes by the stable share of those determined, the highest first.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Store.table``.
    complete : bool
        Whether nothing is left to compute.
    """
    outcomes = outcomes_of(table, complete)
    return [outcomes[i] for i in rank([o.rates["determined"] for o in outcomes]).order]


@dataclass
class _Counts:
    generator: Generator
    entries: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    by_criterion: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0
    was_compared: bool = False
    has_hull: bool = False


def outcomes_of(table: pandas.DataFrame, complete: bool = True) -> list[Outcome]:
    """Count the results of each generator, in the order of the store.

    A crystal of two generators counts for both. If nothing in the store names a generator there is
    one outcome, with a generator without a name.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Store.table``.
    complete : bool
        Whether nothing is left to compute.
    """
    criteria = [name for name in table.columns if name.startswith("verdict_")]
    wanted = ["id", "origins", "status", "reason", "verdict", *SECONDS, *criteria]
    there = [name for name in wanted if name in table.columns]
    found: dict[str, _Counts] = {}
    for values in zip(*(table[name] for name in there), strict=True):
        _count(found, dict(zip(there, values, strict=True)), criteria)
    return [_outcome(counts, complete) for counts in found.values()]


def _count(found: dict[str, _Counts], row: Mapping[str, Any], criteria: list[str]) -> None:
    by_label: dict[str, list[Any]] = {}
    for origin in origins_from_json(_text(row.get("origins"))):
        by_label.setdefault(origin.generator, []).append(origin)
    status, key = row["status"], str(row["id"])
    for label, origins in by_label.items():
        counts = found.setdefault(label, _Counts(origins[0].made_by))
        counts.entries["generated"] += len(origins)
        kind = _text(row.get("reason")).partition(":")[0].strip() or "unknown"
        if status == UNREADABLE:
            counts.reasons[kind] += len(origins)
            continue
        counts.entries["readable"] += len(origins)
        said = (_text(dict(origin.columns).get(MENDED)) for origin in origins)
        # Without the space group: it would make a kind for each.
        counts.mended.update(text.partition(" of ")[0] for text in said if text)
        aside = [origin.set_aside for origin in origins if origin.set_aside]
        if aside and aside[0].startswith("duplicate"):
            continue
        counts.ids["unique"].append(key)
        if aside or status == SET_ASIDE:
            counts.entries["too_large"] += any(text.endswith("atoms") for text in aside)
            continue
        counts.ids["sampled"].append(key)
        if status == FAILED:
            counts.reasons[kind] += 1
            if kind in NOT_COMPUTABLE:
                continue
        counts.ids["suitable"].append(key)
        if status != DONE:
            continue
        counts.ids["done"].append(key)
        counts.seconds += sum(_number(row.get(name)) for name in SECONDS)
        columns = dict(origins[0].columns)
        novelty = _text(columns.get(NOVELTY))
        counts.was_compared |= bool(novelty)
        verdict = _text(row.get("verdict"))
        counts.entries["undetermined"] += verdict == UNDETERMINED
        for name in criteria:
            counts.by_criterion[name].append(_text(row[name]))
        if verdict != UNDETERMINED:
            counts.ids["determined"].append(key)
        if verdict == "stable":
            counts.ids["stable"].append(key)
        above_hull = next((columns[name] for name in columns if HULL in name.lower()), None)
        counts.has_hull |= isinstance(above_hull, float | int)
        if novelty == "novel":
            counts.entries["novel"] += 1
            counts.entries["stable_and_novel"] += verdict == "stable"
            if isinstance(above_hull, float | int):
                counts.entries["near_hull"] += verdict == "stable" and above_hull <= NEAR_HULL


def _number(value: Any) -> float:
    return float(value) if isinstance(value, float | int) and math.isfinite(value) else 0.0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _outcome(counts: _Counts, complete: bool) -> Outcome:
    numbers = {name: len(counts.ids[name]) for name in ("unique", "sampled", "suitable", "done")}
    return Outcome(
        counts.generator,
        counts.entries["generated"],
        counts.entries["readable"],
        **numbers,
        stable=len(counts.ids["stable"]),
        undetermined=counts.entries["undetermined"],
        by_criterion={name: stable_rate(said) for name, said in counts.by_criterion.items()},
        novel=counts.entries["novel"] if counts.was_compared else None,
        stable_and_novel=counts.entries["stable_and_novel"] if counts.was_compared else None,
        near_hull=(
            counts.entries["near_hull"] if counts.was_compared and counts.has_hull else None
        ),
        complete=complete,
        too_large=counts.entries["too_large"],
        seconds=counts.seconds,
        mended=dict(counts.mended.most_common()),
        reasons=dict(counts.reasons.most_common()),
        ids=dict(counts.ids),
    )
