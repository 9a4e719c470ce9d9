"""The table of export formats: one entry for each, and one function that writes it.

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
        Added to the store's name if no path is given.
    text : str
        Description for people.
    writer : str
        ``module:function``. The function is given the store and the file or folder to write, and
        returns the number of crystals written. Empty where there is more to know (``TRAINING``).
    is_folder : bool
        Whether a folder is written.
    streams : bool
        Whether it can be written to standard output.
    """

    ending: str
    text: str
    writer: str
    is_folder: bool = False
    streams: bool = False


TRAINING = "training"
"""The format that has options of its own (``training_recipe.py``)."""

_HERE = "hpcbench.interop"

FORMATS = {
    "csv": Format(".csv", "the table", f"{_HERE}.tables:write_csv", streams=True),
    "json": Format(
        ".json", "the table, a list of objects", f"{_HERE}.tables:write_json", streams=True
    ),
    "parquet": Format(".parquet", "the table (needs pyarrow)", f"{_HERE}.tables:write_parquet"),
    "extxyz": Format(
        ".extxyz",
        "relaxed crystals with energy, stress and verdict",
        f"{_HERE}.frames:write_extxyz",
    ),
    "forces": Format(
        "-forces.extxyz",
        "displaced supercells with their forces, as training data (of a run with --keep-forces)",
        f"{_HERE}.frames:write_forces",
    ),
    TRAINING: Format(
        "-training",
        "perturbed supercells of the relaxed crystals, with energies, forces and stresses by the "
        "store's potential, in parts for training, validation and test",
        "",
        is_folder=True,
    ),
    "cif": Format(
        "-cif",
        "relaxed crystals, a folder with a file for each; one file for FILE.cif",
        f"{_HERE}.frames:write_cifs",
        is_folder=True,
    ),
    "phonopy": Format(
        "-phonopy",
        "a folder for each crystal: phonopy.yaml, force_constants.hdf5, band.yaml, and FORCE_SETS "
        "where forces were kept",
        f"{_HERE}.phonopy_files:write_folders",
        is_folder=True,
    ),
    "band-yaml": Format(
        "-bands",
        "phonopy's band.yaml of each crystal",
        f"{_HERE}.phonopy_files:write_band_files",
        is_folder=True,
    ),
    "pymatgen": Format(
        "-pymatgen",
        "PhononBandStructureSymmLine of each crystal, as JSON",
        f"{_HERE}.band_structure:write_symmetry_lines",
        is_folder=True,
    ),
    "phononbench": Format(
        "-phononbench",
        "files of PhononBench's scripts: labels, relaxed CIF, force constants, summary",
        f"{_HERE}.phononbench:write_folders",
        is_folder=True,
    ),
}
