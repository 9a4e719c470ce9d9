"""The settings of a run: one frozen ``RunConfig``.

Every setting is declared once, with its help and its type; the command line, the environment
variables (``HPCBENCH_MAX_STEPS`` for ``max_steps``) and the TOML keys follow from that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcbench import setting_values as kind
from hpcbench.criteria import Criterion, as_tables, own_criteria
from hpcbench.limits import read_limits
from hpcbench.protocols import BOTH, DISPLACEMENT, PROTOCOLS, RESPONSE, Protocol
from hpcbench.setting_fields import of_calculation, of_crystals, of_files, of_machine

if TYPE_CHECKING:
    from hpcbench.crystal import Crystal

# Settings that came after the first stores.
_LATER = (
    "criteria", "supercell_shape", "largest_supercell", "check_margin", "primitive", "validate",
    "leave_out_born",
)  # fmt: skip
# Settings whose default is the protocol's.
_OF_PROTOCOL = (
    "criterion", "fmax", "max_steps", "supercell", "derivative", "relax", "mesh",
    "cutoff_frequency",
)  # fmt: skip
OF_VALIDATION = ("validate", "leave_out_born")
"""Settings that only ``hpcbench validate`` has as options."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    ``None`` stands for the protocol's own value (``criterion``, ``fmax``, ``mesh`` ...), and 0 in
    ``max_edges`` for the device's: see :meth:`resolved`. A hash of the settings that determine
    results identifies the run (``hpcbench.settings_hash``); the others (where to write, how much to
    batch) may change from one run of a store to the next.
    """

    sources: tuple[str, ...] = of_files(
        (), kind.texts, "where the crystals are", metavar="SOURCE", many=True
    )
    out: str = of_files("store.h5", kind.text, "the store to write", metavar="FILE")
    protocol: str = of_calculation(
        "robust",
        kind.one_of(*PROTOCOLS),
        "robust idealises the relaxed cell and relaxes on, until no more symmetry appears; "
        "exact does so with linear response; phononbench does what that paper's scripts do; both "
        "does robust and phononbench, and relaxes once; loew and lee-xia do what these papers do "
        "with references (see hpcbench validate)",
    )
    criterion: str | None = of_calculation(
        None,
        kind.text,
        "the criterion whose answer is the verdict; all others stand beside it (robust: "
        "exact-q; phononbench, loew, lee-xia: the one of that name)",
        metavar="NAME",
    )
    criteria: tuple[Criterion, ...] = of_calculation(
        (),
        own_criteria,
        "a TOML file of criteria of your own: tables [[criteria]] with name, place (path, "
        "commensurate or mesh), threshold (THz), and gamma_threshold for the acoustic modes "
        "at Gamma (THz, or 'left out')",
        metavar="FILE",
    )
    model: str = of_calculation(
        "mattersim-v1.0.0-5M",
        kind.text,
        "a potential's name (see hpcbench models), a .pth file of MatterSim weights, or "
        "module:callable that makes an ASE calculator (its module may lie in the working folder)",
        metavar="MODEL",
    )
    relax: str | None = of_calculation(
        None,
        kind.one_of("none", "positions", "full"),
        "degrees of freedom of the relaxation: none, the positions, or positions and cell "
        "(robust, phononbench, loew: full; lee-xia: none)",
    )
    fmax: float | None = of_calculation(
        None,
        kind.positive,
        "largest force of a converged relaxation in eV/A (robust: 0.001; phononbench, loew: 0.005)",
        metavar="F",
    )
    max_steps: int | None = of_calculation(
        None,
        kind.count,
        "optimiser steps before a relaxation is given up (robust: 1000 in each of its two "
        "stages; phononbench: 500 in each of 15 rounds; loew: 7500)",
        metavar="N",
    )
    pressure: float = of_calculation(
        0.0,
        kind.number,
        "external pressure of the relaxation in GPa, with --relax full",
        metavar="GPA",
    )
    supercell: tuple[float, ...] | str | None = of_calculation(
        None,
        kind.supercell,
        "supercell of the cell as given: 3 numbers, 9 for a matrix, a length in A that it has at "
        "least between opposite faces, vacuum left out, or the word source to take the one that "
        "each phonopy.yaml or table of labels names (robust, loew, lee-xia: 12; phononbench: "
        "2 2 2, which its half of both keeps)",
        metavar="N",
        many=True,
    )
    supercell_atoms: int = of_calculation(
        500,
        kind.count,
        "most atoms of a supercell that is given by its length, which is lowered for it (0: no "
        "limit)",
        metavar="N",
    )
    supercell_shape: str = of_calculation(
        "diagonal",
        kind.one_of("diagonal", "cubic"),
        "supercells that are given by their length: multiples of the lattice vectors, or any "
        "that are about a cube",
    )
    largest_supercell: int = of_calculation(
        1000,
        kind.count,
        "crystals whose supercell has more atoms than this are set aside (0: none)",
        metavar="N",
    )
    check_margin: float = of_calculation(
        0.0,
        kind.not_negative,
        "verdicts whose lowest frequency is nearer to the criterion's threshold than this, in "
        "THz, are checked in the next larger supercell (0: none)",
        metavar="THZ",
    )
    q_denominator: int = of_calculation(
        6,
        kind.count,
        "largest denominator of the q at which frequencies that are only interpolated, and "
        "negative, are computed (criterion exact-q)",
        metavar="N",
    )
    q_checks: int = of_calculation(
        8,
        kind.count,
        "most q of a crystal that are computed for that; where they are not enough, the verdict "
        "is undetermined",
        metavar="N",
    )
    derivative: str | None = of_calculation(
        None,
        kind.one_of(DISPLACEMENT, RESPONSE, BOTH),
        "force constants from displaced supercells, from the potential's linear response in the "
        "primitive cell, or from both, the response deciding (exact: response; others: "
        "displacement)",
    )
    interpolation_error: float = of_calculation(
        0.1,
        kind.not_negative,
        "interpolated frequencies are compared with computed ones, of potentials with linear "
        "response; where they differ by more than this, in THz, more q are computed (0: not "
        "compared; never by phononbench)",
        metavar="THZ",
    )
    displacement: float = of_calculation(
        0.01,
        kind.positive,
        "length of the finite displacements in A",
        metavar="D",
    )
    symprec: float = of_calculation(
        1e-5,
        kind.positive,
        "tolerance in A with which phonopy finds the symmetry",
        metavar="L",
    )
    symmetry_tolerance: float = of_calculation(
        0.01,
        kind.positive,
        "tolerance in A of the symmetry that is kept in the relaxation and idealised after it",
        metavar="L",
    )
    mesh: tuple[float, ...] | None = of_calculation(
        None,
        kind.mesh,
        "q mesh for thermal properties and the mesh criterion: three numbers, whose mesh does not "
        "meet Gamma where they are even, or a length in A as phonopy takes it, whose mesh does "
        "(lee-xia: 75; others: 20 20 20)",
        metavar="N",
        many=True,
    )
    band_points: int = of_calculation(
        101,
        kind.count,
        "points on the longest segment of the band path",
        metavar="N",
    )
    temperatures: tuple[float, ...] = of_calculation(
        (0.0, 75.0, 150.0, 300.0, 600.0, 1000.0),
        kind.temperatures,
        "temperatures of the thermal properties in K",
        metavar="T",
        many=True,
    )
    cutoff_frequency: float | None = of_calculation(
        None,
        kind.not_negative,
        "modes below this frequency in THz are left out of the thermal properties (loew: 0, "
        "others: 0.1)",
        metavar="THZ",
    )
    min_distance: float = of_calculation(
        0.5,
        kind.not_negative,
        "crystals with two atoms closer than this, in A, are set aside",
        metavar="L",
    )
    dtype: str = of_calculation(
        "float32",
        kind.one_of("float32", "float64"),
        "precision of the potential",
    )
    validate: bool = of_calculation(
        False,
        kind.switch,
        "compare each crystal with its reference, as hpcbench validate does",
    )
    leave_out_born: bool = of_calculation(
        False,
        kind.switch,
        "compare references with Born charges, too, both spectra without these; else that is the "
        "reason why they are not compared",
    )
    device: str = of_machine(
        "auto",
        kind.text,
        "auto (a GPU if there is one), cpu, cuda, or cuda:N",
        metavar="DEVICE",
    )
    max_edges: int = of_machine(
        0,
        kind.count,
        "most edges of the graph in one forward pass (0: found on the device)",
        metavar="N",
        flag=False,
    )
    workers: int | str = of_machine(
        "auto",
        kind.count_or_auto,
        "processes beside each rank's potential, for symmetry and phonopy's work (auto: by the "
        "rank's cores; 0: none, the rank does it itself)",
        metavar="N",
    )
    share_gpu: bool = of_machine(False, kind.switch, "allow several ranks on one GPU")
    time_limit: float | None = of_machine(
        None,
        kind.time_limit,
        "time for the run, as sbatch takes it: minutes, H:MM:SS or D-HH:MM:SS; no crystal is "
        "begun that cannot be finished in it (default: the end of the Slurm job)",
        metavar="TIME",
    )
    lease_minutes: float = of_machine(
        10.0,
        kind.positive,
        "a rank takes crystals for so many minutes at most, which is what its death may cost",
        metavar="MIN",
        flag=False,
    )
    silence: float = of_machine(
        120.0,
        kind.positive,
        "seconds without a sign of life after which a rank counts as dead (on its own host that "
        "is known at once)",
        metavar="S",
        flag=False,
    )
    block: int = of_machine(
        0,
        kind.count,
        "most crystals that a rank takes at a time (0: by the length of the list)",
        metavar="N",
        flag=False,
    )
    commit_interval: float = of_machine(
        60.0,
        kind.not_negative,
        "seconds after which results are committed to the disk: what a kill may cost",
        metavar="S",
        flag=False,
    )
    max_atoms: int = of_crystals(
        0,
        kind.count,
        "compute crystals of at most so many atoms, and draw samples from those (0: all)",
        metavar="N",
    )
    unique: bool = of_crystals(
        False,
        kind.switch,
        "set aside duplicates within a generator's crystals, by pymatgen's StructureMatcher",
    )
    sample: int = of_crystals(
        0,
        kind.count,
        "compute so many of each generator, chosen at random (0: all); a larger sample of the "
        "same seed holds a smaller one",
        metavar="N",
    )
    seed: int = of_crystals(0, kind.count, "of the sample", metavar="N")
    against: tuple[str, ...] = of_crystals(
        (),
        kind.texts,
        "known crystals, such as a training set: which of the others are the same is recorded",
        metavar="SOURCE",
        many=True,
    )
    primitive: bool = of_crystals(
        False,
        kind.switch,
        "reduce crystals to their primitive cells, at the symmetry tolerance, before anything else",
        decides=True,
    )
    keep_forces: bool = of_files(
        False,
        kind.switch,
        "keep the forces of the displaced supercells in the store, for training data or another "
        "fit; they take as much room as the force constants",
    )
    keep_dos: bool = of_files(False, kind.switch, "keep the phonon density of states in the store")
    band_dtype: str = of_files(
        "float32",
        kind.one_of("float32", "float64"),
        "precision in which bands are stored (float32: rounded to 8e-6 THz as well); they follow "
        "from the force constants, which are in float64",
        flag=False,
    )
    read_limits: tuple[str, ...] = of_files(
        (),
        read_limits,
        "most bytes, characters in a line, levels of nesting or members of a file of a format, as "
        "FORMAT.WHAT=N: json.bytes=2G xyz.members=200K; data above a limit become a row with "
        "its reason",
        metavar="LIMIT",
        many=True,
    )
    report: bool = of_files(True, kind.switch, "write an HTML report beside the store at the end")

    @property
    def protocol_definition(self) -> Protocol:
        """The protocol that ``protocol`` names."""
        return PROTOCOLS[self.protocol]

    def resolved(self) -> RunConfig:
        """Return the same settings with the protocol's values in place of ``None``."""
        protocol = self.protocol_definition
        values = {
            name: getattr(protocol, name) for name in _OF_PROTOCOL if getattr(self, name) is None
        }
        return dataclasses.replace(self, **values)

    def supercell_for(self, crystal: Crystal) -> tuple[float, ...] | str:
        """Return the setting of the supercell that holds for a crystal.

        What is compared with a reference has its supercell, where the reference names one.
        """
        assert self.supercell is not None, "settings are resolved before a run"
        named = self.validate and crystal.supercell_matrix is not None
        return "source" if named else self.supercell

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that determine results, as JSON types."""
        resolved = self.resolved()
        values = {f.name: getattr(resolved, f.name) for f in settings() if f.metadata["decides"]}
        values["criteria"] = as_tables(self.criteria)
        # Without these settings the hash must stay what it was before they existed.
        for name in _LATER:
            if getattr(self, name) == getattr(RunConfig, name, ()):
                del values[name]
        if isinstance(resolved.supercell, str) or len(resolved.supercell or ()) > 1:
            # The limit has no effect on a supercell that is not given by its length. For others
            # it is written, because stores without it had no limit.
            del values["supercell_atoms"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def settings() -> tuple[dataclasses.Field[Any], ...]:
    """Return the settings in order of declaration."""
    return dataclasses.fields(RunConfig)
