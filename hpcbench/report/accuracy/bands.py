"""The crystals with the largest errors, with their bands over the reference's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from hpcbench.analysis.accuracy.frequencies import has_frequencies, mae_of
from hpcbench.analysis.accuracy.pairs import Pair
from hpcbench.analysis.accuracy.quantities import HIGHEST
from hpcbench.analysis.accuracy.reading import potential_at
from hpcbench.analysis.accuracy.spectra import ALL
from hpcbench.report.accuracy.measured import Measured
from hpcbench.report.drawings import bands_svg, number
from hpcbench.store.schema import AGAIN, REFERENCE
from hpcbench.store.stored_bands import bands_of

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

WORST = 10


@dataclass(frozen=True)
class DrawnPair:
    """One crystal's bands by potential and reference."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Worst:
    """The crystals with the largest errors of one potential."""

    title: str
    caption: str
    drawings: list[DrawnPair]


def worst_pairs(pairs: list[Pair]) -> list[Pair]:
    """Return the crystals with the largest mean absolute error on the band path, worst first."""
    known = [pair for pair in pairs if has_frequencies(pair, ALL)]
    return sorted(known, key=lambda pair: -mae_of(pair, ALL))[:WORST]


def drawn_worst(store: Store, one: Measured) -> Worst | None:
    """Draw the bands of the worst crystals over the reference's; ``None`` if there are none.

    Parameters
    ----------
    store : Store
        The store.
    one : Measured
        Its statistics.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    worst = worst_pairs(one.pairs)
    if not worst:
        return None
    return Worst(
        f"The {len(worst)} largest errors of {one.label}",
        "Bands of the potential (blue; red: imaginary) over the reference's (grey), at the "
        "reference's q; by the mean absolute error over them.",
        [_drawn(store, pair) for pair in worst],
    )


def _drawn(store: Store, pair: Pair) -> DrawnPair:
    row, theirs = store.row(pair.id), store.row(f"{pair.id}{AGAIN}{REFERENCE}")
    reference = bands_of(theirs)
    frequencies = potential_at(store, row, theirs)
    ours = replace(
        reference,
        frequencies=[frequencies[a:b] for a, b in itertools.pairwise(theirs["band_segments"])],
    )
    highest = [HIGHEST.value(side) for side in (pair.potential, pair.reference)]
    caption = (
        f"{pair.formula}, {pair.crystal_system or 'of no known system'}, {pair.natoms} atoms: "
        f"mean absolute error {number(mae_of(pair, ALL), 3)} THz; highest frequency "
        f"{number(highest[0], 0)} K for {number(highest[1], 0)} K."
    )
    return DrawnPair(pair.name, caption, Markup(bands_svg(ours, reference)))
