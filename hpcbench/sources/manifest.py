"""Manifests: TOML files that say which generator wrote which files.

    [[generators]]
    name = "MatterGen, MP-20"
    files = ["mattergen/run1", "mattergen/run2/*.extxyz"]

``hpcbench run manifest.toml`` reads them all, and the report compares the generators.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.errors import SourceError

_KEYS = ("name", "files")


@dataclass(frozen=True)
class GeneratorFiles:
    """What one generator wrote.

    Attributes
    ----------
    name : str
        Of the generator, as tables show it; with its training set where it has several.
    files : tuple of str
        Sources: folders, files, patterns and lists, relative to the manifest's folder.
    """

    name: str
    files: tuple[str, ...]


def read_manifest(path: str) -> tuple[GeneratorFiles, ...]:
    """The generators of a manifest, in its order.

    Raises
    ------
    SourceError
        If it cannot be read or is none; the message says what is expected.
    """
    try:
        with Path(path).open("rb") as stream:
            data = tomllib.load(stream)
    except OSError as error:
        raise SourceError(f"The manifest {path!r} cannot be read: {error.strerror}.") from error
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
    found = tuple(_generator(table, f"{path}, generator {n}") for n, table in enumerate(tables, 1))
    names = [generator.name for generator in found]
    for name in names:
        if names.count(name) > 1:
            raise SourceError(f"{path}: there are two generators of the name {name!r}.")
    return found


def _generator(table: Any, where: str) -> GeneratorFiles:
    if not isinstance(table, Mapping):
        raise SourceError(f"{where} is no table.")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SourceError(f"{where}: a generator has {' and '.join(_KEYS)}, not {key!r}{hint}")
    name, files = table.get("name"), table.get("files")
    if not isinstance(name, str) or not name.strip():
        raise SourceError(f"{where}: name expects a text, not {name!r}.")
    if isinstance(files, str):
        files = [files]
    if not isinstance(files, list) or not files or not all(isinstance(x, str) for x in files):
        raise SourceError(f"{where} ({name}): files expects a list of sources, not {files!r}.")
    return GeneratorFiles(name.strip(), tuple(files))
