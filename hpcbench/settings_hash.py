"""Sets of settings that determine results, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

ANALYSING = (
    "criterion", "criteria", "mesh", "band_points", "temperatures", "cutoff_frequency",
)  # fmt: skip
"""Settings that determine all results derived from force constants."""
REANALYSED = (*ANALYSING, "workers", "time_limit", "commit_interval", "keep_dos", "band_dtype")
"""All settings of a reanalysis, also those without influence on results."""
IMPORTING = ("protocol", "symprec", "symmetry_tolerance", *ANALYSING)
"""Settings that determine the results of an import."""
IMPORTED = (*IMPORTING, "workers", "keep_forces", "keep_dos", "band_dtype")
"""All settings of an import, also those without influence on results."""


def settings_hash(result_settings: Mapping[str, Any]) -> str:
    """Return the hash of settings that determine results, weights included: 16 hex digits."""
    text = json.dumps(dict(result_settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
