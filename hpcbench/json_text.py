"""Read texts of a store that are JSON."""

from __future__ import annotations

import json
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.texts import shown_reason


def json_of(text: str, what: str) -> Any:
    """Read a text of a store that is JSON.

    Parameters
    ----------
    text : str
        The text.
    what : str
        What the error calls it.

    Raises
    ------
    StoreError
        If it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what}: not JSON: {shown_reason(str(error))}") from error
