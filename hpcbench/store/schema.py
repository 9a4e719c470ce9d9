"""What a store holds of each crystal, and what a run's list of crystals holds."""

from __future__ import annotations

import numpy as np

from hpcbench.criteria import PLACES
from hpcbench.store.fields import Field, Schema

DONE, FAILED, UNREADABLE, SET_ASIDE = "done", "failed", "unreadable", "set aside"
"""The values of ``status``: computed; could not be; could not be read; was not asked for."""

UNDETERMINED = "undetermined"
"""A verdict where it is not known what a criterion's answer is: see ``cause``."""

COARSE_MESH = 0.1
"""A ``mesh_change`` above which a mesh is not converged, in kJ/mol and atom: about 1 meV."""

LOW_SUPERCELL = 9.99
"""A ``supercell_height`` below which a row says that the supercell may not suffice, in A: 10, but
for what a relaxation leaves open."""

REANALYSIS_OF = "reanalysis_of"
"""In the settings of a reanalysis: the hash of the settings of the store that it is of."""

DIMENSIONS = {0: "molecules", 1: "chains", 2: "layers", 3: "network"}
"""What bonds make without end, by the number of directions: ``dimensionality``."""

EARLIER_LIST = "earlier_list"
"""The column of rows that only earlier lists of a run have. In stores without it all count."""

AGAIN = ":"
"""Between a crystal's id and what a row is, where it is not the crystal's own."""
FIRST, EXTRAPOLATED, DOUBLE = "first", "extrapolated", "float64"
LARGER = "larger"
RESPONSE, REFINED = "response", "refined"
"""Kinds of computations of a crystal, one after the other. The first one; displacements of several
lengths, extrapolated; the same in double precision; the next larger supercell; linear response in
place of displacements; the same at more q. The last one decides: it is the crystal's row. Earlier
ones are its history."""
BY_DISPLACEMENT, BY_RESPONSE = "displacement", "response"
"""The values of ``derivative``: finite displacements, or the linear response of the potential."""
BESIDE = "phononbench"
"""Of a protocol that was done beside that of the run, in the id of its row."""
WITHOUT_NAC = "without-nac"
"""In the id of the row that says what a crystal with Born charges would be without them."""

_ORIGINS = Field(
    "origins",
    "str",
    meaning="JSON list of [file, index, generator, why set aside, {column: value}], as far as "
    "there is something; the generator is its name or what a manifest says of it",
)

_MASSES = Field(
    "masses", "f8", (), "u", "atomic masses, if its source names others than those of the elements"
)

CRYSTALS = Schema(
    columns=(
        Field("id", "str", meaning="content id"),
        Field("name", "str", meaning="name for people"),
        _ORIGINS,
        Field("formula", "str", meaning="Hill formula of the cell"),
        Field("natoms", "i4", meaning="atoms in the cell"),
        Field("reason", "str", meaning="why it cannot be computed; empty if it can"),
        Field("status", "category", meaning="unreadable, failed or set aside where reason is set"),
        Field("cell", "f8", (3, 3), "angstrom", "lattice vectors as rows, as given"),
        Field("has_supercell", "bool", meaning="whether the source asks for a supercell"),
        Field("supercell_matrix", "i4", (3, 3), meaning="the supercell that the source asks for"),
        Field(
            "nac_params",
            "str",
            meaning="JSON: Born charges of its atoms and dielectric tensor, if its source has them",
        ),
        Field("cost", "f8", (), "s", "predicted seconds of a rank; 0 where set aside"),
    ),
    ragged=(
        Field("numbers", "i4", meaning="atomic numbers"),
        Field("positions", "f8", (3,), "angstrom", "Cartesian positions as given"),
        _MASSES,
    ),
)
"""The list of a run's crystals (``crystals.h5`` in its folder)."""


_ATOMS = (
    Field("numbers", "i4", meaning="atomic numbers, order as given"),
    Field("positions", "f8", (3,), "angstrom", "Cartesian, as given"),
    _MASSES,
    Field("relaxed_positions", "f8", (3,), "angstrom", "Cartesian, relaxed"),
)


_PLACES = tuple(
    field
    for place in PLACES
    for field in (
        Field(f"min_frequency_{place}", "f8", (), "THz", f"lowest frequency, {place}"),
        Field(f"min_q_{place}", "f8", (3,), "", "its q, reduced, of the primitive cell"),
        Field(
            f"acoustic_{place}",
            "f8",
            (),
            "",
            "share of this mode that moves all atoms alike: 1 in the acoustic branches near Gamma",
        ),
        Field(f"imaginary_{place}", "f8", (), "", "share of its modes that are below -0.001 THz"),
        Field(
            f"noise_{place}",
            "f8",
            (),
            "THz",
            "root of the standard deviation of its square: closer to zero its sign is not known",
        ),
    )
)
_RELAXATION = (
    Field("energy", "f8", (), "eV", "potential energy of the relaxed cell"),
    Field("fmax", "f8", (), "eV/angstrom", "largest force left by the relaxation"),
    Field("stress", "f8", (3, 3), "eV/angstrom^3", "left by the relaxation"),
    Field("relaxation_steps", "i4", meaning="optimiser steps, all rounds"),
    Field("force_calls", "i4", meaning="evaluations in the relaxation"),
    Field("idealised", "bool", meaning="relaxed cell brought to its exact symmetry"),
)
_FORCE_CONSTANTS = (
    Field(
        "derivative",
        "category",
        meaning="how force constants were had: displacement or response; empty of an import",
    ),
    Field(
        "response_columns",
        "i4",
        meaning="columns of linear response, each about a pass of the primitive cell; a complex "
        "one counts as two",
    ),
    Field(
        "interpolation_error",
        "f8",
        (),
        "THz",
        "largest difference of interpolated frequencies from computed ones, at computed_qpoints; "
        "NaN where it was not looked at",
    ),
    Field(
        "elastic_constants",
        "f8",
        (6, 6),
        "GPa",
        "relaxed atoms, Voigt's order, from linear response to strains; NaN without",
    ),
    Field(
        "lowest_stiffness",
        "f8",
        (),
        "GPa",
        "their lowest eigenvalue (Mandel): positive by Born's criterion; NaN without",
    ),
    Field(
        "slowest_sound",
        "f8",
        (),
        "m/s",
        "lowest velocity of sound in any direction, by the elastic constants; negative where long "
        "waves grow, NaN without",
    ),
    Field("displacements", "i4", meaning="displaced supercells"),
    Field("largest_drift", "f8", (), "eV/angstrom", "largest mean force subtracted"),
    Field(
        "symmetrisation_change",
        "f8",
        (),
        "eV/angstrom^2",
        "largest change of a force constant by permutation symmetry and the sum rule",
    ),
    Field(
        "force_constants_decay",
        "f8",
        (),
        "",
        "largest force constant at half the supercell, over the largest of an atom on itself",
    ),
    Field(
        "supercell_height",
        "f8",
        (),
        "angstrom",
        "lowest height of the supercell, across vacuum left out; NaN with vacuum on all sides",
    ),
    Field(
        "force_noise",
        "f8",
        (),
        "eV/angstrom",
        "standard deviation of a force component by rounding, from the laws that it violates",
    ),
    Field(
        "nonlinearity",
        "f8",
        (),
        "",
        "by so much, relatively, each pair of atoms may interact otherwise at no displacement",
    ),
    Field(
        "roughness",
        "f8",
        (),
        "",
        "share of the change from d to d/2 that is not 4 times that from d/2 to d/4; 0: analytic",
    ),
)
_CELLS = (
    Field("cell", "f8", (3, 3), "angstrom", "lattice vectors as rows, as given"),
    Field("relaxed_cell", "f8", (3, 3), "angstrom", "lattice vectors as rows, relaxed"),
    Field("supercell_matrix", "i4", (3, 3), meaning="as in phonopy"),
    Field("primitive_matrix", "f8", (3, 3), meaning="as in phonopy, resolved"),
)
_WORK = (
    Field(
        "seconds_relaxation",
        "f8",
        (),
        "s",
        "its share, by cost, of the wall time of the forward passes that relaxed it",
    ),
    Field(
        "seconds_forces",
        "f8",
        (),
        "s",
        "its share of the passes on displaced supercells, and preparing its own",
    ),
    Field(
        "seconds_analysis",
        "f8",
        (),
        "s",
        "processor time of what needs no potential: symmetry, displacements, phonopy",
    ),
    Field("peak_memory", "f8", (), "byte", "most memory of its process until it was finished"),
    Field("peak_device_memory", "f8", (), "byte", "most memory of the GPU until then"),
    Field("attempts", "i4", meaning="how often it was begun, as far as its process knew"),
    Field("finished", "f8", (), "s", "when, as Unix time"),
    Field("rank", "i4", meaning="MPI rank that computed it"),
    Field("host", "category", meaning="host that computed it"),
    Field("provenance", "category", meaning="JSON: versions of packages, device, weights"),
)
_STAGES = (
    Field("stage_steps", "i4", meaning="optimiser steps of each round of the relaxation"),
    Field("stage_energy", "f8", (), "eV", "potential energy of the cell after each round"),
    Field("stage_fmax", "f8", (), "eV/angstrom", "largest force left by each round"),
    Field("stage_stress", "f8", (3, 3), "eV/angstrom^3", "left by each round"),
)
_MODES = (
    Field("mode_frequencies", "f8", (), "THz", "the lowest mode of each place, where imaginary"),
    Field("mode_qpoints", "f8", (3,), "", "its q, reduced, of the primitive cell"),
    Field(
        "mode_eigenvectors",
        "f8",
        (3, 2),
        "",
        "(modes, primitive atoms, 3, 2), the first two flattened: real and imaginary part",
    ),
)


def result_schema(
    ntemperatures: int,
    criteria: tuple[str, ...],
    band_dtype: str = "float32",
    force_dtype: str = "float32",
) -> Schema:
    """The schema of results; docs/store.md has the same as a table.

    Parameters
    ----------
    ntemperatures : int
        Number of temperatures of the thermal properties.
    criteria : tuple of str
        Names of the verdicts' columns.
    band_dtype, force_dtype : str
        Precision in which bands, and forces where they are kept, are written.
    """
    thermal = (ntemperatures,)
    columns = (
        Field("id", "str", meaning="content id of the crystal as given"),
        Field("name", "str", meaning="name for people"),
        _ORIGINS,
        Field("formula", "str", meaning="Hill formula of the cell"),
        Field("natoms", "i4", meaning="atoms in the cell"),
        Field("status", "category", meaning="done, failed, unreadable, or set aside"),
        Field("reason", "str", meaning="kind and text of what went wrong; empty if done"),
        Field(
            "notes",
            "category",
            meaning="of one that is done: what did not go as asked, or its source has otherwise",
        ),
        Field(
            EARLIER_LIST,
            "bool",
            meaning="whether earlier lists of the run have it and the latest one has not: then it "
            "is in no count",
        ),
        Field("spacegroup", "category", meaning="international symbol, relaxed"),
        Field(
            "spacegroup_number",
            "i4",
            meaning="relaxed, at 1e-5 angstrom (imported: at the symmetry tolerance); 0 unknown",
        ),
        Field("spacegroup_before", "category", meaning="international symbol, as given"),
        Field("spacegroup_number_before", "i4", meaning="as given, at the symmetry tolerance"),
        Field(
            "spacegroup_numbers",
            "i4",
            (5,),
            meaning="relaxed, at 1e-5, 1e-4, 1e-3, 1e-2 and 1e-1 angstrom; 0 unknown",
        ),
        Field("spacegroup_numbers_before", "i4", (5,), meaning="as given, at the same tolerances"),
        Field("verdict", "category", meaning="by the store's criterion; undetermined: see cause"),
        Field("cause", "category", meaning="why the verdict is undetermined; empty otherwise"),
        *(
            Field(
                name,
                "category",
                meaning="the same by this criterion",
            )
            for name in criteria
        ),
        Field(
            "margin",
            "f8",
            (),
            "THz",
            "lowest frequency above the threshold of the verdict's criterion; without the "
            "acoustic modes at Gamma",
        ),
        Field(
            "again", "category", meaning="which computation this is; empty if it was the only one"
        ),
        Field(
            "parent",
            "category",
            meaning="the crystal's id, of an earlier computation or of the protocol beside; "
            "else empty",
        ),
        Field("within_noise", "category", meaning="criteria whose answer the noise could change"),
        *_PLACES,
        Field(
            "open_regions",
            "i4",
            meaning="regions of negative interpolated frequencies where none was computed",
        ),
        Field(
            "long_waves",
            "f8",
            (),
            "THz",
            "lowest acoustic wave near Gamma, if below the threshold of exact-q; else NaN",
        ),
        Field("character", "category", meaning="kind of negative frequencies, in words"),
        Field("gamma_acoustic", "f8", (), "THz", "lowest acoustic mode at Gamma: 0 but for errors"),
        Field("gamma_optical", "f8", (), "THz", "lowest other mode at Gamma"),
        Field(
            "min_frequency_near_gamma",
            "f8",
            (),
            "THz",
            "lowest of three branches, nearer to Gamma than half of the nearest commensurate q",
        ),
        Field("max_frequency", "f8", (), "THz", "highest frequency seen anywhere"),
        Field(
            "dimensionality",
            "i4",
            meaning="0 molecules, 1 chains, 2 layers, 3 a network of bonds, relaxed; -1 unknown",
        ),
        Field("vacuum", "f8", (), "angstrom", "widest gap between atomic planes, relaxed"),
        Field("modes_left_out", "f8", (), "", "share of mesh modes under the cut-off frequency"),
        Field("mesh_change", "f8", (), "kJ/mol", "free energy per atom, against half the mesh"),
        Field("free_energy", "f8", thermal, "kJ/mol", "Helmholtz, of the primitive cell"),
        Field("entropy", "f8", thermal, "J/K/mol", "of the primitive cell"),
        Field("heat_capacity", "f8", thermal, "J/K/mol", "C_V of the primitive cell"),
        *_RELAXATION,
        *_FORCE_CONSTANTS,
        *_CELLS,
        Field("band_labels", "category", meaning="JSON list of [first, last] of each segment"),
        Field(
            "nac_params",
            "str",
            meaning="JSON: Born charges of the primitive cell and dielectric tensor that are "
            "applied; empty if none",
        ),
        Field("imported_label", "category", meaning="the label that came with an import"),
        *_WORK,
    )
    ragged = (
        *_ATOMS,
        *_STAGES,
        Field("p2s_map", "i4", meaning="primitive atoms in the supercell, as in phonopy"),
        Field(
            "force_constants",
            "f8",
            (3, 3),
            "eV/angstrom^2",
            "compact: (primitive atoms, supercell atoms, 3, 3), the first two flattened",
        ),
        Field("displacement_atoms", "i4", meaning="displaced atom of each supercell"),
        Field("displacement_vectors", "f8", (3,), "angstrom", "its displacement"),
        Field(
            "forces",
            np.dtype(force_dtype).str,
            (3,),
            "eV/angstrom",
            "(displaced supercells, their atoms, 3), drift subtracted; empty unless kept",
        ),
        Field("band_qpoints", "f8", (3,), "", "reduced, of the primitive cell"),
        Field("band_segments", "i8", meaning="first and end of each segment in band_qpoints"),
        Field(
            "band_frequencies",
            np.dtype(band_dtype).str,
            (),
            "THz",
            "(band_qpoints, 3 x primitive atoms), flattened",
        ),
        Field("commensurate_qpoints", "f8", (3,), "", "reduced, of the primitive cell"),
        Field("commensurate_frequencies", "f8", (), "THz", "(q, 3 x primitive atoms), flattened"),
        Field("computed_qpoints", "f8", (3,), "", "other q that were computed one by one"),
        Field("computed_frequencies", "f8", (), "THz", "(q, 3 x primitive atoms), flattened"),
        Field("computed_supercells", "i4", (3, 3), meaning="of each, of the primitive cell"),
        *_MODES,
        Field("dos_frequencies", "f8", (), "THz", "of the density of states; empty unless kept"),
        Field("dos", "f8", (), "1/THz", "phonon density of states, of the primitive cell"),
    )
    return Schema(columns, ragged)
