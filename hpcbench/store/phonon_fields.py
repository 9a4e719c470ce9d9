"""The fields of results that phonons give: an entry of the table for each.

See :mod:`hpcbench.store.result_fields`.
"""

from __future__ import annotations

import numpy as np

from hpcbench.criteria import PLACES
from hpcbench.store.fields import Field, Origin

COMPUTED, DERIVED, NOISE = Origin.COMPUTED, Origin.DERIVED, Origin.NOISE


# fmt: off
def verdict_fields(criteria: tuple[str, ...]) -> tuple[Field, ...]:
    """Return the fields of verdicts.

    Parameters
    ----------
    criteria : tuple of str
        Names of the columns of the criteria.
    """
    return (
        Field("verdict", "category", origin=DERIVED,
              meaning="by the store's criterion; undetermined: see cause"),
        Field("cause", "category", origin=DERIVED,
              meaning="why the verdict is undetermined; empty otherwise"),
        *(
            Field(name, "category", origin=DERIVED, meaning="the same by this criterion")
            for name in criteria
        ),
        Field("margin", "f8", unit="THz", origin=DERIVED,
              meaning="lowest frequency above the threshold of the verdict's criterion; without "
                      "the acoustic modes at Gamma"),
        Field("again", "category", origin=COMPUTED,
              meaning="which computation this is; empty if it was the only one"),
        Field("parent", "category", origin=COMPUTED,
              meaning="the crystal's id, of an earlier computation or of the protocol beside; else "
                      "empty"),
        Field("within_noise", "category", origin=NOISE,
              meaning="criteria whose answer the noise could change"),
    )


AT_PLACES = tuple(
    field
    for place in PLACES
    for field in (
        Field(f"min_frequency_{place}", "f8", unit="THz", origin=DERIVED,
              meaning=f"lowest frequency, {place}"),
        Field(f"min_q_{place}", "f8", (3,), origin=DERIVED,
              meaning="its q, reduced, of the primitive cell"),
        Field(f"acoustic_{place}", "f8", origin=DERIVED,
              meaning="share of this mode that moves all atoms alike: 1 in the acoustic branches "
                      "near Gamma"),
        Field(f"imaginary_{place}", "f8", origin=DERIVED,
              meaning="share of its modes that are below -0.001 THz"),
        Field(f"noise_{place}", "f8", unit="THz", origin=NOISE,
              meaning="root of the standard deviation of its square: closer to zero its sign is "
                      "not known"),
    )
)
FREQUENCIES = (
    Field("open_regions", "i4", origin=DERIVED,
          meaning="regions of negative interpolated frequencies where none was computed"),
    Field("long_waves", "f8", unit="THz", origin=DERIVED,
          meaning="lowest acoustic wave near Gamma, if below the threshold of exact-q; else NaN"),
    Field("character", "category", origin=DERIVED,
          meaning="kind of negative frequencies, in words"),
    Field("gamma_acoustic", "f8", unit="THz", origin=DERIVED,
          meaning="lowest acoustic mode at Gamma: 0 but for errors"),
    Field("gamma_optical", "f8", unit="THz", origin=DERIVED, meaning="lowest other mode at Gamma"),
    Field("min_frequency_near_gamma", "f8", unit="THz", origin=DERIVED,
          meaning="lowest of three branches, nearer to Gamma than half of the nearest "
                  "commensurate q"),
    Field("max_frequency", "f8", unit="THz", origin=DERIVED,
          meaning="highest frequency seen anywhere"),
    Field("dimensionality", "i4", origin=DERIVED,
          meaning="0 molecules, 1 chains, 2 layers, 3 a network of bonds, relaxed; -1 unknown"),
    Field("vacuum", "f8", unit="angstrom", origin=DERIVED,
          meaning="widest gap between atomic planes, relaxed"),
    Field("modes_left_out", "f8", origin=DERIVED,
          meaning="share of mesh modes under the cut-off frequency"),
    Field("mesh_change", "f8", unit="kJ/mol", origin=DERIVED,
          meaning="free energy per atom, against half the mesh"),
)


def thermal_fields(ntemperatures: int) -> tuple[Field, ...]:
    """Return the fields of thermal properties, of so many temperatures."""
    thermal = (ntemperatures,)
    return (
        Field("free_energy", "f8", thermal, unit="kJ/mol", origin=DERIVED,
              meaning="Helmholtz, of the primitive cell"),
        Field("entropy", "f8", thermal, unit="J/K/mol", origin=DERIVED,
              meaning="of the primitive cell"),
        Field("heat_capacity", "f8", thermal, unit="J/K/mol", origin=DERIVED,
              meaning="C_V of the primitive cell"),
    )


THERMAL = tuple(field.name for field in thermal_fields(1))
"""Names of the columns whose values have an axis of temperatures."""
FORCE_CONSTANTS = (
    Field("derivative", "category", origin=COMPUTED,
          meaning="how force constants were had: displacement or response; empty of an import"),
    Field("response_columns", "i4", origin=COMPUTED,
          meaning="columns of linear response, each about a pass of the primitive cell; a "
                  "complex one counts as two"),
    Field("interpolation_error", "f8", unit="THz", origin=COMPUTED,
          meaning="largest difference of interpolated frequencies from computed ones, at "
                  "computed_qpoints; NaN where it was not looked at"),
    Field("elastic_constants", "f8", (6, 6), unit="GPa", origin=COMPUTED,
          meaning="relaxed atoms, Voigt's order, from linear response to strains; NaN without"),
    Field("lowest_stiffness", "f8", unit="GPa", origin=COMPUTED,
          meaning="their lowest eigenvalue (Mandel): positive by Born's criterion; NaN without"),
    Field("slowest_sound", "f8", unit="m/s", origin=COMPUTED,
          meaning="lowest velocity of sound in any direction, by the elastic constants; negative"
                  " where long waves grow, NaN without"),
    Field("displacements", "i4", origin=COMPUTED, meaning="displaced supercells"),
    Field("largest_drift", "f8", unit="eV/angstrom", origin=COMPUTED,
          meaning="largest mean force subtracted"),
    Field("symmetrisation_change", "f8", unit="eV/angstrom^2", origin=COMPUTED,
          meaning="largest change of a force constant by permutation symmetry and the sum rule"),
    Field("force_constants_decay", "f8", origin=DERIVED,
          meaning="largest force constant at half the supercell, over the largest of an atom on "
                  "itself"),
    Field("supercell_height", "f8", unit="angstrom", origin=DERIVED,
          meaning="lowest height of the supercell, across vacuum left out; NaN with vacuum on "
                  "all sides"),
    Field("force_noise", "f8", unit="eV/angstrom", origin=COMPUTED,
          meaning="standard deviation of a force component by rounding, from the laws that it "
                  "violates"),
    Field("nonlinearity", "f8", origin=COMPUTED,
          meaning="by so much, relatively, each pair of atoms may interact otherwise at no "
                  "displacement"),
    Field("roughness", "f8", origin=COMPUTED,
          meaning="share of the change from d to d/2 that is not 4 times that from d/2 to d/4; "
                  "0: analytic"),
)
SETTINGS_OF_SPECTRA = (
    Field("band_labels", "category", origin=DERIVED,
          meaning="JSON list of [first, last] of each segment"),
    Field("nac_params", "str", origin=COMPUTED, is_essential=True,
          meaning="JSON: Born charges of the primitive cell and dielectric tensor that are "
                  "applied; empty if none"),
)


def phonon_arrays(band_dtype: str, force_dtype: str) -> tuple[Field, ...]:
    """Return the ragged fields of phonons.

    Parameters
    ----------
    band_dtype, force_dtype : str
        Precision in which bands and forces are written.
    """
    return (
        Field("p2s_map", "i4", origin=COMPUTED, is_essential=True,
              meaning="primitive atoms in the supercell, as in phonopy"),
        Field("force_constants", "f8", (3, 3), unit="eV/angstrom^2", origin=COMPUTED,
              is_essential=True, stays_behind=True,
              meaning="compact: (primitive atoms, supercell atoms, 3, 3), the first two flattened"),
        Field("displacement_atoms", "i4", origin=COMPUTED, stays_behind=True,
              meaning="displaced atom of each supercell"),
        Field("displacement_vectors", "f8", (3,), unit="angstrom", origin=COMPUTED,
              stays_behind=True, meaning="its displacement"),
        Field("forces", np.dtype(force_dtype).str, (3,), unit="eV/angstrom", origin=COMPUTED,
              stays_behind=True,
              meaning="(displaced supercells, their atoms, 3), drift subtracted; empty unless "
                      "kept"),
        Field("band_qpoints", "f8", (3,), origin=DERIVED, meaning="reduced, of the primitive cell"),
        Field("band_segments", "i8", origin=DERIVED,
              meaning="first and end of each segment in band_qpoints"),
        Field("band_frequencies", np.dtype(band_dtype).str, unit="THz", origin=DERIVED,
              meaning="(band_qpoints, 3 x primitive atoms), flattened"),
        Field("commensurate_qpoints", "f8", (3,), origin=DERIVED,
              meaning="reduced, of the primitive cell"),
        Field("commensurate_frequencies", "f8", unit="THz", origin=DERIVED,
              meaning="(q, 3 x primitive atoms), flattened"),
        Field("computed_qpoints", "f8", (3,), origin=COMPUTED,
              meaning="other q that were computed one by one"),
        Field("computed_frequencies", "f8", unit="THz", origin=COMPUTED,
              meaning="(q, 3 x primitive atoms), flattened"),
        Field("computed_supercells", "i4", (3, 3), origin=COMPUTED,
              meaning="of each, of the primitive cell"),
        Field("mode_frequencies", "f8", unit="THz", origin=DERIVED,
              meaning="the lowest mode of each place, where imaginary"),
        Field("mode_qpoints", "f8", (3,), origin=DERIVED,
              meaning="its q, reduced, of the primitive cell"),
        Field("mode_eigenvectors", "f8", (3, 2), origin=DERIVED,
              meaning="(modes, primitive atoms, 3, 2), the first two flattened: real and imaginary "
                      "part"),
        Field("dos_frequencies", "f8", unit="THz", origin=DERIVED,
              meaning="of the density of states; empty unless kept"),
        Field("dos", "f8", unit="1/THz", origin=DERIVED,
              meaning="phonon density of states, of the primitive cell"),
    )
# fmt: on
