"""The settings of a run: one frozen ``RunConfig`` from TOML, environment and flags.

Every setting is declared once, with its help and its type; the command line, the environment
variables (``HPCBENCH_MAX_STEPS`` for ``max_steps``) and the TOML keys follow from that. Flags
win over the environment, the environment over the file, the file over the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench import values as kind
from hpcbench.criteria import Criterion, as_tables, criteria_of, own_criteria
from hpcbench.errors import ConfigError
from hpcbench.protocols import PROTOCOLS, Protocol

ENVIRONMENT_PREFIX = "HPCBENCH_"
# Variables with the prefix that are not settings: where the test data lies, what launch.sh uses to
# find its Python, and what it tells the ranks that it starts with --stage.
RESERVED_VARIABLES = frozenset(
    {
        "HPCBENCH_REFERENCE_DATA",
        "HPCBENCH_VENV",
        "HPCBENCH_PYTHON",
        "HPCBENCH_RANKS",
        "HPCBENCH_SRUN_ARGS",
        "HPCBENCH_MPIEXEC_ARGS",
        "HPCBENCH_FLUX_ARGS",
        "HPCBENCH_STAGED_WEIGHTS",
    }
)
DEFAULT_FILE = "hpcbench.toml"
# Settings that came after the first stores.
_LATER = ("criteria", "supercell_atoms", "supercell_shape", "largest_supercell", "check_margin")


def _setting(
    default: Any,
    parse: Callable[[Any], Any],
    group: str,
    text: str,
    *,
    metavar: str = "",
    many: bool = False,
    decides: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={
            "parse": parse,
            "group": group,
            "help": text,
            "metavar": metavar,
            "many": many,
            "decides": decides,
        },
    )


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    ``None`` in ``criterion``, ``fmax`` and ``max_steps`` stands for the protocol's own value, and
    0 in ``max_edges`` for the device's: see :meth:`resolved`. Settings that decide results are
    hashed into :meth:`settings_hash`, which names the run; the others
    (where to write, how much to batch) may change from one run of a store to the next.
    """

    sources: tuple[str, ...] = _setting(
        (), kind.texts, "input and output", "where the crystals are", metavar="SOURCE", many=True
    )
    out: str = _setting(
        "store.h5", kind.text, "input and output", "the store to write", metavar="FILE"
    )
    protocol: str = _setting(
        "robust",
        kind.one_of(*PROTOCOLS),
        "what is computed",
        "robust idealises the relaxed cell and relaxes on before it displaces; phononbench does "
        "what that paper's scripts do; both does both, and relaxes once",
        decides=True,
    )
    criterion: str | None = _setting(
        None,
        kind.text,
        "what is computed",
        "the criterion whose answer is the verdict; all others stand beside it (robust: "
        "phononbench-v3, phononbench: phononbench)",
        metavar="NAME",
        decides=True,
    )
    criteria: tuple[Criterion, ...] = _setting(
        (),
        own_criteria,
        "what is computed",
        "a TOML file of criteria of your own: tables [[criteria]] with name, place (path, "
        "commensurate or mesh), threshold (THz), and gamma_threshold for the three lowest modes "
        "at Gamma (THz, or 'left out')",
        metavar="FILE",
        decides=True,
    )
    model: str = _setting(
        "mattersim-v1.0.0-5M",
        kind.text,
        "what is computed",
        "a potential's name (see hpcbench models), a .pth file of MatterSim weights, or "
        "module:callable that makes an ASE calculator",
        metavar="MODEL",
        decides=True,
    )
    relax: str = _setting(
        "full",
        kind.one_of("none", "positions", "full"),
        "what is computed",
        "what may move before the phonons: nothing, the positions, or positions and cell",
        decides=True,
    )
    fmax: float | None = _setting(
        None,
        kind.positive,
        "what is computed",
        "largest force of a converged relaxation in eV/A (robust: 0.001, phononbench: 0.005)",
        metavar="F",
        decides=True,
    )
    max_steps: int | None = _setting(
        None,
        kind.count,
        "what is computed",
        "optimiser steps before a relaxation is given up (robust: 1000 in each of its two "
        "stages; phononbench: 500 in each of 15 rounds)",
        metavar="N",
        decides=True,
    )
    pressure: float = _setting(
        0.0,
        kind.number,
        "what is computed",
        "external pressure of the relaxation in GPa, with --relax full",
        metavar="GPA",
        decides=True,
    )
    supercell: tuple[float, ...] | str = _setting(
        (2, 2, 2),
        kind.supercell,
        "what is computed",
        "supercell of the cell as given: 3 numbers, 9 for a matrix, a length in A that it has at "
        "least between opposite faces, or the word source to take the one in each phonopy.yaml",
        metavar="N",
        many=True,
        decides=True,
    )
    supercell_atoms: int = _setting(
        0,
        kind.count,
        "what is computed",
        "most atoms of a supercell that is given by its length, which is lowered for it (0: no "
        "limit)",
        metavar="N",
        decides=True,
    )
    supercell_shape: str = _setting(
        "diagonal",
        kind.one_of("diagonal", "cubic"),
        "what is computed",
        "supercells that are given by their length: multiples of the lattice vectors, or any "
        "that are about a cube",
        decides=True,
    )
    largest_supercell: int = _setting(
        1000,
        kind.count,
        "what is computed",
        "crystals whose supercell has more atoms than this are set aside (0: none)",
        metavar="N",
        decides=True,
    )
    check_margin: float = _setting(
        0.0,
        kind.not_negative,
        "what is computed",
        "verdicts whose lowest frequency is nearer to the criterion's threshold than this, in "
        "THz, are checked in the next larger supercell (0: none)",
        metavar="THZ",
        decides=True,
    )
    displacement: float = _setting(
        0.01,
        kind.positive,
        "what is computed",
        "length of the finite displacements in A",
        metavar="D",
        decides=True,
    )
    symprec: float = _setting(
        1e-5,
        kind.positive,
        "what is computed",
        "tolerance in A with which phonopy finds the symmetry",
        metavar="L",
        decides=True,
    )
    symmetry_tolerance: float = _setting(
        0.01,
        kind.positive,
        "what is computed",
        "tolerance in A of the symmetry that is kept in the relaxation and idealised after it",
        metavar="L",
        decides=True,
    )
    mesh: tuple[float, ...] = _setting(
        (20, 20, 20),
        kind.mesh,
        "what is computed",
        "q mesh for thermal properties and the mesh criterion: three numbers, whose mesh does not "
        "meet Gamma where they are even, or a length in A as phonopy takes it, whose mesh does",
        metavar="N",
        many=True,
        decides=True,
    )
    band_points: int = _setting(
        101,
        kind.count,
        "what is computed",
        "points on the longest segment of the band path",
        metavar="N",
        decides=True,
    )
    temperatures: tuple[float, ...] = _setting(
        (0.0, 75.0, 150.0, 300.0, 600.0, 1000.0),
        kind.temperatures,
        "what is computed",
        "temperatures of the thermal properties in K",
        metavar="T",
        many=True,
        decides=True,
    )
    cutoff_frequency: float = _setting(
        0.1,
        kind.not_negative,
        "what is computed",
        "modes below this frequency in THz are left out of the thermal properties",
        metavar="THZ",
        decides=True,
    )
    min_distance: float = _setting(
        0.5,
        kind.not_negative,
        "what is computed",
        "crystals with two atoms closer than this, in A, are set aside",
        metavar="L",
        decides=True,
    )
    dtype: str = _setting(
        "float32",
        kind.one_of("float32", "float64"),
        "what is computed",
        "precision of the potential",
        decides=True,
    )
    device: str = _setting(
        "auto",
        kind.text,
        "where it is computed",
        "auto (a GPU if there is one), cpu, cuda, or cuda:N",
        metavar="DEVICE",
    )
    max_edges: int = _setting(
        0,
        kind.count,
        "where it is computed",
        "most edges of the graph in one forward pass (0: found on the device)",
        metavar="N",
    )
    workers: int | str = _setting(
        "auto",
        kind.count_or_auto,
        "where it is computed",
        "processes beside each rank's potential, for symmetry and phonopy's work (auto: by the "
        "rank's cores; 0: none, the rank does it itself)",
        metavar="N",
    )
    share_gpu: bool = _setting(
        False, kind.switch, "where it is computed", "allow several ranks on one GPU"
    )
    time_limit: float | None = _setting(
        None,
        kind.time_limit,
        "where it is computed",
        "time for the run, as sbatch takes it: minutes, H:MM:SS or D-HH:MM:SS; no crystal is "
        "begun that cannot be finished in it (default: the end of the Slurm job)",
        metavar="TIME",
    )
    lease_minutes: float = _setting(
        10.0,
        kind.positive,
        "where it is computed",
        "a rank takes no more crystals than for so many minutes: what its death may cost",
        metavar="MIN",
    )
    silence: float = _setting(
        120.0,
        kind.positive,
        "where it is computed",
        "seconds without a sign of life after which a rank counts as dead (on its own host that "
        "is known at once)",
        metavar="S",
    )
    block: int = _setting(
        0,
        kind.count,
        "where it is computed",
        "most crystals that a rank takes at a time (0: by the length of the list)",
        metavar="N",
    )
    commit_interval: float = _setting(
        60.0,
        kind.not_negative,
        "where it is computed",
        "seconds after which results are committed to the disk: what a kill may cost",
        metavar="S",
    )
    keep_forces: bool = _setting(
        False,
        kind.switch,
        "input and output",
        "keep the forces of the displaced supercells in the store, for training data or another "
        "fit; they take as much room as the force constants",
    )
    keep_dos: bool = _setting(
        False, kind.switch, "input and output", "keep the phonon density of states in the store"
    )
    band_dtype: str = _setting(
        "float32",
        kind.one_of("float32", "float64"),
        "input and output",
        "precision in which bands are stored (float32: rounded to 8e-6 THz as well); they follow "
        "from the force constants, which are in float64",
    )
    report: bool = _setting(
        True, kind.switch, "input and output", "write an HTML report beside the store at the end"
    )

    @property
    def protocol_definition(self) -> Protocol:
        """The protocol that ``protocol`` names."""
        return PROTOCOLS[self.protocol]

    def resolved(self) -> RunConfig:
        """The same settings with the protocol's values in place of ``None``."""
        protocol = self.protocol_definition
        return dataclasses.replace(
            self,
            criterion=protocol.criterion if self.criterion is None else self.criterion,
            fmax=protocol.fmax if self.fmax is None else self.fmax,
            max_steps=protocol.max_steps if self.max_steps is None else self.max_steps,
        )

    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide results, as JSON types."""
        resolved = self.resolved()
        values = {f.name: getattr(resolved, f.name) for f in settings() if f.metadata["decides"]}
        values["criteria"] = as_tables(self.criteria)
        # The hash of those who do not use them is what it was before they were there.
        for name in _LATER:
            if getattr(self, name) == getattr(RunConfig, name, ()):
                del values[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def settings_hash(deciding: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a set of deciding settings (weights' SHA-256 included)."""
    text = json.dumps(dict(deciding), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings() -> tuple[dataclasses.Field[Any], ...]:
    """The settings in order of declaration."""
    return dataclasses.fields(RunConfig)


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
    # Paths in a file mean the same wherever the command is given from.
    if isinstance(values.get("criteria"), str):
        values["criteria"] = path.parent / values["criteria"]
    checked = _checked(values, str(path))
    if "sources" in checked:
        checked["sources"] = tuple(str(path.parent / x) for x in checked["sources"])
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
        parsed = value.split(os.pathsep) if name == "sources" else value
        checked |= _checked({name: parsed}, f"environment variable {key}")
    return checked


def load_config(
    flags: Mapping[str, Any] | None = None,
    file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    where: str = "command line",
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
        What a message calls the flags.

    Raises
    ------
    ConfigError
        For an unknown key (naming the nearest known one), a wrong type, a bad value, or values
        that do not go together.
    """
    values = _from_file(Path(file)) if file is not None else {}
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
    if config.pressure and config.relax != "full":
        raise ConfigError(
            f"{where}: pressure {config.pressure:g} GPa needs relax full: with {config.relax} "
            f"the cell cannot follow it"
        )
    return config
