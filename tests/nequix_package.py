"""The torch part of the package nequix, without jax: what our reading is compared with."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Let torch, and with it Nequix, make its constants in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def require_nequix(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with Nequix's model in torch, or the test is skipped.

    Its package asks for jax, which only its other half needs: its folder (unpacked, and named by
    ``NEQUIX_PACKAGE``; or installed) is enough.
    """
    found = importlib.util.find_spec("nequix")
    folders = [os.environ.get("NEQUIX_PACKAGE", "")]
    folders += (found.submodule_search_locations if found else None) or []
    folder = next((f for f in folders if f and Path(f, "torch_impl", "model.py").is_file()), None)
    if folder is None:
        pytest.skip(
            "package nequix is not there: pip download --no-deps nequix==0.4.5, unpack it, and "
            "set NEQUIX_PACKAGE to its folder nequix"
        )
    pytest.importorskip("e3nn", minversion="0.5.8", reason="Nequix's own code needs it")
    bare = types.ModuleType("nequix")
    bare.__path__ = [folder]
    monkeypatch.setitem(sys.modules, "nequix", bare)
    return importlib.import_module("nequix.torch_impl.model")
