"""The report: one HTML file with verdicts, shares, failures and bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hpcbench.analysis.breakdown import lowest_frequencies
from hpcbench.analysis.rates import stable_rate
from hpcbench.criteria import Criterion, criteria_of
from hpcbench.curation.sampling import in_random_order
from hpcbench.errors import StoreError
from hpcbench.json_text import json_of
from hpcbench.outputs import file_to_write, replacing
from hpcbench.potentials.catalogue import DEMO
from hpcbench.report.benchmark import benchmark_of
from hpcbench.report.crystal_rows import CrystalRow, crystal_row, lowest_q_of
from hpcbench.report.drawings import bands_svg, histogram_svg, share_svg
from hpcbench.report.history import MOST_CHANGED, computation_words, history_of
from hpcbench.report.protocol_comparison import protocols_of
from hpcbench.report.wording import (
    DASH,
    causes_of,
    earlier_words,
    in_low_supercells,
    interval_words,
    looks_at,
    percent,
    rate_words,
    sentence,
    settings_rows,
    text_of,
    texts_of,
)
from hpcbench.store.schema import (
    COARSE_MESH,
    DIMENSIONS,
    DONE,
    FAILED,
    SET_ASIDE,
    UNREADABLE,
)
from hpcbench.texts import printable, shown_reason

if TYPE_CHECKING:
    import pandas

    from hpcbench.store.reader import Store

# A page that a browser opens at once: about 5 MB of rows and 2 MB of drawings.
MOST_ROWS = 5000
MOST_BANDS = 200
# Number of crystals in a gallery.
GALLERY = 12
# In THz: modes closer to zero do not put a crystal into the gallery of instabilities.
LOWEST_SHOWN = -0.1


@dataclass(frozen=True)
class Drawing:
    """The bands of one crystal.

    ``otherwise`` are the criteria with another verdict; ``computation`` is the final computation,
    which is drawn, if there were several.
    """

    row: CrystalRow
    otherwise: str
    computation: str
    svg: Markup


@dataclass(frozen=True)
class CriterionRow:
    """One criterion and its verdicts on the crystals that are done."""

    criterion: Criterion
    looks_at: str
    stable: str
    undetermined: str
    share: str
    interval: str
    share_of_all: str


@dataclass(frozen=True)
class Kind:
    """Crystals with one kind of negative frequencies, and the number of stable ones."""

    name: str
    count: int
    share: str
    stable: int


@dataclass(frozen=True)
class Failure:
    """Crystals without phonons, of one kind."""

    status: str
    kind: str
    count: int
    name: str
    example: str


def write_report(store: Store, path: Path, *, force: bool = False) -> Path:
    """Write the report of a store as one self-contained HTML file.

    Parameters
    ----------
    store : Store
        Finished or not.
    path : Path
        The file; it is replaced when the new one is complete.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    StoreError
        If the file cannot be written or the store cannot be read.
    """
    file_to_write(path, force=force)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(_content(store))
    # Marks of the direction of writing could hide other text on the page.
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(printable(page).encode())
    return path


def _content(store: Store) -> dict[str, Any]:
    """Return the variables of the template."""
    table, settings = store.table, store.settings
    criteria = criteria_of(settings)
    criterion = next(c for c in criteria if c.name == settings["criterion"])
    done = table[table["status"] == DONE]
    counts = {
        status: int((table["status"] == status).sum()) for status in (FAILED, UNREADABLE, SET_ASIDE)
    }
    rate = stable_rate(texts_of(done, "verdict"))
    undetermined = len(done) - rate.of
    records = _records(table[table["status"] != SET_ASIDE], MOST_ROWS)
    lowest_q = lowest_q_of(store)
    galleries = _galleries(done)
    chosen = [key for keys in galleries.values() for key in keys][:MOST_BANDS]
    drawn = set(chosen)
    rows = [crystal_row(record, lowest_q, str(record["id"]) in drawn) for record in records]
    by_key = {str(record["id"]): (record, row) for record, row in zip(records, rows, strict=True)}
    # Crystals to draw may be beyond the table's end, for example if all first rows have failed.
    for record in _records(done.loc[chosen], MOST_BANDS):
        if (key := str(record["id"])) not in by_key:
            by_key[key] = record, crystal_row(record, lowest_q, True)
    return {
        "store": store.path.name,
        "now": datetime.now(UTC),
        "finished": _finished(table),
        "crystals": len(table),
        "done": len(done),
        "stable": rate.count,
        "unstable": rate.of - rate.count,
        "undetermined": undetermined,
        "determined": rate.of,
        "share": rate_words(rate),
        "interval": interval_words(rate),
        "bounds": [percent(n, len(done)) for n in (rate.count, rate.count + undetermined)],
        "failed": counts[FAILED],
        "unreadable": counts[UNREADABLE],
        "set_aside": counts[SET_ASIDE],
        "unfinished": len(store.unfinished_ids()),
        "earlier": earlier_words(len(store.earlier)),
        "criterion": criterion.name,
        "criterion_sentence": sentence(criterion),
        "stand_in": settings.get("model") == DEMO,
        "settings": settings_rows(settings),
        "versions": _versions(table),
        "figures": _figures(done, criteria, criterion),
        "criteria": [_criterion_row(c, done, counts[FAILED]) for c in criteria],
        "benchmark": benchmark_of(table, criteria, not store.unfinished_ids()),
        "kinds": _kinds(done),
        "soft": _soft(done),
        "on_coarse_mesh": _on_coarse_mesh(done),
        "low": in_low_supercells(done),
        "causes": causes_of(done),
        "protocols": protocols_of(store, done, criteria, criterion),
        "history": history_of(store, criterion.threshold),
        "most_changed": MOST_CHANGED,
        "failures": _failures(table),
        "rows": rows,
        "verdict_words": sorted({row.verdict for row in rows}),
        "drawn": len(chosen),
        "galleries": {
            title: [
                _drawing(store, key, *by_key[key], criteria, criterion)
                for key in keys
                if key in drawn
            ]
            for title, keys in galleries.items()
        },
    }


def _galleries(done: pandas.DataFrame) -> dict[str, list[str]]:
    """Return the ids of the crystals whose bands are drawn, by the title of their group.

    If there are more than a few, the most unstable and some random ones come first.
    """
    ids = list(map(str, done.index))
    if len(ids) <= 2 * GALLERY or "min_frequency_path" not in done:
        return {"": ids}
    lowest = done[done["verdict"] == "unstable"]["min_frequency_path"]
    negative = lowest[lowest < LOWEST_SHOWN]
    unstable = [str(key) for key in negative.sort_values().index[:GALLERY]]
    others = [key for key in ids if key not in unstable]
    at_random = set(in_random_order(others, 0)[:GALLERY])
    groups = {
        "The most unstable": unstable,
        "At random": [key for key in others if key in at_random],
        "Others, in the order of the table": [key for key in others if key not in at_random],
    }
    return {title: keys for title, keys in groups.items() if keys}


def _records(table: pandas.DataFrame, number: int) -> list[dict[str, Any]]:
    """Return the first rows as dictionaries."""
    return [
        {str(column): value for column, value in record.items()}
        for record in table.head(number).to_dict("records")
    ]


def _criterion_row(criterion: Criterion, done: pandas.DataFrame, failed: int) -> CriterionRow:
    verdicts = texts_of(done, criterion.column)
    rate = stable_rate(verdicts)
    return CriterionRow(
        criterion,
        looks_at(criterion),
        str(rate.count) if verdicts else DASH,
        str(len(verdicts) - rate.of) if verdicts else DASH,
        rate_words(rate),
        interval_words(rate),
        rate_words(stable_rate(verdicts, failed)) if verdicts else DASH,
    )


def _soft(done: pandas.DataFrame) -> str:
    """Count crystals that are no network of bonds, in words; empty if there are none."""
    if "dimensionality" not in done:
        return ""
    counts = done["dimensionality"].value_counts()
    return ", ".join(
        f"{counts[n]} of {word}" for n, word in DIMENSIONS.items() if n in counts and n < 3
    )


def _on_coarse_mesh(done: pandas.DataFrame) -> int:
    """Count crystals whose mesh is not converged; older stores lack the column."""
    return int((done["mesh_change"] > COARSE_MESH).sum()) if "mesh_change" in done else 0


def _kinds(done: pandas.DataFrame) -> list[Kind]:
    """Count crystals by their character, the most frequent first; older stores lack the column."""
    characters, verdicts = texts_of(done, "character"), texts_of(done, "verdict")
    counts = Counter(filter(None, characters))
    stable = Counter(c for c, v in zip(characters, verdicts, strict=False) if v == "stable")
    return [
        Kind(name, count, percent(count, len(done)), stable[name])
        for name, count in counts.most_common()
    ]


def _failures(table: pandas.DataFrame) -> list[Failure]:
    """Count crystals without phonons by status and kind, the most frequent first."""
    without = table[table["status"] != DONE]
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    counts: dict[tuple[str, str], int] = {}
    columns = (texts_of(without, name) for name in ("status", "name", "reason"))
    for status, name, reason in zip(*columns, strict=True):
        kind, _, message = reason.partition(":")
        key = status, kind.strip() or "unknown"
        counts[key] = counts.get(key, 0) + 1
        examples.setdefault(key, (name, message.strip()))
    return [
        Failure(status, shown_reason(kind), count, *map(shown_reason, examples[status, kind]))
        for (status, kind), count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _drawing(
    store: Store,
    key: str,
    record: Mapping[str, Any],
    row: CrystalRow,
    criteria: Iterable[Criterion],
    criterion: Criterion,
) -> Drawing:
    others: dict[str, list[str]] = {}
    for c in criteria:
        others.setdefault(text_of(record.get(c.column)), []).append(c.name)
    for known in ("", text_of(record.get(criterion.column))):
        others.pop(known, None)
    otherwise = "; ".join(f"{answer} by {', '.join(names)}" for answer, names in others.items())
    again = computation_words(text_of(record.get("again")))
    # The drawing escapes its own texts.
    return Drawing(row, otherwise, again, Markup(bands_svg(store.bands(key))))


def _figures(
    done: pandas.DataFrame, criteria: Iterable[Criterion], criterion: Criterion
) -> list[Markup]:
    """Draw the share against the threshold, and the histogram; none without frequencies."""
    if "min_frequency_path" not in done:
        return []
    finite = done[np.isfinite(done["min_frequency_path"].to_numpy(dtype=float))]
    determined = finite[finite[criterion.column].isin(["stable", "unstable"])]
    if not len(determined):
        return []
    # Undetermined crystals are in no share.
    lowest = {place: lowest_frequencies(determined, place) for place in ("path", "commensurate")}
    on_path = [c for c in criteria if c.place == "path"]
    of_all = finite["min_frequency_path"].to_numpy(dtype=float)
    return [
        Markup(share_svg(lowest, on_path, criterion.name)),
        Markup(histogram_svg(of_all, texts_of(finite, criterion.column))),
    ]


def _finished(table: pandas.DataFrame) -> tuple[datetime, datetime] | None:
    """Return the times of the first and the last result."""
    if "finished" not in table or not (times := table["finished"].dropna()).size:
        return None
    try:
        first, last = (datetime.fromtimestamp(float(t), UTC) for t in (times.min(), times.max()))
    except (OSError, OverflowError, ValueError) as error:
        raise StoreError(f"results that came at no time: {error}") from error
    return first, last


def _versions(table: pandas.DataFrame) -> list[tuple[str, str]]:
    """Return packages and devices of the results; several if a run was continued."""
    texts: Iterable[str] = table["provenance"].dropna().unique() if "provenance" in table else ()
    found: dict[str, set[str]] = {}
    for text in filter(None, texts):
        versions = json_of(text, "provenance")
        if not isinstance(versions, dict):
            raise StoreError("provenance: no table of versions")
        for key, value in versions.items():
            # The potential, its weights and its precision are among the settings.
            if value and key not in ("potential", "weights_sha256", "dtype"):
                found.setdefault(key, set()).add(str(value))
    return [(key, ", ".join(sorted(values))) for key, values in sorted(found.items())]
