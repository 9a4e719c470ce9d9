"""Statistics of errors against other packages, and polymorphs against the paper's rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hpcbench.analysis.accuracy.pairs import Phase
from hpcbench.analysis.accuracy.polymorphs import find_polymorphs, transitions
from hpcbench.analysis.accuracy.spectra import FrequencyHistogram
from hpcbench.analysis.accuracy.statistics import determination, difference, estimate, ratio
from hpcbench.analysis.accuracy.values import Values
from hpcbench.report.accuracy.polymorph_tables import enthalpy_errors


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    errors = np.random.default_rng(1).gamma(2.0, size=400)
    found = estimate(np.stack([errors, np.ones(400)], axis=1), ratio)
    theirs = stats.bootstrap(
        (errors,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    assert found.value == pytest.approx(errors.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)
    assert found == estimate(np.stack([errors, np.ones(400)], axis=1), ratio)


def test_determination_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y = np.random.default_rng(0).normal(size=50)
    f = y + np.random.default_rng(1).normal(size=50) / 2
    sums = np.stack([np.ones(50), y, y**2, (f - y) ** 2], axis=1)
    assert determination(sums.sum(axis=0)) == pytest.approx(metrics.r2_score(y, f))
    assert math.isnan(estimate(sums[:0], determination).value)


def test_determination_of_few_or_equal_values_is_no_rounding() -> None:
    """Draws of one material many times have no spread."""
    y = np.array([24.9437, 24.1, 23.3])
    errors = np.array([0.01, -0.02, 0.015])
    sums = np.stack([np.ones(3), y, y**2, errors**2], axis=1)
    found = estimate(sums, determination)
    assert -1 < found.low <= found.value <= found.high <= 1
    for count in (2, 7, 12):
        sums = np.tile([1.0, 24.9437, 24.9437**2, 1e-4], (count, 1))
        found = estimate(sums, determination)
        assert math.isnan(found.value) and math.isnan(found.high)


def test_a_better_potential_is_found_better_only_as_surely_as_the_crystals_say() -> None:
    generator = np.random.default_rng(0)
    hard = generator.gamma(1.0, size=(200, 1))
    first = np.hstack([hard + 0.05 * generator.normal(size=(200, 1)), np.ones((200, 1))])
    second = np.hstack([hard + 0.02, np.ones((200, 1))])
    found = difference(first, second, ratio)
    # Unpaired, the difference would be lost in the spread of the crystals.
    assert found.estimate.low < -0.02 < found.estimate.high < 0
    assert found.chance_smaller > 0.99
    assert difference(second, second, ratio).chance_smaller == 0.5


def test_histogram_counts_every_frequency() -> None:
    generator = np.random.default_rng(0)
    reference = generator.uniform(-3, 20, (50, 6))
    potential = reference + generator.normal(size=(50, 6))
    found = FrequencyHistogram()
    found.add(potential, reference)
    image, low, high = found.dense(5)
    assert image.sum() == 300
    edges = np.linspace(low, high, len(image) + 1)
    both = np.sort(reference, axis=1).ravel(), np.sort(potential, axis=1).ravel()
    expected, _, _ = np.histogram2d(*both, bins=[edges, edges])
    # Frequencies are rounded to 0.1 THz first.
    assert np.abs(expected.sum(axis=1) - image.sum(axis=1)).sum() <= 0.15 * 300
    assert high - low == pytest.approx(0.5 * len(image))


def phase(name: str, energy: float, free: float, reference: float | None = None) -> Phase:
    """One atom; energies in meV, free energies at 300 K in meV, by potential and reference."""
    sides = [
        Values(1, energy / 1000, 10.0, thermal={"free_energy": {300.0: value / 10.364269656}})
        for value in (free, free if reference is None else reference)
    ]
    known = None if reference is None else sides[1]
    return Phase(name, name, "SiO2", len(name), 1, sides[0], known)


def test_transitions_are_counted_as_in_the_paper() -> None:
    """The lowest A of those that are less than 10 meV/atom above the lowest H."""
    found = find_polymorphs(
        [phase("a", 0, 50, 50), phase("bb", 30, 25, 20), phase("ccc", 12, 60, 45)]
    )
    (one,) = found
    assert one.is_by_reference
    assert [p.name for p in one.phases] == ["a", "ccc", "bb"]
    # By the reference ccc is at 12 - 5 = 7 and bb at 30 - 30 = 0; by the potential 22 and 5.
    np.testing.assert_allclose(one.enthalpy + one.reference[300.0], [0, 7, 0], atol=1e-9)
    counts = transitions(found, 300.0)
    assert (counts.compositions, counts.reference, counts.potential) == (1, 1, 1)
    assert counts.both == [("SiO2", "bb")]
    assert one.order(300.0) == [0, 2, 1]
    assert transitions(found, 1000.0).compositions == 0


def test_energies_of_another_zero_compare_by_their_differences() -> None:
    phases = [phase("a", 0, 50, 50), phase("bb", 30, 25, 20), phase("ccc", 10, 60, 45)]
    for place, energy in enumerate((-20.0, -19.98, -19.985)):
        values = replace(phases[place].reference or Values(1), energy=energy)
        phases[place] = replace(phases[place], reference=values)
    mae, r2 = enthalpy_errors(find_polymorphs(phases))
    # 20 and 15 meV by the reference, 30 and 10 by the potential.
    assert mae.value == pytest.approx(7.5)
    assert mae.count == 2
    assert r2.value == pytest.approx(1 - (10**2 + 5**2) / 12.5)


def test_polymorphs_of_a_generators_store_are_ordered_without_references() -> None:
    """By the potential's energies; what it made twice counts once, and NaN not at all."""
    twice = replace(phase("a", 0.2, 50), id="twice", name="twice", spacegroup=1)
    found = find_polymorphs(
        [phase("a", 0, 50), twice, phase("bb", 5, 30), phase("ccc", math.nan, 1)]
    )
    (one,) = found
    assert not one.is_by_reference
    assert [p.name for p in one.phases] == ["a", "bb"]
    assert one.order(300.0) == [1, 0]
    assert find_polymorphs([phase("a", 0, 50)]) == []
