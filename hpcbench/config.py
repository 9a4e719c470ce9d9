"""The settings of a run: one frozen ``RunConfig``.

Every setting is declared once, with its help and its type; the command line, the environment
variables (``HPCBENCH_MAX_STEPS`` for ``max_steps``) and the TOML keys follow from that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcbench import values as kind
from hpcbench.criteria import Criterion, as_tables, own_criteria
from hpcbench.limits import read_limits
from hpcbench.protocols import BOTH, DISPLACEMENT, PROTOCOLS, RESPONSE, Protocol

# Settings that came after the first stores.
_LATER = (
    "criteria", "supercell_shape", "largest_supercell", "check_margin", "primitive",
)  # fmt: skip


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


ANALYSING = (
    "criterion", "criteria", "mesh", "band_points", "temperatures", "cutoff_frequency",
)  # fmt: skip
"""Settings that decide what follows from force constants."""
REANALYSED = (*ANALYSING, "workers", "time_limit", "commit_interval", "keep_dos", "band_dtype")
"""Those of a reanalysis, and how it is done."""
IMPORTING = ("protocol", "symprec", "symmetry_tolerance", *ANALYSING)
"""Settings that decide an import."""
IMPORTED = (*IMPORTING, "workers", "keep_forces", "keep_dos", "band_dtype")
"""Those, and how it is done."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    ``None`` in ``criterion``, ``fmax``, ``max_steps``, ``supercell`` and ``derivative`` stands for
    the protocol's own value, and 0 in ``max_edges`` for the device's: see :meth:`resolved`.
    Settings that decide results are hashed into :meth:`settings_hash`, which names the run; the
    others (where to write, how much to batch) may change from one run of a store to the next.
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
        "robust idealises the relaxed cell and relaxes on, until no more symmetry appears; "
        "exact does so with linear response; phononbench does what that paper's scripts do; both "
        "does robust and phononbench, and relaxes once",
        decides=True,
    )
    criterion: str | None = _setting(
        None,
        kind.text,
        "what is computed",
        "the criterion whose answer is the verdict; all others stand beside it (robust: "
        "exact-q, phononbench: phononbench)",
        metavar="NAME",
        decides=True,
    )
    criteria: tuple[Criterion, ...] = _setting(
        (),
        own_criteria,
        "what is computed",
        "a TOML file of criteria of your own: tables [[criteria]] with name, place (path, "
        "commensurate or mesh), threshold (THz), and gamma_threshold for the acoustic modes "
        "at Gamma (THz, or 'left out')",
        metavar="FILE",
        decides=True,
    )
    model: str = _setting(
        "mattersim-v1.0.0-5M",
        kind.text,
        "what is computed",
        "a potential's name (see hpcbench models), a .pth file of MatterSim weights, or "
        "module:callable that makes an ASE calculator (its module may lie in the working folder)",
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
    supercell: tuple[float, ...] | str | None = _setting(
        None,
        kind.supercell,
        "what is computed",
        "supercell of the cell as given: 3 numbers, 9 for a matrix, a length in A that it has at "
        "least between opposite faces, vacuum left out, or the word source to take the one in "
        "each phonopy.yaml (robust: 12; phononbench: 2 2 2, which its half of both keeps)",
        metavar="N",
        many=True,
        decides=True,
    )
    supercell_atoms: int = _setting(
        500,
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
    q_denominator: int = _setting(
        6,
        kind.count,
        "what is computed",
        "largest denominator of the q at which frequencies that are only interpolated, and "
        "negative, are computed (criterion exact-q)",
        metavar="N",
        decides=True,
    )
    q_checks: int = _setting(
        8,
        kind.count,
        "what is computed",
        "most q of a crystal that are computed for that; where they are not enough, the verdict "
        "is undetermined",
        metavar="N",
        decides=True,
    )
    derivative: str | None = _setting(
        None,
        kind.one_of(DISPLACEMENT, RESPONSE, BOTH),
        "what is computed",
        "force constants from displaced supercells, from the potential's linear response in the "
        "primitive cell, or from both, the response deciding (exact: response; others: "
        "displacement)",
        decides=True,
    )
    interpolation_error: float = _setting(
        0.1,
        kind.not_negative,
        "what is computed",
        "interpolated frequencies are compared with computed ones, of potentials with linear "
        "response; where they differ by more than this, in THz, more q are computed (0: not "
        "compared; never by phononbench)",
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
    max_atoms: int = _setting(
        0,
        kind.count,
        "which crystals",
        "compute crystals of at most so many atoms, and draw samples from those (0: all)",
        metavar="N",
    )
    unique: bool = _setting(
        False,
        kind.switch,
        "which crystals",
        "set aside what a generator wrote again in other words, by pymatgen's StructureMatcher",
    )
    sample: int = _setting(
        0,
        kind.count,
        "which crystals",
        "compute so many of each generator, chosen at random (0: all); a larger sample of the "
        "same seed holds a smaller one",
        metavar="N",
    )
    seed: int = _setting(0, kind.count, "which crystals", "of the sample", metavar="N")
    against: tuple[str, ...] = _setting(
        (),
        kind.texts,
        "which crystals",
        "known crystals, such as a training set: which of the others are the same is recorded",
        metavar="SOURCE",
        many=True,
    )
    primitive: bool = _setting(
        False,
        kind.switch,
        "which crystals",
        "reduce crystals to their primitive cells, at the symmetry tolerance, before anything else",
        decides=True,
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
    read_limits: tuple[str, ...] = _setting(
        (),
        read_limits,
        "input and output",
        "most bytes, characters in a line, levels of nesting or members of a file of a format, as "
        "FORMAT.WHAT=N: json.bytes=2G xyz.members=200K; what is above becomes a row with its "
        "reason",
        metavar="LIMIT",
        many=True,
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
            supercell=protocol.supercell if self.supercell is None else self.supercell,
            derivative=protocol.derivative if self.derivative is None else self.derivative,
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
        if isinstance(resolved.supercell, str) or len(resolved.supercell or ()) > 1:
            # Nor does it lower a supercell that is not given by its length. Where one is, its
            # value is written, as stores without it had no limit.
            del values["supercell_atoms"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def settings_hash(deciding: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a set of deciding settings (weights' SHA-256 included)."""
    text = json.dumps(dict(deciding), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings() -> tuple[dataclasses.Field[Any], ...]:
    """The settings in order of declaration."""
    return dataclasses.fields(RunConfig)
