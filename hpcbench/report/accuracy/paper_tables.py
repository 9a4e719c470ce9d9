"""The tables of Loew et al. and of Lee and Xia, of one or several stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hpcbench.analysis.accuracy.frequencies import (
    frequency_problems,
)
from hpcbench.analysis.accuracy.quantities import (
    ANYWHERE,
    LEE_XIA_THERMAL,
    LOEW_TABLE_1,
    LOEW_TABLE_2,
    Errors,
)
from hpcbench.analysis.accuracy.spectra import ALL
from hpcbench.analysis.published_potentials import (
    LEE_XIA_SOURCE,
    LOEW_SOURCE,
    PUBLISHED_COUNTS,
    PublishedErrors,
    published_lee_xia,
    published_loew,
)
from hpcbench.protocols import LEE_XIA, LOEW
from hpcbench.report.accuracy.cells import (
    Cell,
    ErrorTable,
    Line,
    counted_reasons,
    estimated,
    rest,
    share,
    value,
    whole,
    words,
)
from hpcbench.report.accuracy.measured import INTERVALS, Measured

# The paper has the thermal properties; labels have no more than a highest frequency.
_FREQUENCIES_TABLE = (ANYWHERE, *LEE_XIA_THERMAL)
SOURCES = f"Published: {LOEW_SOURCE}; {LEE_XIA_SOURCE}."


def _published(row: PublishedErrors, keys: Iterable[str]) -> list[Cell]:
    def cell(key: str) -> Cell:
        found = row.values.get(key)
        # With the digits that are printed.
        return value(found, {"failed": 2, "volume": 3}.get(key, 0))

    return [words(f"{row.name} (published)"), *map(cell, keys)]


def _notes(several: Sequence[Measured], errors: Callable[[Measured], list[Errors]]) -> list[str]:
    """Return what is left out of which column, by potential."""
    return [
        note
        for one in several
        for error in errors(one)
        if (note := counted_reasons(error.reasons, f"{one.label}, {error.quantity.title}"))
    ]


def loew_1(several: Sequence[Measured]) -> ErrorTable:
    """Return Loew's Table I: failures, and errors of energy and volume."""
    keys = [quantity.key for quantity in LOEW_TABLE_1]
    lines = [
        Line(
            [
                words(one.label),
                whole(len(one.pairs)),
                share(one.compared.failed, 2),
                *(estimated(one.errors[key].mae, one.errors[key].quantity.digits) for key in keys),
            ]
        )
        for one in several
    ]
    for row in published_loew():
        name, *cells = _published(row, ("failed", *keys))
        lines.append(Line([name, words(""), *cells], True))
    return ErrorTable(
        "loew-1",
        "Relaxation (Loew's Table I)",
        f"Mean absolute errors of the relaxed crystals. {INTERVALS}",
        [
            ("potential", ""),
            ("crystals", ""),
            ("failed", "%"),
            *((f"MAE({q.title})", q.unit) for q in LOEW_TABLE_1),
        ],
        lines,
        notes=_notes(several, lambda one: [one.errors[key] for key in keys]),
    )


def loew_2(several: Sequence[Measured]) -> ErrorTable:
    """Return Loew's Table II: errors of the highest frequency and of thermal properties."""
    keys = [quantity.key for quantity in LOEW_TABLE_2]
    lines = [
        Line(
            [
                words(one.label),
                whole(max(len(one.errors[key].pairs) for key in keys)),
                *(estimated(one.errors[key].mae, one.errors[key].quantity.digits) for key in keys),
            ]
        )
        for one in several
    ]
    for row in published_loew():
        name, *cells = _published(row, keys)
        lines.append(Line([name, words(""), *cells], True))
    return ErrorTable(
        "loew-2",
        "Phonons at 300 K (Loew's Table II)",
        "Mean absolute errors of the highest frequency at the q commensurate with the supercell, "
        "and of S, F and C_V at 300 K, of a mole of primitive cells as phonopy gives them. "
        f"{INTERVALS}",
        [
            ("potential", ""),
            ("crystals", ""),
            *((f"MAE({q.title})", q.unit) for q in LOEW_TABLE_2),
        ],
        lines,
        notes=_notes(several, lambda one: [one.errors[key] for key in keys]),
    )


def loew_3(several: Sequence[Measured]) -> ErrorTable:
    """Return Loew's Table III: the confusion matrix of stability."""
    lines = []
    for one in several:
        found = one.confusions[LOEW]
        lines.append(
            Line(
                [
                    words(one.label),
                    whole(found.of_stable.of),
                    whole(found.of_unstable.of),
                    share(found.of_stable),
                    rest(found.of_stable),
                    share(found.of_unstable),
                    rest(found.of_unstable),
                ]
            )
        )
    keys = ("true_stable", "false_unstable", "true_unstable", "false_stable")
    for row in published_loew():
        name, *cells = _published(row, keys)
        lines.append(Line([name, *map(whole, PUBLISHED_COUNTS), *cells], True))
    return ErrorTable(
        "loew-3",
        "Stability (Loew's Table III)",
        "In percent of the crystals that are stable by the reference (TS, FU), and of those that "
        "are unstable (TU, FS). Stable: no imaginary frequency at the q commensurate with the "
        "supercell, but for acoustic modes at Γ down to −50 K. Below each share: Wilson's 95 % "
        "interval.",
        [
            ("potential", ""),
            ("stable", "reference"),
            ("unstable", "reference"),
            ("TS", "%"),
            ("FU", "%"),
            ("TU", "%"),
            ("FS", "%"),
        ],
        lines,
        notes=[
            note
            for one in several
            if (note := counted_reasons(one.confusions[LOEW].reasons, one.label))
        ],
    )


def lee_xia_errors(several: Sequence[Measured]) -> ErrorTable:
    """Return Lee and Xia's errors: frequencies, A_vib, C_V and S_vib, with R2."""
    lines = []
    for one in several:
        found = one.frequencies[ALL]
        lines.append(
            Line(
                [
                    words(one.label),
                    Cell("frequencies", f"{found.frequencies:,} on the path"),
                    words("THz"),
                    whole(found.mae.count),
                    estimated(found.mae, 3),
                    estimated(found.r2, 3),
                    words(""),
                ]
            )
        )
        for quantity in _FREQUENCIES_TABLE:
            errors = one.errors[quantity.key]
            lines.append(
                Line(
                    [
                        words(one.label),
                        words(quantity.title),
                        words(quantity.unit),
                        whole(len(errors.pairs)),
                        estimated(errors.mae, quantity.digits),
                        estimated(errors.r2, 3),
                        estimated(errors.mean, quantity.digits),
                    ]
                )
            )
    published = published_lee_xia()
    names = {"frequencies": ("frequencies", "THz")}
    names |= {quantity.key: (quantity.title, quantity.unit) for quantity in LEE_XIA_THERMAL}
    for key, (title, unit) in names.items():
        lines.append(
            Line(
                [
                    words(f"{published.name} (published)"),
                    words(title),
                    words(unit),
                    whole(published.materials),
                    value(published.mae[key], 2),
                    value(published.r2.get(key), 3),
                    words(""),
                ],
                True,
            )
        )
    notes = _notes(several, lambda one: [one.errors[q.key] for q in _FREQUENCIES_TABLE])
    for one in several:
        notes += filter(
            None, [counted_reasons(frequency_problems(one.compared), f"{one.label}, frequencies")]
        )
    return ErrorTable(
        "lee-xia",
        "Frequencies and thermal properties (Lee and Xia's Figures 4 and 7)",
        "Over all frequencies of all crystals on the band path; A_vib of an atom, C_V and S_vib of "
        f"the primitive cell. {INTERVALS}",
        [
            ("potential", ""),
            ("quantity", ""),
            ("unit", ""),
            ("crystals", ""),
            ("MAE", ""),
            ("R²", ""),
            ("mean error", ""),
        ],
        lines,
        texts=3,
        notes=notes,
    )


def lee_xia_stability(several: Sequence[Measured]) -> ErrorTable:
    """Return Lee and Xia's confusion matrix of stability."""
    lines = []
    for one in several:
        found = one.confusions[LEE_XIA]
        lines.append(
            Line(
                [
                    words(one.label),
                    whole(found.total),
                    share(found.accuracy),
                    *(share(rate) for rate in found.shares.values()),
                ]
            )
        )
    paper = published_lee_xia()
    positive = paper.accuracy - paper.true_negative
    shares = (
        paper.accuracy, positive, paper.true_negative, paper.false_positive, paper.false_negative
    )  # fmt: skip
    lines.append(
        Line(
            [
                words(f"{paper.name} (published)"),
                whole(paper.materials),
                *(value(number, 1) for number in shares),
            ],
            True,
        )
    )
    return ErrorTable(
        "lee-xia-stability",
        "Stability (Lee and Xia's Figure 4b)",
        "In percent of all crystals. Positive is stable: no frequency on the band path below "
        "−0.5 THz. Below each share: Wilson's 95 % interval. The published share of true positives "
        "follows from the others.",
        [
            ("potential", ""),
            ("crystals", ""),
            ("accuracy", "%"),
            ("true positive", "%"),
            ("true negative", "%"),
            ("false positive", "%"),
            ("false negative", "%"),
        ],
        lines,
        notes=[
            note
            for one in several
            if (note := counted_reasons(one.confusions[LEE_XIA].reasons, one.label))
        ],
    )
