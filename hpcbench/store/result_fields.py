"""The fields of results but those of phonons: an entry of the table for each.

A field is added here, or in :mod:`hpcbench.store.phonon_fields`, and nowhere else: what a repair,
a reanalysis and a merge do with it follows from its entry. docs/store.md lists all of them.
"""

from __future__ import annotations

from hpcbench.store.fields import Field, Origin

GIVEN, COMPUTED = Origin.GIVEN, Origin.COMPUTED

# fmt: off
ORIGINS = (
    Field("origins", "str", origin=GIVEN,
          meaning="JSON list of [file, index, generator, why set aside, {column: value}], as far"
                  " as there is something; the generator is its name or what a manifest says of "
                  "it"),
)
MASSES = (
    Field("masses", "f8", unit="u", origin=GIVEN, is_essential=True,
          meaning="atomic masses, if its source names others than those of the elements"),
)
CRYSTAL = (
    Field("id", "str", origin=GIVEN, is_essential=True,
          meaning="content id of the crystal as given"),
    Field("name", "str", origin=GIVEN, meaning="name for people"),
    *ORIGINS,
    Field("formula", "str", origin=GIVEN, meaning="Hill formula of the cell"),
    Field("natoms", "i4", origin=GIVEN, meaning="atoms in the cell"),
)
STATUS = (
    Field("status", "category", origin=COMPUTED, is_essential=True,
          meaning="done, failed, unreadable, or set aside"),
    Field("reason", "str", origin=COMPUTED, is_essential=True,
          meaning="kind and text of what went wrong; empty if done"),
    Field("notes", "category", origin=COMPUTED,
          meaning="of one that is done: what did not go as asked, or its source has otherwise"),
    Field("earlier_list", "bool", origin=GIVEN,
          meaning="whether earlier lists of the run have it and the latest one has not: then it "
                  "is in no count"),
)
SYMMETRY = (
    Field("spacegroup", "category", origin=COMPUTED, meaning="international symbol, relaxed"),
    Field("spacegroup_number", "i4", origin=COMPUTED,
          meaning="relaxed, at 1e-5 angstrom (imported: at the symmetry tolerance); 0 unknown"),
    Field("spacegroup_before", "category", origin=COMPUTED,
          meaning="international symbol, as given"),
    Field("spacegroup_number_before", "i4", origin=COMPUTED,
          meaning="as given, at the symmetry tolerance"),
    Field("spacegroup_numbers", "i4", (5,), origin=COMPUTED,
          meaning="relaxed, at 1e-5, 1e-4, 1e-3, 1e-2 and 1e-1 angstrom; 0 unknown"),
    Field("spacegroup_numbers_before", "i4", (5,), origin=COMPUTED,
          meaning="as given, at the same tolerances"),
)
RELAXATION = (
    Field("energy", "f8", unit="eV", origin=COMPUTED, is_essential=True,
          meaning="potential energy of the relaxed cell"),
    Field("fmax", "f8", unit="eV/angstrom", origin=COMPUTED,
          meaning="largest force left by the relaxation"),
    Field("stress", "f8", (3, 3), unit="eV/angstrom^3", origin=COMPUTED,
          meaning="left by the relaxation"),
    Field("relaxation_steps", "i4", origin=COMPUTED, meaning="optimiser steps, all rounds"),
    Field("force_calls", "i4", origin=COMPUTED, meaning="evaluations in the relaxation"),
    Field("idealised", "bool", origin=COMPUTED,
          meaning="relaxed cell brought to its exact symmetry"),
)
CELLS = (
    Field("cell", "f8", (3, 3), unit="angstrom", origin=GIVEN, is_essential=True,
          meaning="lattice vectors as rows, as given"),
    Field("relaxed_cell", "f8", (3, 3), unit="angstrom", origin=COMPUTED, is_essential=True,
          meaning="lattice vectors as rows, relaxed"),
    Field("supercell_matrix", "i4", (3, 3), origin=COMPUTED, is_essential=True,
          meaning="as in phonopy"),
    Field("primitive_matrix", "f8", (3, 3), origin=COMPUTED, is_essential=True,
          meaning="as in phonopy, resolved"),
)
WORK = (
    Field("imported_label", "category", origin=GIVEN, meaning="the label that came with an import"),
    Field("seconds_relaxation", "f8", unit="s", origin=COMPUTED,
          meaning="its share, by cost, of the wall time of the forward passes that relaxed it"),
    Field("seconds_forces", "f8", unit="s", origin=COMPUTED,
          meaning="its share of the passes on displaced supercells, and preparing its own"),
    Field("seconds_analysis", "f8", unit="s", origin=COMPUTED,
          meaning="processor time of what needs no potential: symmetry, displacements, phonopy"),
    Field("peak_memory", "f8", unit="byte", origin=COMPUTED,
          meaning="most memory of its process until it was finished"),
    Field("peak_device_memory", "f8", unit="byte", origin=COMPUTED,
          meaning="most memory of the GPU until then"),
    Field("attempts", "i4", origin=COMPUTED,
          meaning="how often it was begun, as far as its process knew"),
    Field("finished", "f8", unit="s", origin=COMPUTED, meaning="when, as Unix time"),
    Field("rank", "i4", origin=COMPUTED, meaning="MPI rank that computed it"),
    Field("host", "category", origin=COMPUTED, meaning="host that computed it"),
    Field("provenance", "category", origin=COMPUTED, is_essential=True,
          meaning="JSON: versions of packages, device, weights"),
)
ATOMS = (
    Field("numbers", "i4", origin=GIVEN, is_essential=True,
          meaning="atomic numbers, order as given"),
    Field("positions", "f8", (3,), unit="angstrom", origin=GIVEN, is_essential=True,
          meaning="Cartesian, as given"),
    *MASSES,
    Field("relaxed_positions", "f8", (3,), unit="angstrom", origin=COMPUTED, is_essential=True,
          meaning="Cartesian, relaxed"),
)
STAGES = (
    Field("stage_steps", "i4", origin=COMPUTED,
          meaning="optimiser steps of each round of the relaxation"),
    Field("stage_energy", "f8", unit="eV", origin=COMPUTED,
          meaning="potential energy of the cell after each round"),
    Field("stage_fmax", "f8", unit="eV/angstrom", origin=COMPUTED,
          meaning="largest force left by each round"),
    Field("stage_stress", "f8", (3, 3), unit="eV/angstrom^3", origin=COMPUTED,
          meaning="left by each round"),
)
# fmt: on
