"""Which settings decide what, and the name of a set of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

ANALYSING = (
    "criterion", "criteria", "mesh", "band_points", "temperatures", "cutoff_frequency",
)  # fmt: skip
"""Settings that decide what follows from force constants."""
REANALYSED = (*ANALYSING, "workers", "time_limit", "commit_interval", "keep_dos", "band_dtype")
"""Those of a reanalysis, and how it is done."""
IMPORTING = ("protocol", "symprec", "symmetry_tolerance", *ANALYSING)
"""Settings that decide an import."""
IMPORTED = (*IMPORTING, "workers", "keep_forces", "keep_dos", "band_dtype")
"""Those, and how it is done."""


def settings_hash(result_settings: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name settings that decide results, weights included."""
    text = json.dumps(dict(result_settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
