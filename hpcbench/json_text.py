"""Reading of JSON texts in a store."""

from __future__ import annotations

import json
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.texts import shown_reason


def json_of(text: str, what: str) -> Any:
    """Parse a JSON text of a store.

    Parameters
    ----------
    text : str
        The text.
    what : str
        Its name in the error.

    Raises
    ------
    StoreError
        If it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what}: not JSON: {shown_reason(str(error))}") from error
