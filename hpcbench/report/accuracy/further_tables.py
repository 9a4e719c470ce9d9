"""Tables that the papers do not have: softening, groups, two potentials, what is left out."""

from __future__ import annotations

from collections.abc import Sequence

from hpcbench.analysis.accuracy.comparison import Comparison
from hpcbench.report.accuracy.cells import (
    Cell,
    ErrorTable,
    Line,
    estimated,
    value,
    whole,
    words,
)
from hpcbench.report.accuracy.measured import GROUPS, INTERVALS, MODES, Measured
from hpcbench.report.wording import chance_words


def softening(several: Sequence[Measured]) -> ErrorTable:
    """Return the errors by set of modes, with the slope against the reference."""
    lines = [
        Line(
            [
                words(one.label),
                words(MODES[modes]),
                whole(found.mae.count),
                estimated(found.slope, 3),
                estimated(found.mae_of_materials, 3),
                estimated(found.mae, 3),
                estimated(found.rmse, 3),
                estimated(found.r2, 3),
            ]
        )
        for one in several
        for modes, found in one.frequencies.items()
        if found.frequencies
    ]
    return ErrorTable(
        "softening",
        "Softening, and acoustic modes apart",
        "Slope: of the potential's frequencies against the reference's, by least squares through "
        "the origin; below 1 the potential is too soft. The three lowest branches at each q hold "
        "the acoustic ones near Γ; at commensurate q nothing is interpolated. The first error "
        f"counts each crystal once, the others each frequency. {INTERVALS}",
        [
            ("potential", ""),
            ("modes", ""),
            ("crystals", ""),
            ("slope", ""),
            ("MAE of crystals", "THz"),
            ("MAE", "THz"),
            ("RMSE", "THz"),
            ("R²", ""),
        ],
        lines,
        texts=2,
    )


def by_group(several: Sequence[Measured], kind: str) -> ErrorTable:
    """Return the errors by group.

    Parameters
    ----------
    several : sequence of Measured
        The stores.
    kind : str
        A key of ``GROUPS``.
    """
    lines = [
        Line(
            [
                words(one.label),
                words(group.name),
                whole(group.materials),
                estimated(group.frequencies, 3),
                estimated(group.slope, 3),
                estimated(group.highest, 1),
            ]
        )
        for one in several
        for group in one.groups[kind]
    ]
    return ErrorTable(
        kind.replace(" ", "-"),
        GROUPS[kind],
        "Mean over crystals of each one's mean absolute error on the band path; slope as above; "
        f"error of the highest frequency. {INTERVALS}",
        [
            ("potential", ""),
            (kind, ""),
            ("crystals", ""),
            ("MAE", "THz"),
            ("slope", ""),
            ("MAE, highest", "K"),
        ],
        lines,
        texts=2,
    )


def side_by_side(found: Comparison) -> ErrorTable:
    """Return the paired differences of two potentials."""
    lines = [
        Line(
            [
                Cell(error.title, error.unit),
                whole(error.difference.estimate.count),
                value(error.first, error.digits),
                value(error.second, error.digits),
                estimated(error.difference.estimate, error.digits),
                words(chance_words(error.difference.chance_smaller)),
            ]
        )
        for error in found.errors
    ]
    return ErrorTable(
        "side-by-side",
        f"{found.first} and {found.second} on the same {found.materials:,} crystals",
        "Mean absolute errors over the crystals that both have, and their difference: below zero "
        "the first one is better. The chance that it is better is the share of 2,000 bootstrap "
        "draws of crystals in which its error is smaller.",
        [
            ("quantity", ""),
            ("crystals", ""),
            (found.first, ""),
            (found.second, ""),
            ("difference", ""),
            (f"{found.first} is better", "chance"),
        ],
        lines,
    )


def left_out(several: Sequence[Measured]) -> ErrorTable:
    """Return the crystals that are in no average, counted by reason with an example."""
    lines = []
    for one in several:
        kinds: dict[str, list[int]] = {}
        for place, crystal in enumerate(one.compared.left_out):
            kinds.setdefault(crystal.kind, []).append(place)
        for kind, places in sorted(kinds.items(), key=lambda item: -len(item[1])):
            example = one.compared.left_out[places[0]]
            reason = example.reason[:160]
            lines.append(
                Line(
                    [
                        words(one.label),
                        words(kind),
                        Cell(example.name, reason),
                        whole(len(places)),
                    ]
                )
            )
        if one.compared.unfinished:
            why = words("no result yet: the run is not finished")
            lines.append(Line([words(one.label), why, words(""), whole(one.compared.unfinished)]))
    return ErrorTable(
        "left-out",
        "In no average",
        "Crystals that the potential could not compute, and crystals without a reference.",
        [("potential", ""), ("why", ""), ("an example", ""), ("crystals", "")],
        lines,
        texts=3,
    )
