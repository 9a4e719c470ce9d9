"""Tables of polymorphs: transitions by potential and reference, and stable orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcbench.analysis.accuracy.polymorphs import (
    OFFSET,
    TEMPERATURES,
    Polymorphs,
    find_polymorphs,
    transitions,
    vibrational_differences,
)
from hpcbench.analysis.accuracy.statistics import (
    Array,
    Estimate,
    determination,
    estimate,
    ratio,
)
from hpcbench.analysis.published_potentials import published_lee_xia
from hpcbench.report.accuracy.cells import Cell, ErrorTable, Line, estimated, value, whole, words
from hpcbench.report.accuracy.measured import INTERVALS, Measured
from hpcbench.report.drawings import number

# Compositions in the table of orders; JSON has all.
MOST_COMPOSITIONS = 40
MOST_PHASES = 6


def polymorph_errors(found: Sequence[Polymorphs], temperature: float) -> tuple[Estimate, Estimate]:
    """Return the mean absolute error and R2 of the differences of A_vib, in meV/atom.

    Parameters
    ----------
    found : sequence of Polymorphs
        Of a store.
    temperature : float
        In K.
    """
    _, theirs, ours = vibrational_differences(found, temperature)
    return _mae_and_r2(theirs, ours)


def enthalpy_errors(found: Sequence[Polymorphs]) -> tuple[Estimate, Estimate]:
    """Return the mean absolute error and R2 of the differences of H, in meV/atom.

    Energies of another zero compare here too. Only compositions count whose H is the reference's.

    Parameters
    ----------
    found : sequence of Polymorphs
        Of a store.
    """
    theirs, ours = [], []
    for one in found:
        if one.is_by_reference:
            energies = np.array([1000 * phase.potential.energy for phase in one.phases])
            theirs += one.enthalpy[1:].tolist()
            ours += (energies - energies[0])[1:].tolist()
    return _mae_and_r2(np.array(theirs), np.array(ours))


def _mae_and_r2(theirs: Array, ours: Array) -> tuple[Estimate, Estimate]:
    known = np.isfinite(ours)
    theirs, errors = theirs[known], (ours - theirs)[known]
    ones = np.ones(len(theirs))
    return (
        estimate(np.stack([np.abs(errors), ones], axis=1), ratio),
        estimate(np.stack([ones, theirs, theirs**2, errors**2], axis=1), determination),
    )


def polymorph_transitions(several: Sequence[Measured]) -> ErrorTable:
    """Return Lee and Xia's comparison of transitions between polymorphs."""
    lines = []
    for one in several:
        found = find_polymorphs(one.compared.phases)
        mae, r2 = enthalpy_errors(found)
        if mae.count:
            compositions = sum(some.is_by_reference for some in found)
            lines.append(
                Line(
                    [
                        words(one.label),
                        words("ΔH"),
                        whole(compositions),
                        estimated(mae, 2),
                        estimated(r2, 3),
                        *[words("")] * 3,
                    ]
                )
            )
        for temperature in TEMPERATURES:
            counts = transitions(found, temperature)
            if not counts.compositions:
                continue
            mae, r2 = polymorph_errors(found, temperature)
            names = ", ".join(f"{name} ({composition})" for composition, name in counts.both)
            lines.append(
                Line(
                    [
                        words(one.label),
                        Cell(f"ΔA_vib, {temperature:g} K", names[:300]),
                        whole(counts.compositions),
                        estimated(mae, 2),
                        estimated(r2, 3),
                        whole(counts.reference),
                        whole(counts.potential),
                        whole(len(counts.both)),
                    ]
                )
            )
    paper = published_lee_xia()
    for row in paper.transitions if lines else ():
        lines.append(
            Line(
                [
                    words(f"{paper.name} (published)"),
                    words(f"ΔA_vib, {row.temperature:g} K"),
                    whole(paper.compositions),
                    value(row.mae, 2),
                    value(row.r2, 3),
                    *map(whole, (row.reference, row.potential, row.both)),
                ],
                True,
            )
        )
    return ErrorTable(
        "transitions",
        "Transitions between polymorphs (Lee and Xia's Figures 5 and 6)",
        "ΔA = ΔH + ΔA_vib against the polymorph of lowest H, with H by the reference. A transition "
        f"is possible to the polymorph of lowest A if that is less than {OFFSET:g} meV/atom above "
        f"it. Errors are of ΔA_vib, in the first row of ΔH. {INTERVALS}",
        [
            ("potential", ""),
            ("difference", ""),
            ("compositions", ""),
            ("MAE", "meV/atom"),
            ("R²", ""),
            ("transitions", "reference"),
            ("transitions", "potential"),
            ("the same", ""),
        ],
        lines,
        texts=2,
    )


def polymorph_orders(several: Sequence[Measured]) -> ErrorTable:
    """Return the order of the polymorphs of each composition at 0, 300 and 1000 K."""
    lines, notes = [], []
    for one in several:
        found = find_polymorphs(one.compared.phases)
        lines += [_order_line(one.label, some) for some in found[:MOST_COMPOSITIONS]]
        if len(found) > MOST_COMPOSITIONS:
            notes.append(
                f"{one.label}: the first {MOST_COMPOSITIONS} of {len(found):,} compositions; all "
                "are in --json"
            )
    return ErrorTable(
        "polymorphs",
        "Polymorphs by stability",
        "Crystals of one composition by A = H + A_vib of the potential, the most stable first, "
        "with what each lies above it in meV/atom; at 0 K A_vib is the zero-point energy. H is the "
        "reference's energy where all have one, else the potential's. Unstable crystals have "
        "imaginary modes that are not counted in A_vib.",
        [
            ("potential", ""),
            ("composition", ""),
            ("H", ""),
            *((f"{temperature:g} K", "") for temperature in TEMPERATURES),
        ],
        lines,
        texts=6,
        notes=notes,
    )


def _order_line(label: str, found: Polymorphs) -> Line:
    return Line(
        [
            words(label),
            Cell(found.composition, f"{len(found.phases)} polymorphs"),
            words("reference" if found.is_by_reference else "potential"),
            *(_order(found, temperature) for temperature in TEMPERATURES),
        ]
    )


def _order(found: Polymorphs, temperature: float) -> Cell:
    order = found.order(temperature)
    total = found.enthalpy + found.potential[temperature]
    parts = [
        f"{found.phases[place].name} +{number(float(total[place] - total[order[0]]), 1)}"
        for place in order[:MOST_PHASES]
    ]
    more = len(order) - MOST_PHASES
    return words("; ".join(parts) + (f"; {more} more" if more > 0 else ""))
