"""Write the numbers of a report as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcbench.outputs import file_to_write, replacing


def write_numbers(numbers: Mapping[str, Any], path: Path, *, force: bool = False) -> Path:
    """Write numbers as JSON; the file is replaced when complete.

    Parameters
    ----------
    numbers : mapping
        JSON types, without NaN.
    path : Path
        The file.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    StoreError
        If the file cannot be written.
    """
    file_to_write(path, force=force)
    text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Names of files that are not UTF-8 may reach this as lone surrogates.
    data = text.encode("utf-8", errors="replace")
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(data)
    return path
