"""DFT force sets of other people through the whole analysis: the numbers of phonopy, and verdicts.

As in the folders of phonopy, symfc and spgrep-modulation; ``min-frequencies.csv`` beside them has
the lowest frequencies as an overview. All are brought into phonopy's YAML, imported into a store,
and compared with phonopy itself, which computes full force constants and symmetrises them once.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import phonopy
import pytest
from phonopy.file_IO import parse_FORCE_SETS
from phonopy.interface.vasp import read_vasp
from phonopy.structure.atoms import PhonopyAtoms

import hpcbench
from hpcbench.config import RunConfig
from hpcbench.interop.finding import find
from hpcbench.interop.importing import import_config, import_found
from hpcbench.phonons.character import AT_COMMENSURATE, AT_GAMMA, BETWEEN, CLEAN, NEAR_GAMMA

pytestmark = [pytest.mark.reference, pytest.mark.slow]

# Supercells and primitive cells of phonopy's tests (test/phonon/test_irreps.py); the file has none.
BODY = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
BASE = np.array([[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]])
BARE = {
    "P2": ((3, 2, 2), np.eye(3)),
    "Amm2": ((3, 2, 2), BASE),
    "Pc": ((2, 2, 2), np.eye(3)),
    "P222_1": ((2, 2, 1), np.eye(3)),
    "P4_1": ((2, 2, 1), np.eye(3)),
    "P-4": ((1, 1, 2), np.eye(3)),
    "I4_1a": ((2, 2, 1), BODY),
    "P4mm": ((3, 3, 2), np.eye(3)),
    "P-42_1m": ((2, 2, 3), np.eye(3)),
    "P3m1": ((4, 4, 2), np.eye(3)),
    "P-3m1": ((3, 3, 2), np.eye(3)),
    "P31m": ((1, 1, 3), np.eye(3)),
    "P6": ((2, 2, 1), np.eye(3)),
    "P6_222": ((2, 2, 2), np.eye(3)),
    "P-6": ((1, 1, 3), np.eye(3)),
    "P-6m2": ((2, 2, 3), np.eye(3)),
    "P-62m": ((1, 1, 2), np.eye(3)),
    "P2_13": ((2, 2, 2), np.eye(3)),
    "Pa-3": ((2, 2, 2), np.eye(3)),
    "P-43m": ((2, 2, 2), np.eye(3)),
    "P4_332": ((1, 1, 1), np.eye(3)),
}
PAIRS = (
    "NaCl", "MgO", "SnO2", "TiO2-anatase", "CaTiO3", "SiO2-HP", "MgB2", "ZnO", "Al2O3", "Cr",
)  # fmt: skip
FILES = (
    "phonopy/test/phonopy_SrTiO3.yaml.xz",
    "phonopy/test/phonopy_params_Si.yaml",
    "phonopy/test/phonopy_params_TiPN3.yaml.xz",
    "phonopy/test/phonopy_params_Zr3N4.yaml",
    "phonopy/example/KCl-SSCHA/phonopy_fc222_JPCM2022.yaml.xz",
    "phonopy/example/KCl-SSCHA/phonopy_fc444_JPCM2022.yaml.xz",
    "symfc/tests/phonopy_GaN_222_rd.yaml.xz",
    "symfc/tests/phonopy_GaN_442_rd.yaml.xz",
    "symfc/tests/phonopy_NaCl_222_rd.yaml.xz",
    "symfc/tests/phonopy_SiO2_221_rd.yaml.xz",
    "symfc/tests/phonopy_SiO2_222_rd.yaml.xz",
    "symfc/tests/phonopy_SnO2_222_rd.yaml.xz",
    "symfc/tests/phonopy_SnO2_223_rd.yaml.xz",
    "spgrep-modulation/tests/phonopy_64_R_to_12.yaml",
    "spgrep-modulation/tests/phonopy_mp-1265.yaml.xz",
    "spgrep-modulation/tests/phonopy_mp-149.yaml.xz",
    "spgrep-modulation/tests/phonopy_mp-2998.yaml.xz",
    "spgrep-modulation/tests/phonopy_mp-661.yaml.xz",
)
"""The others of the table are large, or the same material once more."""
LONG_WAVES = {"example ZnO", "Pc", "P6", "P6_222", "P4_332", "phonopy_GaN_222_rd"}
"""Stable, but for long acoustic waves on the path, where it leaves Gamma: -0.07 to -0.27 THz."""
TEMPERATURES = (0.0, 100.0, 300.0, 1000.0)
MESH = (6, 6, 6)


def stem(path: str) -> str:
    return Path(path).name.removesuffix(".xz").removesuffix(".yaml")


def saved_as(name: str) -> str:
    return name.replace(" ", "-").removeprefix("phonopy_").removeprefix("params_")


NAMES = (*(f"example {name}" for name in PAIRS), *BARE, *map(stem, FILES))


def load(folder: Path, name: str) -> phonopy.Phonopy:
    """With its forces, or with force constants where it came with them."""
    options = {"is_nac": False, "produce_fc": False, "log_level": 0}
    if name.startswith("example "):
        here = folder / "phonopy" / "example" / name.removeprefix("example ")
        return phonopy.load(
            here / "phonopy_disp.yaml", force_sets_filename=here / "FORCE_SETS", **options
        )
    if name in BARE:
        here = folder / "phonopy" / "test" / "phonon"
        supercell, primitive = BARE[name]
        phonon = phonopy.Phonopy(
            read_vasp(here / f"POSCAR_{name}"), np.diag(supercell), primitive_matrix=primitive
        )
        phonon.dataset = parse_FORCE_SETS(filename=here / f"FORCE_SETS_{name}")
        return phonon
    (path,) = (path for path in FILES if stem(path) == name)
    return phonopy.load(folder / path, **options)


@pytest.fixture(scope="module")
def saved(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy speaks of its own defaults
        for name in NAMES:
            phonon = load(reference_data / "phonons", name)
            has_forces = phonon.dataset is not None
            phonon.save(
                folder / f"{saved_as(name)}.yaml",
                settings={"force_sets": has_forces, "force_constants": not has_forces},
            )
    return folder


@pytest.fixture(scope="module")
def store(saved: Path) -> hpcbench.Store:
    found = find([str(saved)])
    flags = {
        "out": str(saved / "known.h5"), "mesh": MESH, "temperatures": TEMPERATURES,
        "band_points": 31, "band_dtype": "float64", "workers": 2,
    }  # fmt: skip
    imported = import_found(found, import_config(found, flags, None))
    assert imported.done == imported.total == len(NAMES), imported.reasons
    return hpcbench.open(saved / "known.h5")


@pytest.fixture(scope="module")
def table(reference_data: Path) -> dict[str, dict[str, str]]:
    with (reference_data / "phonons" / "min-frequencies.csv").open() as stream:
        lines = {line["tag"]: line for line in csv.DictReader(stream)}
    return {stem(tag.removeprefix("test/phonon/")): line for tag, line in lines.items()}


def row_of(store: hpcbench.Store, name: str) -> dict[str, Any]:
    return store.row(store.find(saved_as(name)))


def by_phonopy(path: Path) -> phonopy.Phonopy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = phonopy.load(path, is_nac=False, produce_fc=False, log_level=0)
        if theirs.force_constants is None and "first_atoms" in theirs.dataset:
            forces = np.array(theirs.forces)
            theirs.forces = forces - forces.mean(axis=1, keepdims=True)
            theirs.produce_force_constants(show_drift=False)
            theirs.symmetrize_force_constants(show_drift=False, use_symfc_projector=False)
        elif theirs.force_constants is None:
            theirs.produce_force_constants(fc_calculator="symfc", show_drift=False)
        # A store has the elements' masses; one of the files has 28.09 for silicon.
        theirs.masses = PhonopyAtoms(
            symbols=theirs.primitive.symbols, cell=np.eye(3), positions=theirs.primitive.positions
        ).masses
    return theirs


@pytest.mark.parametrize("name", NAMES)
def test_spectra_and_thermal_properties_are_phonopys(
    name: str, saved: Path, store: hpcbench.Store
) -> None:
    pytest.importorskip("symfc")
    row = row_of(store, name)
    theirs = by_phonopy(saved / f"{saved_as(name)}.yaml")
    for place in ("band", "commensurate"):
        wanted = np.sort(theirs.run_qpoints(row[f"{place}_qpoints"]).frequencies, axis=1)
        ours = np.reshape(row[f"{place}_frequencies"], wanted.shape)
        # Squares: at Gamma acoustic frequencies are roots of rounding.
        squares = ours * np.abs(ours) - wanted * np.abs(wanted)
        assert np.abs(squares).max() < 1e-6 * max(1.0, np.abs(wanted).max())
        away = np.abs(wanted) > 0.1
        assert np.abs(ours - wanted)[away].max() < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.run_mesh(MESH)
    cutoff = RunConfig().resolved().cutoff_frequency
    thermal = theirs.run_thermal_properties(temperatures=TEMPERATURES, cutoff_frequency=cutoff)
    for name_of in ("free_energy", "entropy", "heat_capacity"):
        np.testing.assert_allclose(row[name_of], getattr(thermal, name_of), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_kind_of_instability_is_that_of_the_table(
    name: str, store: hpcbench.Store, table: dict[str, dict[str, str]]
) -> None:
    pytest.importorskip("symfc")
    tag = f"example/{name.removeprefix('example ')}" if name.startswith("example ") else name
    published = table.get(tag) or table[stem(tag)]
    mesh = float(published["min_freq_mesh"])
    commensurate = float(published["min_freq_commensurate"])
    row = row_of(store, name)
    kinds = set(row["character"].split(", "))
    if commensurate < -0.1:
        assert kinds <= {AT_GAMMA, AT_COMMENSURATE}
        assert row["verdict_loew"] == row["verdict_phononbench"] == "unstable"
        assert row["verdict_exact_q"] == "unstable"
    elif mesh < -0.1:
        # The path and the mesh of 6 x 6 x 6 see what the table's dense mesh sees.
        assert kinds <= {BETWEEN, NEAR_GAMMA}
        assert row["verdict_loew"] == "stable"
        assert row["verdict_phononbench"] == "unstable"
        assert row["min_frequency_commensurate"] > -1e-3
        # Nothing can be computed here: the suspicion stays one.
        assert row["verdict_exact_q"] == "undetermined"
    else:
        assert kinds == ({NEAR_GAMMA} if name in LONG_WAVES else {CLEAN})
        assert row["verdict_mesh"] == "stable"
        lowest = min(row["min_frequency_path"], row["min_frequency_mesh"])
        assert row["verdict_exact_q"] == ("stable" if lowest >= -0.1 else "undetermined")
        assert (row["verdict_phononbench"] == "stable") == (name not in LONG_WAVES)


def test_all_three_kinds_are_among_them(
    store: hpcbench.Store, table: dict[str, dict[str, str]]
) -> None:
    pytest.importorskip("symfc")
    counts = store.table["character"].value_counts()
    assert counts[CLEAN] > 20
    assert counts[[kind for kind in counts.index if kind in (BETWEEN, NEAR_GAMMA)]].sum() > 5
    assert counts[[kind for kind in counts.index if AT_COMMENSURATE in kind]].sum() > 4
