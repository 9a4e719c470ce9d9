"""Criteria of dynamical stability: those of the literature, and a user's own from a TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES = ("path", "commensurate", "mesh")
"""Names of the sets of q-points at which spectra are computed and stored."""
SUPERCELL_Q = "supercell q"
"""The q-points of the scripts of Loew et al.: commensurate with ``supercell_matrix`` as if that
referred to the primitive cell. If the given cell is not primitive, some of them are not
commensurate with the supercell."""
NO_FORCE = "no restoring force"
"""Beginning of the cause of an undetermined verdict, and of the reason of a failure, if nothing
holds a crystal together: no criterion has an answer."""
LENGTH = "length of the displacements"
"""Cause of an undetermined answer: the length of the displacements may change it
(phonons/noise.py)."""
ROUNDING = "rounding"
"""Cause of an undetermined answer: two standard deviations of the forces' rounding change it
(phonons/noise.py)."""
BETWEEN_Q = "negative between computed q"
"""Cause of an undetermined answer: interpolated frequencies are below the threshold at q where none
was computed."""
LONG_WAVES = "long waves"
"""Cause of an undetermined answer: acoustic waves near Gamma are below the threshold, which only
the elastic tensor could confirm."""
EXACT_Q = "exact q"
"""The q-points of the criterion ``exact-q``: those commensurate with the supercell, and those at
which a negative interpolated frequency was checked in a supercell of its own."""
ACOUSTIC, THREE_LOWEST = "acoustic", "three lowest"
"""Modes at Gamma that a criterion treats separately: those that move all atoms alike, by their
eigenvectors, or simply the three of lowest frequency."""
KELVIN_PER_TERAHERTZ = 47.992
"""h/k_B in K per THz, as Loew et al. convert."""


@dataclass(frozen=True)
class Criterion:
    """One criterion of stability.

    A crystal is unstable if any frequency is below ``threshold``. If ``gamma_apart`` is set, the
    acoustic modes at Gamma are compared with ``gamma_threshold`` instead, or ignored if that is
    ``None``.

    Attributes
    ----------
    name : str
        Its name in tables.
    place : str
        The q-points that it examines: ``path`` (the band path), ``commensurate`` (the q
        commensurate with the supercell), ``mesh``, ``SUPERCELL_Q`` or ``EXACT_Q``.
    threshold : float
        In THz.
    gamma_apart : bool
        Whether the acoustic modes at Gamma are treated separately.
    gamma_threshold : float or None
        Threshold in THz for those; ``None`` ignores them.
    source : str
        Where the criterion comes from.
    gamma_modes : str
        The modes at Gamma that are treated separately: ``ACOUSTIC`` or ``THREE_LOWEST``.
    """

    name: str
    place: str
    threshold: float
    gamma_apart: bool = False
    gamma_threshold: float | None = None
    source: str = ""
    gamma_modes: str = ACOUSTIC

    @property
    def stored_place(self) -> str:
        """The one of ``PLACES`` whose lowest frequency in a store represents this criterion's."""
        return self.place if self.place in PLACES else "commensurate"

    @property
    def column(self) -> str:
        """The name of its column in a store."""
        return column_of(self.name)


def column_of(name: str) -> str:
    """Return the name of a store's column with the answers of a criterion."""
    return "verdict_" + name.replace("-", "_")


EXACT = "exact-q"
"""Name of the criterion that uses frequencies only at q where they are exact."""
CRITERIA = (
    Criterion("phononbench", "path", -0.001, source="PhononBench, arXiv 2512.21227v1 and its code"),
    Criterion("phononbench-v3", "path", -0.1, source="PhononBench, arXiv 2512.21227v3"),
    Criterion(
        "loew",
        "commensurate",
        0.0,
        gamma_apart=True,
        gamma_threshold=-50.0 / KELVIN_PER_TERAHERTZ,
        source="Loew et al., npj Comput. Mater. 11, 178 (text)",
    ),
    Criterion(
        "loew-script",
        SUPERCELL_Q,
        0.0,
        gamma_apart=True,
        gamma_threshold=-35.0 / KELVIN_PER_TERAHERTZ,
        source="Loew et al., their scripts (hyllios/utils, benchmark_ph)",
        gamma_modes=THREE_LOWEST,
    ),
    Criterion("lee-xia", "path", -0.5, source="Lee and Xia, arXiv 2407.09674: threshold only"),
    Criterion("mattersim", "path", -0.299, source="MatterSim's PhononWorkflow: threshold only"),
    Criterion(
        EXACT,
        EXACT_Q,
        -0.1,
        gamma_apart=True,
        source="phonons/exact_q.py; threshold of PhononBench, arXiv 2512.21227v3",
    ),
    Criterion("mesh", "mesh", -0.1, gamma_apart=True, source="acoustic modes at Gamma left out"),
)
"""The criteria that every store has."""

LEFT_OUT = "left out"
"""Value of ``gamma_threshold`` in a file for a criterion that ignores the acoustic modes at
Gamma."""
_KEYS = ("name", "place", "threshold", "gamma_threshold", "source")


def own_criteria(value: Any) -> tuple[Criterion, ...]:
    """Read a user's own criteria, from the path of a TOML file or from its tables.

    The file has a table ``[[criteria]]`` for each, with ``name``, ``place`` and ``threshold``
    (THz). ``gamma_threshold`` (THz) treats the acoustic modes at Gamma separately; the words
    ``left out`` ignore them. ``source`` may name the source.

    Raises
    ------
    ValueError
        The message says what is expected.
    """
    if isinstance(value, str | Path):
        value = _from_file(Path(value))
    if not isinstance(value, Sequence):
        raise ValueError("a TOML file, or tables [[criteria]]")
    found = tuple(x if isinstance(x, Criterion) else _from_table(x) for x in value)
    columns = [criterion.column for criterion in (*CRITERIA, *found)]
    for criterion in found:
        if columns.count(criterion.column) > 1:
            raise ValueError(f"another name than {criterion.name}, which is taken")
    return found


def as_tables(criteria: Sequence[Criterion]) -> list[dict[str, Any]]:
    """Return criteria as JSON types, which :func:`own_criteria` reads."""
    tables = []
    for criterion in criteria:
        table = dataclasses.asdict(criterion)
        del table["gamma_modes"]  # a user's own criteria know acoustic modes by eigenvector
        apart, gamma = table.pop("gamma_apart"), table.pop("gamma_threshold")
        if apart:
            table["gamma_threshold"] = LEFT_OUT if gamma is None else gamma
        tables.append(table)
    return tables


def criteria_of(settings: Mapping[str, Any]) -> tuple[Criterion, ...]:
    """Return all criteria of a store, from its settings."""
    return (*CRITERIA, *own_criteria(settings.get("criteria", ())))


def _from_file(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise ValueError(f"a TOML file that can be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"valid TOML ({error})") from None
    if set(values) != {"criteria"}:
        raise ValueError("a file of tables [[criteria]] and nothing else")
    return values["criteria"]


def _from_table(table: Any) -> Criterion:
    if not isinstance(table, Mapping):
        raise ValueError("tables [[criteria]]")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"criteria of {', '.join(_KEYS)}, not {key!r}{hint}")
    name, place = table.get("name"), table.get("place")
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", name)):
        raise ValueError(f"a name of small letters, digits and dashes, not {name!r}")
    if place not in PLACES:
        raise ValueError(f"place of {name} to be one of {', '.join(PLACES)}, not {place!r}")
    gamma = table.get("gamma_threshold")
    return Criterion(
        name,
        place,
        _terahertz(table.get("threshold"), f"threshold of {name}"),
        gamma is not None,
        None if gamma in (None, LEFT_OUT) else _terahertz(gamma, f"gamma_threshold of {name}"),
        str(table.get("source", "")),
    )


def _terahertz(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} to be a number in THz, not {value!r}")
    return float(value)
