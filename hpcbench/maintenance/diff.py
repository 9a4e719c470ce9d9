"""Compare two stores by the crystals that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.criteria import PLACES
from hpcbench.store.reader import Store
from hpcbench.store.schema import SET_ASIDE

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Difference:
    """Hold the differences between two stores.

    Attributes
    ----------
    settings : dict
        Settings that differ: by name, of the first and of the second store.
    only_first, only_second : list of str
        Ids of crystals that only one of them has.
    both : DataFrame
        All crystals of both, by id: ``name``, ``formula``, and of both stores (``_a``, ``_b``)
        ``status``, ``verdict``, the lowest frequencies in THz, ``reason``.
    changed : DataFrame
        Those of ``both`` whose status or verdict differ, or a lowest frequency by more than the
        tolerance; the largest difference of frequencies first.
    tolerance : float
        In THz.
    """

    settings: dict[str, tuple[Any, Any]]
    only_first: list[str]
    only_second: list[str]
    both: pandas.DataFrame
    changed: pandas.DataFrame
    tolerance: float

    @property
    def is_empty(self) -> bool:
        """Tell whether both say the same of the same crystals."""
        return not (self.only_first or self.only_second or len(self.changed))


def diff(first: Store, second: Store, tolerance: float) -> Difference:
    """Compare two stores, of the same settings or not.

    Parameters
    ----------
    first, second : Store
        The stores.
    tolerance : float
        Differences of lowest frequencies up to this, in THz, do not count.
    """
    frequencies = [f"min_frequency_{place}" for place in PLACES]
    columns = ["status", "verdict", *frequencies, "reason"]
    tables = [
        store.table[store.table["status"] != SET_ASIDE]
        .reindex(columns=["name", "formula", *columns])
        .rename(columns={name: f"{name}_{which}" for name in columns})
        for store, which in ((first, "a"), (second, "b"))
    ]
    both = tables[0].join(tables[1].drop(columns=["name", "formula"]), how="inner")
    both["difference"] = 0.0
    for name in frequencies:
        there, here = (both[f"{name}_{which}"].to_numpy(dtype=float) for which in "ab")
        # A number against none is a difference, none against none is not.
        change = np.where(np.isnan(there) & np.isnan(here), 0.0, np.abs(there - here))
        both["difference"] = np.maximum(both["difference"], np.nan_to_num(change, nan=np.inf))
    differs = both["difference"] > tolerance
    for name in ("status", "verdict"):
        differs |= both[f"{name}_a"] != both[f"{name}_b"]
    return Difference(
        _different(first.settings, second.settings),
        list(tables[0].index.difference(tables[1].index)),
        list(tables[1].index.difference(tables[0].index)),
        both,
        both[differs].sort_values("difference", ascending=False, kind="stable"),
        tolerance,
    )


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*first, *second} - {"hash"})
    pairs = {name: (first.get(name, "not set"), second.get(name, "not set")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
