"""Functions by ``module:function``, whose modules are imported when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def function_of(place: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names; its module is imported."""
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
