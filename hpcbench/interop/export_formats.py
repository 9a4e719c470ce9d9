"""Names of the export formats.

This module imports nothing heavy, since the command line lists the formats.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format of an export.

    Attributes
    ----------
    ending : str
        Added to the store's name if no path is given; a leading dash marks the name of a folder.
    text : str
        Description for people.
    streams : bool
        Whether it can be written to standard output.
    """

    ending: str
    text: str
    streams: bool = False


TRAINING = "training"

FORMATS = {
    "csv": Format(".csv", "the table", streams=True),
    "json": Format(".json", "the table, a list of objects", streams=True),
    "parquet": Format(".parquet", "the table (needs pyarrow)"),
    "extxyz": Format(".extxyz", "relaxed crystals with energy, stress and verdict"),
    "forces": Format(
        "-forces.extxyz",
        "displaced supercells with their forces, as training data (of a run with --keep-forces)",
    ),
    TRAINING: Format(
        "-training",
        "perturbed supercells of the relaxed crystals, with energies, forces and stresses by the "
        "store's potential, in parts for training, validation and test",
    ),
    "cif": Format("-cif", "relaxed crystals, a folder with a file for each; one file for FILE.cif"),
    "phonopy": Format(
        "-phonopy",
        "a folder for each crystal: phonopy.yaml, force_constants.hdf5, band.yaml, and FORCE_SETS "
        "where forces were kept",
    ),
    "band-yaml": Format("-bands", "phonopy's band.yaml of each crystal"),
    "pymatgen": Format("-pymatgen", "PhononBandStructureSymmLine of each crystal, as JSON"),
    "phononbench": Format(
        "-phononbench",
        "files of PhononBench's scripts: labels, relaxed CIF, force constants, summary",
    ),
}
