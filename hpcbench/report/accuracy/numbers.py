"""Errors of potentials against references as JSON, for other programs; see ``docs/accuracy.md``."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from hpcbench.analysis.accuracy.frequencies import has_frequencies, mae_of
from hpcbench.analysis.accuracy.pairs import Pair
from hpcbench.analysis.accuracy.polymorphs import (
    TEMPERATURES,
    Polymorphs,
    find_polymorphs,
    transitions,
)
from hpcbench.analysis.accuracy.quantities import QUANTITIES
from hpcbench.analysis.accuracy.spectra import ALL, BIN
from hpcbench.analysis.rates import Rate
from hpcbench.report.accuracy.measured import Measured
from hpcbench.report.accuracy.page import Accuracy
from hpcbench.report.accuracy.polymorph_tables import enthalpy_errors, polymorph_errors
from hpcbench.version import __version__

FORMAT = "hpcbench-accuracy"
VERSION = 1


def accuracy_json(found: Accuracy) -> dict[str, Any]:
    """Return all numbers of the tables and figures as JSON types; unknown ones are ``None``."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "hpcbench": __version__,
        "potentials": [_potential(one) for one in found.measured],
        "comparisons": found.comparisons,
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _potential(one: Measured) -> dict[str, Any]:
    compared = one.compared
    polymorphs = find_polymorphs(compared.phases)
    return {
        "label": one.label,
        "settings": dict(compared.settings),
        "crystals": len(compared.pairs),
        "failed": compared.failed,
        "errors": {
            key: {
                "unit": found.quantity.unit,
                "mae": found.mae,
                "mean_error": found.mean,
                "rmse": found.rmse,
                "r2": found.r2,
                "left_out": found.reasons,
            }
            for key, found in one.errors.items()
        },
        "frequencies": one.frequencies,
        "stability": {
            rule: {**asdict(found), "accuracy": found.accuracy, "of_stable": found.of_stable,
                   "of_unstable": found.of_unstable}
            for rule, found in one.confusions.items()
        },
        "groups": one.groups,
        "polymorphs": [_polymorphs(some) for some in polymorphs],
        "transitions": [
            {
                "temperature": temperature,
                **asdict(transitions(polymorphs, temperature)),
                "mae": polymorph_errors(polymorphs, temperature)[0],
                "r2": polymorph_errors(polymorphs, temperature)[1],
            }
            for temperature in TEMPERATURES
        ],
        "dH": dict(zip(("mae", "r2"), enthalpy_errors(polymorphs), strict=True)),
        "histogram": {
            "bin_THz": BIN,
            "reference_potential_count": [
                [x, y, count] for (x, y), count in sorted(compared.histogram.counts.items())
            ],
        },
        "materials": [_material(pair) for pair in compared.pairs],
        "left_out": compared.left_out,
    }  # fmt: skip


def _material(pair: Pair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "name": pair.name,
        "formula": pair.formula,
        "crystal_system": pair.crystal_system,
        "atoms": pair.natoms,
        "frequencies_mae_THz": mae_of(pair, ALL) if has_frequencies(pair, ALL) else None,
        "problem": pair.problem,
        "stable": {
            rule: [side.stable.get(rule) for side in (pair.potential, pair.reference)]
            for rule in ("loew", "lee-xia")
        },
        **{
            quantity.key: [quantity.value(side) for side in (pair.potential, pair.reference)]
            for quantity in QUANTITIES
        },
    }


def _polymorphs(found: Polymorphs) -> dict[str, Any]:
    return {
        "composition": found.composition,
        "names": [phase.name for phase in found.phases],
        "ids": [phase.id for phase in found.phases],
        "H_by": "reference" if found.is_by_reference else "potential",
        "H_meV_per_atom": found.enthalpy,
        "at": [
            {
                "temperature": temperature,
                "A_vib_potential": found.potential[temperature],
                "A_vib_reference": found.reference[temperature],
                "order": [found.phases[place].id for place in found.order(temperature)],
            }
            for temperature in TEMPERATURES
        ],
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON types; numbers that are not finite become ``None``."""
    if isinstance(value, Rate):
        low, high = value.interval
        return _plain(
            {"count": value.count, "of": value.of, "share": value.share, "wilson_95": [low, high]}
        )
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
