"""Segments that a disk or a file system has damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcbench.errors import DamageError, StoreError
from hpcbench.store.inspection import inspect
from hpcbench.store.table_reader import TableReader

SUFFIX = ".damaged"


def find_damage(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with those that do not read back as they were written.

    For files that this process has just written: a damaged one may end it.

    Raises
    ------
    StoreError
        If one cannot be read, or is no table of this format: that is no damage.
    """
    found = {}
    for path in paths:
        try:
            with TableReader(path) as reader:
                for damage in reader.damage():
                    found[path] = str(damage)
                    break
        except DamageError as error:
            found[path] = str(error)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
    return found


def find_damage_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """The same in a process for each, which may die of it; those that are gone are left out.

    Raises
    ------
    StoreError
        As :func:`find_damage`.
    """
    found = {}
    for path in paths:
        try:
            damages = inspect(path, 0).damages
        except StoreError:
            if path.exists():
                raise
            continue
        if damages and path.exists():
            found[path] = str(damages[0])
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
