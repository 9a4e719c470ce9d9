"""Manifests: TOML files that assign files to generators.

    [[generators]]
    name = "MatterGen"
    training_set = "MP-20"
    files = ["mattergen/run1", "mattergen/run2/*.extxyz"]
    condition = "band gap 0.5 eV"       # for conditional generation
    hours = 20.2                        # that generation took,
    generated = 16000                   # for so many (else: entries of the files),
    batch_size = 200                    # at this batch size
    architecture = "GNN"
    parameters = 53.7                   # millions
    columns = ["e_above_hull"]          # of the files, to carry along

Only ``name`` and ``files`` are required. ``hpcbench run manifest.toml`` reads them all, and the
report compares the generators.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hpcbench import setting_values as kind
from hpcbench.errors import SourceError, UnreadableError
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import Generator
from hpcbench.sources.streams import read_whole


@dataclass(frozen=True)
class GeneratorFiles:
    """The files of one generator.

    Attributes
    ----------
    generator : Generator
        The generator.
    files : tuple of str
        Sources: folders, files, patterns and lists, relative to the manifest's folder; may contain
        environment variables.
    columns : tuple of str
        Names of the files' columns to carry along with each crystal.
    """

    generator: Generator
    files: tuple[str, ...]
    columns: tuple[str, ...] = ()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value.strip()


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(x, str) for x in values):
        raise ValueError("a text or a list of texts")
    return tuple(values)


def _above_zero(value: Any) -> int:
    if (number := kind.count(value)) == 0:
        raise ValueError("a whole number above 0")
    return number


_KEYS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "files": _texts,
    "training_set": _text,
    "condition": _text,
    "hours": kind.positive,
    "generated": _above_zero,
    "batch_size": _above_zero,
    "architecture": _text,
    "parameters": kind.positive,
    "columns": _texts,
}


def read_manifest(path: str, limits: Limits = DEFAULT) -> tuple[GeneratorFiles, ...]:
    """Return the generators of a manifest, in its order.

    Parameters
    ----------
    path : str
        The manifest.
    limits : Limits
        Largest number of bytes.

    Raises
    ------
    SourceError
        If it cannot be read or is no manifest; the message says what is expected.
    """
    try:
        with Path(path).open("rb") as stream:
            data = tomllib.loads(read_whole(stream, "manifest", limits).decode())
    except OSError as error:
        raise SourceError(f"The manifest {path!r} cannot be read: {error.strerror}.") from error
    except UnreadableError as error:
        raise SourceError(f"The manifest {path!r} cannot be read: {error}.") from error
    except RecursionError:
        raise SourceError(f"The manifest {path!r} is nested too deep.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"The manifest {path!r} is not valid TOML: {error}.") from error
    tables = data.get("generators")
    if not isinstance(tables, list) or not tables:
        raise SourceError(
            f"{path} is no manifest: it has no [[generators]]. (Settings are given by --config.)"
        )
    if other := [key for key in data if key != "generators"]:
        raise SourceError(
            f"{path}: a manifest has tables [[generators]] and nothing else, not {other[0]!r}."
        )
    found = tuple(_files(table, f"{path}, generator {n}") for n, table in enumerate(tables, 1))
    labels = [files.generator.label for files in found]
    for label in labels:
        if labels.count(label) > 1:
            raise SourceError(
                f"{path}: there are two generators {label!r}: training_set and condition may tell "
                f"them apart."
            )
    return found


def _files(table: Any, where: str) -> GeneratorFiles:
    if not isinstance(table, Mapping):
        raise SourceError(f"{where} is no table.")
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SourceError(f"{where}: a generator has {', '.join(_KEYS)}, not {key!r}{hint}")
        try:
            given[key] = _KEYS[key](value)
        except ValueError as error:
            raise SourceError(f"{where}: {key} expects {error}, not {value!r}.") from None
    for key in ("name", "files"):
        if key not in given:
            raise SourceError(f"{where}: {key} is missing.")
    own = {field.name: given[field.name] for field in fields(Generator) if field.name in given}
    return GeneratorFiles(Generator(**own), given["files"], given.get("columns", ()))
