"""Two potentials on the same crystals: paired differences of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpcbench.analysis.accuracy.frequencies import has_frequencies, sums_over
from hpcbench.analysis.accuracy.pairs import Compared
from hpcbench.analysis.accuracy.quantities import QUANTITIES, errors_of
from hpcbench.analysis.accuracy.spectra import ABSOLUTE, ALL, COUNT
from hpcbench.analysis.accuracy.statistics import Array, Difference, difference, ratio
from hpcbench.protocols import LEE_XIA, LOEW

# Loew's C_V and S at 300 K are Lee and Xia's too.
_COMPARED = tuple(one for one in QUANTITIES if one.key not in ("C_V_300K", "S_vib_300K"))


@dataclass(frozen=True)
class PairedError:
    """One error of two potentials, over the crystals that both have.

    Attributes
    ----------
    key, title, unit : str
        Of the quantity; the error is the mean absolute one, of a rule of stability the share of
        wrong answers in percent.
    digits : int
        Decimals in a table.
    first, second : float
        The error of each potential.
    difference : Difference
        First minus second: negative where the first one is better.
    """

    key: str
    title: str
    unit: str
    digits: int
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two potentials side by side.

    Attributes
    ----------
    first, second : str
        Their labels.
    materials : int
        Crystals that both have with their reference.
    errors : list of PairedError
        Of the quantities that are known of some of them.
    """

    first: str
    second: str
    materials: int
    errors: list[PairedError]


def compare(first: Compared, second: Compared) -> Comparison:
    """Compare the errors of two potentials on the crystals that both stores have.

    Parameters
    ----------
    first, second : Compared
        Crystals are the same if their ids are.
    """
    common = {pair.id for pair in first.pairs} & {pair.id for pair in second.pairs}
    errors = [_of_frequencies(first, second), *_of_quantities(first, second)]
    errors += [_of_stability(first, second, rule) for rule in (LOEW, LEE_XIA)]
    known = [error for error in errors if error.difference.estimate.count]
    return Comparison(first.label, second.label, len(common), known)


def _of_frequencies(first: Compared, second: Compared) -> PairedError:
    by_id = [{p.id: p for p in one.pairs if has_frequencies(p, ALL)} for one in (first, second)]
    common = [key for key in by_id[0] if key in by_id[1]]
    sums = [sums_over([pairs[key] for key in common], ALL)[:, [ABSOLUTE, COUNT]] for pairs in by_id]
    return _paired("frequencies", "frequencies on the band path", "THz", 3, *sums)


def _of_quantities(first: Compared, second: Compared) -> list[PairedError]:
    found = []
    for quantity in _COMPARED:
        errors = [errors_of(one, quantity) for one in (first, second)]
        absolute = [
            dict(zip((pair.id for pair in one.pairs), np.abs(one.errors).tolist(), strict=True))
            for one in errors
        ]
        common = [key for key in absolute[0] if key in absolute[1]]
        sums = [
            np.array([(values[key], 1.0) for key in common]).reshape(-1, 2) for values in absolute
        ]
        found.append(_paired(quantity.key, quantity.title, quantity.unit, quantity.digits, *sums))
    return found


def _of_stability(first: Compared, second: Compared, rule: str) -> PairedError:
    wrong: list[dict[str, float]] = []
    for one in (first, second):
        answers = {
            pair.id: (pair.potential.stable.get(rule), pair.reference.stable.get(rule))
            for pair in one.pairs
        }
        wrong.append(
            {key: 100.0 * (a != b) for key, (a, b) in answers.items() if None not in (a, b)}
        )
    common = [key for key in wrong[0] if key in wrong[1]]
    sums = [np.array([(values[key], 1.0) for key in common]).reshape(-1, 2) for values in wrong]
    return _paired(f"stability_{rule}", f"wrong on stability, {rule}", "%", 1, *sums)


def _paired(
    key: str, title: str, unit: str, digits: int, first: Array, second: Array
) -> PairedError:
    one, other = (
        float(ratio(sums.sum(axis=0))) if len(sums) else math.nan for sums in (first, second)
    )
    return PairedError(key, title, unit, digits, one, other, difference(first, second, ratio))
