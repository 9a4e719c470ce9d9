"""Settings from flags, environment variables and a TOML file.

Flags take precedence over the environment, that over the file, and that over the defaults.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcbench.config import RunConfig, settings
from hpcbench.criteria import criteria_of
from hpcbench.errors import ConfigError
from hpcbench.protocols import OF_REFERENCES

ENVIRONMENT_PREFIX = "HPCBENCH_"
# Variables with the prefix that are not settings: those of the test data, those of launch.sh, and
# those that it sets for ranks started with --stage.
RESERVED_VARIABLES = frozenset(
    {
        "HPCBENCH_REFERENCE_DATA",
        "HPCBENCH_VENV",
        "HPCBENCH_PYTHON",
        "HPCBENCH_CONSTRAINTS",
        "HPCBENCH_RANKS",
        "HPCBENCH_SRUN_ARGS",
        "HPCBENCH_MPIEXEC_ARGS",
        "HPCBENCH_FLUX_ARGS",
        "HPCBENCH_STAGED_WEIGHTS",
    }
)
DEFAULT_FILE = "hpcbench.toml"


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {f.name: f for f in settings()}
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown setting {key!r}{hint}")
        try:
            checked[name] = known[name].metadata["parse"](value)
        except ValueError as error:
            raise ConfigError(f"{where}: {key} expects {error}, not {value!r}") from None
    return checked


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    # Paths in a file are relative to its folder, not to the working folder.
    if isinstance(values.get("criteria"), str):
        values["criteria"] = path.parent / values["criteria"]
    checked = _checked(values, str(path))
    for name in ("sources", "against"):
        if name in checked:
            checked[name] = tuple(str(path.parent / x) for x in checked[name])
    if "out" in checked:
        checked["out"] = str(path.parent / checked["out"])
    return checked


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {
        key: value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT_PREFIX) and key not in RESERVED_VARIABLES and value != ""
    }
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix(ENVIRONMENT_PREFIX).lower()
        parsed = value.split(os.pathsep) if name in ("sources", "against") else value
        checked |= _checked({name: parsed}, f"environment variable {key}")
    return checked


def load_config(
    flags: Mapping[str, Any] | None = None,
    file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    where: str = "command line",
    defaults: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Build the settings from flags, environment and a TOML file, in this order of precedence.

    Parameters
    ----------
    flags : mapping, optional
        Settings by name; those that are ``None`` were not given.
    file : path, optional
        A TOML file; its relative paths start from its folder.
    environment : mapping, optional
        Environment variables, ``os.environ`` by default.
    where : str, optional
        Name of the flags in messages.
    defaults : mapping, optional
        Settings that the command has otherwise than a run, if nothing else sets them.

    Raises
    ------
    ConfigError
        For an unknown key (naming the nearest known one), a wrong type, a bad value, or values
        that contradict each other.
    """
    values = dict(defaults or {})
    values |= _from_file(Path(file)) if file is not None else {}
    values |= _from_environment(os.environ if environment is None else environment)
    given = {k: v for k, v in (flags or {}).items() if v is not None}
    values |= _checked(given, where)
    config = RunConfig(**values).resolved()
    names = [criterion.name for criterion in criteria_of({"criteria": config.criteria})]
    if config.criterion not in names:
        near = difflib.get_close_matches(str(config.criterion), names, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"{where}: criterion expects one of {', '.join(names)}{hint}, not {config.criterion!r}"
        )
    if config.validate and config.protocol not in OF_REFERENCES:
        raise ConfigError(
            f"{where}: validate needs a protocol of references, {' or '.join(OF_REFERENCES)}, not "
            f"{config.protocol}"
        )
    if config.pressure and config.relax != "full":
        raise ConfigError(
            f"{where}: pressure {config.pressure:g} GPa needs relax full: with {config.relax} "
            f"the cell cannot follow it"
        )
    return config
