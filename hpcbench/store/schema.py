"""Define the columns of a store, and those of a run's list of crystals."""

from __future__ import annotations

from hpcbench.store import phonon_fields, result_fields
from hpcbench.store.fields import Field, Origin, Schema
from hpcbench.store.result_fields import MASSES, ORIGINS

GIVEN, COMPUTED = Origin.GIVEN, Origin.COMPUTED

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
"""Names of ``dimensionality``: the number of directions in which bonds have no end."""

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
REFERENCE = "reference"
"""In the id of the row of what a crystal was validated against: others' force constants."""

# fmt: off
CRYSTALS = Schema(
    columns=(
        Field("id", "str", origin=GIVEN, meaning="content id"),
        Field("name", "str", origin=GIVEN, meaning="name for people"),
        *ORIGINS,
        Field("formula", "str", origin=GIVEN, meaning="Hill formula of the cell"),
        Field("natoms", "i4", origin=GIVEN, meaning="atoms in the cell"),
        Field("reason", "str", origin=COMPUTED,
              meaning="why it cannot be computed; empty if it can"),
        Field("status", "category", origin=COMPUTED,
              meaning="unreadable, failed or set aside where reason is set"),
        Field("cell", "f8", (3, 3), unit="angstrom", origin=GIVEN,
              meaning="lattice vectors as rows, as given"),
        Field("has_supercell", "bool", origin=GIVEN,
              meaning="whether the source asks for a supercell"),
        Field("supercell_matrix", "i4", (3, 3), origin=GIVEN,
              meaning="the supercell that the source asks for"),
        Field("nac_params", "str", origin=GIVEN,
              meaning="JSON: Born charges of its atoms and dielectric tensor, if its source has "
                      "them"),
        Field("cost", "f8", unit="s", origin=COMPUTED,
              meaning="predicted seconds of a rank; 0 where set aside"),
    ),
    ragged=(
        Field("numbers", "i4", origin=GIVEN, meaning="atomic numbers"),
        Field("positions", "f8", (3,), unit="angstrom", origin=GIVEN,
              meaning="Cartesian positions as given"),
        *MASSES,
    ),
)
# fmt: on
"""The list of a run's crystals (``crystals.h5`` in its folder)."""

SHARED = ("id", "name", "origins", "formula", "natoms", "status", "reason")
"""Columns that the list of a run and its results share: what listing and finding crystals takes."""


def result_schema(
    ntemperatures: int,
    criteria: tuple[str, ...],
    band_dtype: str = "float32",
    force_dtype: str = "float32",
) -> Schema:
    """Return the schema of results; docs/store.md has the same as a table.

    Parameters
    ----------
    ntemperatures : int
        Number of temperatures of the thermal properties.
    criteria : tuple of str
        Names of the verdicts' columns.
    band_dtype, force_dtype : str
        Precision in which bands, and forces where they are kept, are written.
    """
    columns = (
        *result_fields.CRYSTAL,
        *result_fields.STATUS,
        *result_fields.SYMMETRY,
        *phonon_fields.verdict_fields(criteria),
        *phonon_fields.AT_PLACES,
        *phonon_fields.FREQUENCIES,
        *phonon_fields.thermal_fields(ntemperatures),
        *result_fields.RELAXATION,
        *phonon_fields.FORCE_CONSTANTS,
        *result_fields.CELLS,
        *phonon_fields.SETTINGS_OF_SPECTRA,
        *result_fields.WORK,
    )
    ragged = (
        *result_fields.ATOMS,
        *result_fields.STAGES,
        *phonon_fields.phonon_arrays(band_dtype, force_dtype),
    )
    return Schema(columns, ragged)
