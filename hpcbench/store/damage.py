"""Segments that a disk or a file system has damaged."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hpcbench.child_processes import command, environment
from hpcbench.errors import DamageError, StoreError
from hpcbench.store.examiner import Examiner
from hpcbench.store.faults import without_path
from hpcbench.store.inspection import inspect

SUFFIX = ".damaged"
# Seconds after which a process that looks at many files counts as stuck.
PATIENCE, PATIENCE_A_FILE = 60.0, 10.0


def find_damage(paths: Iterable[Path]) -> dict[Path, str]:
    """Return what is wrong with those files that do not read back as they were written.

    For files that this process has just written: a damaged one may end it.

    Raises
    ------
    StoreError
        If one cannot be read, or is no table of this format: that is no damage.
    """
    found = {}
    for path in paths:
        try:
            with Examiner(path) as reader:
                for damage in reader.damage():
                    found[path] = str(damage)
                    break
        except DamageError as error:
            found[path] = without_path(error, path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
    return found


def find_damage_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the same from a process that may die of it; files that are gone are left out.

    One for all of them; if that does not come to its end, one for each.

    Raises
    ------
    StoreError
        As :func:`find_damage`.
    """
    paths = list(paths)
    if len(paths) > 1 and (told := _in_one_process(paths)) is not None:
        return told
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


def _in_one_process(paths: Sequence[Path]) -> dict[Path, str] | None:
    """``None`` where it has died, been stuck, or met a file that is gone or not readable."""
    try:
        answer = subprocess.run(
            command("hpcbench.store.damage"),
            env=environment(),
            input=json.dumps([str(path) for path in paths]),
            capture_output=True,
            check=True,
            text=True,
            timeout=PATIENCE + PATIENCE_A_FILE * len(paths),
        )
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return {Path(path): reason for path, reason in found.items()}


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


if __name__ == "__main__":
    damaged = find_damage(map(Path, json.load(sys.stdin)))
    json.dump({str(path): reason for path, reason in damaged.items()}, sys.stdout)
