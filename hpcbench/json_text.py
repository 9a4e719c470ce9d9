"""Reading of JSON texts in a store."""

from __future__ import annotations

import json
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.limits import depths_of
from hpcbench.texts import shown_reason

DEEPEST = 200


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
        If it is not JSON, or nested deeper than anything that hpcbench writes.
    """
    # A program around may have raised Python's limit: then the parser would use up the stack.
    brackets = text.count("[") + text.count("{")
    if brackets > DEEPEST and any(deepest > DEEPEST for deepest in depths_of(text)):
        raise StoreError(f"{what}: not JSON: nested more than {DEEPEST} deep")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what}: not JSON: {shown_reason(str(error))}") from error
