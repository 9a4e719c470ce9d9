"""Segments that a disk or a file system has damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcbench.store.table_reader import TableReader

SUFFIX = ".damaged"


def find_damage(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with those that do not read back as they were written."""
    found = {}
    for path in paths:
        # A broken file makes HDF5 and whoever reads it fail in all kinds of ways.
        try:
            with TableReader(path) as reader:
                for damage in reader.damage():
                    found[path] = str(damage)
                    break
        except Exception as error:
            # Another process may have consolidated it meanwhile.
            if path.exists():
                found[path] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def set_aside(damaged: Mapping[Path, str]) -> list[str]:
    """Rename damaged segments, so that nobody takes them for results; a sentence for each."""
    sentences = []
    for path, reason in damaged.items():
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(path.name + SUFFIX))
            sentences.append(
                f"{path} is damaged ({reason}): renamed to {path.name}{SUFFIX}; the crystals in "
                f"it are computed again"
            )
    return sentences
