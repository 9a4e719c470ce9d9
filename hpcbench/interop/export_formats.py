"""The formats of an export by name. Loads nothing: the command line lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format of an export.

    Attributes
    ----------
    ending : str
        What is put behind the store's name where no path is given; a dash begins the name of a
        folder.
    text : str
        What it is, for people.
    streams : bool
        Whether it can go to standard output.
    """

    ending: str
    text: str
    streams: bool = False


FORMATS = {
    "csv": Format(".csv", "the table", streams=True),
    "json": Format(".json", "the table, a list of objects", streams=True),
    "parquet": Format(".parquet", "the table (needs pyarrow)"),
    "extxyz": Format(".extxyz", "relaxed crystals with energy, stress and verdict"),
    "forces": Format(
        "-forces.extxyz",
        "displaced supercells with their forces, as training data (of a run with --keep-forces)",
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
        "what PhononBench's scripts write: labels, relaxed CIF, force constants, summary",
    ),
}
