"""Born charges, of imports and of a run's crystals: what phonopy itself makes of them."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import phonopy
import pytest
from ase.io import read
from conftest import DEMO
from phonopy import Phonopy
from phonopy.physical_units import get_calculator_physical_units
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import get_primitive, get_supercell

from hpcbench import born
from hpcbench.cli import main
from hpcbench.criteria import PLACES, Criterion
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError
from hpcbench.interop.exporting import export
from hpcbench.interop.finding import find
from hpcbench.interop.importing import Imported, import_config, import_found
from hpcbench.phonons.noise import Uncertainty
from hpcbench.phonons.spectrum import frequencies_at, frequencies_on_path
from hpcbench.sources import SourceFile, Unreadable, read_file
from hpcbench.store.physics import deviations
from hpcbench.store.reader import Store

MESH = (4, 4, 4)
EPSILON = np.diag([2.5, 2.5, 2.5])
CHARGE = {11: 1.0, 17: -1.0}


@pytest.fixture(autouse=True)
def silent_phonopy() -> Iterator[None]:
    """It speaks of its own defaults having changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def imported(sources: list[str], out: Path, **flags: Any) -> tuple[Store, Imported]:
    found = find(sources)
    settings = {"out": str(out), "workers": 0, "mesh": MESH, "band_dtype": "float64"}
    settings["criterion"] = "phononbench"
    config = import_config(found, settings | flags, None)
    result = import_found(found, config)
    return Store(out), result


def assert_phonopys(row: Mapping[str, Any], theirs: Phonopy) -> None:
    """Bands, mesh and verdicts of a row are those that phonopy computes by its own calls."""
    edges = row["band_segments"]
    theirs.run_band_structure(
        [row["band_qpoints"][first:end] for first, end in itertools.pairwise(edges)]
    )
    bands = np.sort(np.concatenate(theirs.band_structure.frequencies), axis=1)
    ours = np.reshape(row["band_frequencies"], bands.shape)
    # Acoustic modes at Gamma are roots of rounding errors, negative and positive.
    zero = np.abs(bands) < 1e-3
    np.testing.assert_allclose(ours[~zero], bands[~zero], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[zero], bands[zero], rtol=0, atol=1e-5)
    theirs.run_mesh(MESH)
    mesh = theirs.mesh.frequencies
    assert row["min_frequency_mesh"] == pytest.approx(mesh.min(), abs=1e-6)
    assert row["max_frequency"] == pytest.approx(max(mesh.max(), bands.max()), abs=1e-6)
    assert row["min_frequency_path"] == pytest.approx(bands.min(), abs=1e-5)
    for criterion, frequencies, threshold in (
        ("phononbench", bands, -0.001),
        ("phononbench_v3", bands, -0.1),
        ("mesh", mesh, -0.1),
    ):
        stable = (frequencies >= threshold).all()
        assert row[f"verdict_{criterion}"] == ("stable" if stable else "unstable")


# --- DFT, other people's ---

SETS = ("NaCl", "MgO", "SnO2", "SiO2-HP", "ZnO", "Al2O3")
FILES = ("NaCl-QE", "TiPN3")
NAMES = (*SETS, *FILES)


@pytest.fixture(scope="module")
def dft(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = reference_data / "phonons" / "phonopy"
    sources = [str(folder / "example" / name) for name in SETS]
    sources += [str(folder / "test" / f"phonopy_params_{name}.yaml.xz") for name in FILES]
    store, result = imported(sources, tmp_path_factory.mktemp("nac") / "nac.h5")
    assert (result.total, result.done, result.with_nac) == (len(NAMES),) * 3
    assert "SiO2-HP (unstable without)" in result.changed
    return store


def loaded(folder: Path, name: str) -> Phonopy:
    """A calculation by phonopy's own reader, with Born charges."""
    if name in FILES:
        theirs = phonopy.load(
            folder / "test" / f"phonopy_params_{name}.yaml.xz", produce_fc=False, log_level=0
        )
    else:
        theirs = phonopy.load(
            folder / "example" / name / "phonopy_disp.yaml",
            force_sets_filename=folder / "example" / name / "FORCE_SETS",
            born_filename=folder / "example" / name / "BORN",
            produce_fc=False,
            log_level=0,
        )
    forces = np.array(theirs.forces)
    theirs.forces = forces - forces.mean(axis=1, keepdims=True)
    theirs.produce_force_constants(show_drift=False)
    theirs.symmetrize_force_constants(show_drift=False, use_symfc_projector=False)
    assert theirs.nac_params is not None
    return theirs


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_dft_with_born_charges_is_phonopys_with_and_without(
    name: str, dft: Store, reference_data: Path
) -> None:
    theirs = loaded(reference_data / "phonons" / "phonopy", name)
    key = dft.find(name)
    assert dft.versions(key) == [key, f"{key}:without-nac"]
    row, without = dft.row(key), dft.row(f"{key}:without-nac")
    assert_phonopys(row, theirs)
    assert_phonopys(dft.row(key), dft.phonopy(key))
    theirs.nac_params = None
    assert_phonopys(without, theirs)
    assert_phonopys(without, dft.phonopy(without["id"]))
    assert (without["parent"], without["again"], without["nac_params"]) == (key, "without-nac", "")
    assert abs(row["max_frequency"] - without["max_frequency"]) > 1e-3


@pytest.mark.reference
def test_sio2_is_stable_with_its_born_charges(
    dft: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    key = dft.find("SiO2-HP")
    row, without = dft.row(key), dft.row(f"{key}:without-nac")
    assert (row["verdict"], without["verdict"]) == ("stable", "unstable")
    assert row["min_frequency_path"] == pytest.approx(0.0, abs=1e-3)
    assert without["min_frequency_path"] == pytest.approx(-0.517, abs=1e-3)
    assert abs(row["gamma_acoustic"]) < 1e-4
    assert main(["show", key, "--store", str(dft.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "applied: non-analytic correction by Gonze-Lee" in shown
    words = "without Born charges: unstable, lowest on the path -0.5172 THz"
    assert f"{key}:without-nac {words}" in shown
    assert main(["show", f"{key}:without-nac", "--store", str(dft.path)]) == 0
    assert "-0.5172 THz" in capsys.readouterr().out


@pytest.mark.reference
def test_an_import_with_born_charges_is_intact_and_can_be_analysed_again(
    tmp_path: Path, reference_data: Path
) -> None:
    folder = reference_data / "phonons" / "phonopy"
    path, out = tmp_path / "s.h5", tmp_path / "again.h5"
    store, _ = imported([str(folder / "example" / "SiO2-HP")], path)
    assert main(["verify", str(path)]) == 0
    words = ["--out", str(out), "--workers", "0", "--mesh", "6", "6", "6", "--band-points", "21"]
    assert main(["reanalyse", str(path), *words]) == 0
    again = Store(out)
    assert again.ids == store.ids
    theirs = loaded(folder, "SiO2-HP")
    (key,) = again.ids
    for one, verdict in ((key, "stable"), (f"{key}:without-nac", "unstable")):
        assert again.row(one)["verdict"] == verdict
        theirs.run_mesh([6, 6, 6])
        lowest = theirs.mesh.frequencies.min()
        assert again.row(one)["min_frequency_mesh"] == pytest.approx(lowest, abs=1e-6)
        theirs.nac_params = None


# --- a run's crystals ---


def salt() -> Phonopy:
    """NaCl in its cubic cell; the first atoms are not those of the primitive cell."""
    atoms = read(DEMO / "NaCl_start_strained.cif")
    primitive = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions)
    cell = get_supercell(primitive, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    sodium, chlorine = (np.flatnonzero(cell.numbers == number) for number in CHARGE)
    order = np.concatenate([sodium[:2], chlorine, sodium[2:]])
    shuffled = PhonopyAtoms(
        numbers=cell.numbers[order], cell=cell.cell, positions=cell.positions[order]
    )
    return Phonopy(shuffled, supercell_matrix=np.diag([2, 2, 2]), primitive_matrix="F")


def nac_of(phonon: Phonopy) -> dict[str, Any]:
    """Made-up charges of plus and minus one."""
    charges = [CHARGE[int(number)] * np.eye(3) for number in phonon.primitive.numbers]
    return {"born": np.array(charges), "dielectric": EPSILON}


def born_text(phonon: Phonopy) -> str:
    """A BORN file with the symmetrically different atoms of the primitive cell."""
    lines = ["default", EPSILON, *nac_of(phonon)["born"]]
    return "\n".join(" ".join(map(str, np.ravel(line))) for line in lines) + "\n"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One crystal three times: with charges in the file, beside it, and without."""
    folder = tmp_path_factory.mktemp("sources")
    phonon = salt()
    for name in ("beside", "plain"):
        (folder / name).mkdir()
        phonon.save(folder / name / "phonopy_disp.yaml")
    (folder / "beside" / "BORN").write_text(born_text(phonon))
    (folder / "inside").mkdir()
    phonon.nac_params = nac_of(phonon)
    phonon.save(folder / "inside" / "phonopy.yaml")
    return folder


def record_of(path: Path) -> Crystal:
    (record,) = read_file(SourceFile(str(path), explicit=True))
    assert isinstance(record, Crystal), record
    return record


def test_charges_decide_the_id_of_a_crystal_and_only_they(sources: Path) -> None:
    inside = record_of(sources / "inside" / "phonopy.yaml")
    beside = record_of(sources / "beside" / "phonopy_disp.yaml")
    plain = record_of(sources / "plain" / "phonopy_disp.yaml")
    assert plain.nac_params is None
    # As it always was.
    assert plain.id == Crystal.from_ase(plain.to_ase()).id
    assert inside.id != plain.id
    assert inside.nac_params is not None and beside.nac_params is not None
    for crystal in (inside, beside):
        charges = crystal.nac_params["born"]
        expected = [CHARGE[int(number)] * np.eye(3) for number in crystal.numbers]
        np.testing.assert_allclose(charges, expected, atol=1e-12)
    coulomb = get_calculator_physical_units("vasp").nac_factor
    assert inside.nac_params["factor"] == pytest.approx(coulomb, rel=1e-12)
    # The same charges from the one place and the other are the same crystal.
    assert beside.id == inside.id
    twice = {**inside.nac_params, "born": 2 * inside.nac_params["born"]}
    other = Crystal.from_arrays("", (), inside.cell, inside.positions, inside.numbers, None, twice)
    assert other.id not in (inside.id, plain.id)


def test_a_run_applies_the_charges_of_its_crystals(sources: Path, tmp_path: Path) -> None:
    settings = {
        # The plain crystal has no history then.
        "interpolation-error": 0,
        "model": "mattersim-demo", "dtype": "float64", "mesh": "4 4 4", "band-points": "31",
        "supercell": "2 2 2", "workers": "0", "out": tmp_path / "salt.h5",
        "config": tmp_path / "settings.toml",
    }  # fmt: skip
    (tmp_path / "settings.toml").write_text('band_dtype = "float64"\n')
    words = [word for key, value in settings.items() for word in (f"--{key}", *str(value).split())]
    assert main(["run", str(sources), "--keep-forces", *words]) == 0
    store = Store(tmp_path / "salt.h5")
    assert len(store) == 2
    key = record_of(sources / "inside" / "phonopy.yaml").id
    plain = record_of(sources / "plain" / "phonopy_disp.yaml").id
    assert set(store.ids) == {key, plain}
    assert store.versions(key)[-1] == f"{key}:without-nac"
    assert store.versions(plain) == [plain]
    row, without = store.row(key), store.row(f"{key}:without-nac")
    natoms = len(row["numbers"]) * 8
    theirs = Phonopy(
        PhonopyAtoms(
            numbers=row["numbers"], cell=row["relaxed_cell"], positions=row["relaxed_positions"]
        ),
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix=row["primitive_matrix"],
    )
    forces = np.reshape(row["forces"], (-1, natoms, 3))
    displaced = zip(row["displacement_atoms"], row["displacement_vectors"], forces, strict=True)
    theirs.dataset = {
        "natom": natoms,
        "first_atoms": [
            {"number": int(atom), "displacement": vector, "forces": force}
            for atom, vector, force in displaced
        ],
    }
    theirs.produce_force_constants(show_drift=False)
    theirs.symmetrize_force_constants(show_drift=False, use_symfc_projector=False)
    assert_phonopys(without, theirs)
    assert_phonopys(store.row(plain), theirs)
    theirs.nac_params = nac_of(theirs) | {
        "factor": get_calculator_physical_units("vasp").nac_factor
    }
    assert_phonopys(row, theirs)
    assert row["max_frequency"] > without["max_frequency"] + 0.5
    assert (row["verdict"], without["parent"]) == ("stable", key)
    assert not list(deviations(row, 1e-5)) and not list(deviations(without, 1e-5))
    _goes_round(store, key, tmp_path)
    _analysed_again(store, key, tmp_path)


def _goes_round(store: Store, key: str, folder: Path) -> None:
    """phonopy's own files bring the charges along."""
    assert export(store[[key]], "phonopy", folder / "exported") == 1
    (written,) = (folder / "exported").glob(f"*-{key}")
    theirs = phonopy.load(
        written / "phonopy.yaml",
        force_constants_filename=written / "force_constants.hdf5",
        log_level=0,
    )
    assert_phonopys(store.row(key), theirs)
    back, result = imported([str(folder / "exported")], folder / "back.h5")
    assert (result.done, result.with_nac) == (1, 1)
    (again,) = back.ids
    for one, other in zip(back.versions(again), (key, f"{key}:without-nac"), strict=True):
        got, expected = back.row(one), store.row(other)
        assert got["max_frequency"] == pytest.approx(expected["max_frequency"], abs=1e-6)
        assert got["verdict_mesh"] == expected["verdict_mesh"]


def _analysed_again(store: Store, key: str, folder: Path) -> None:
    out = folder / "again.h5"
    words = ["--out", str(out), "--workers", "0", "--band-points", "31"]
    assert main(["reanalyse", str(store.path), *words]) == 0
    for one in (key, f"{key}:without-nac"):
        got, expected = Store(out).row(one), store.row(one)
        np.testing.assert_allclose(got["band_frequencies"], expected["band_frequencies"], atol=1e-5)
        assert got["nac_params"] == expected["nac_params"]


def on_springs(spring: float) -> Phonopy:
    """Salt in which each atom is held to its place, as made-up forces have it."""
    phonon = salt()
    # So long that noise makes little of force constants, far less than charges.
    phonon.generate_displacements(distance=10.0, is_diagonal=False)
    rng = np.random.default_rng(0)
    forces = 1e-3 * rng.standard_normal((len(phonon.displacements), len(phonon.supercell), 3))
    for entry, found in zip(phonon.dataset["first_atoms"], forces, strict=True):
        found[entry["number"]] -= spring * np.asarray(entry["displacement"])
    phonon.forces = forces - forces.mean(axis=1, keepdims=True)
    phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    return phonon


def test_noise_is_that_of_the_forces_alone() -> None:
    """Charges are no noise: they do not add to how far that of forces moves frequencies."""
    phonon = on_springs(2.0)
    spreads = []
    for nac in (None, nac_of(phonon) | {"factor": 14.4}):
        phonon.nac_params = nac
        spectrum = frequencies_at(phonon, np.array([[0.02, 0.0, 0.0], [0.1, 0.2, 0.3]]))
        spectra = dict.fromkeys(PLACES, spectrum)
        noise = Uncertainty(phonon).noise(10.0, spectra, (Criterion("near", "mesh", 0.0),))
        spreads.append(noise.deviation["mesh"].max())
    assert spreads[1] == pytest.approx(spreads[0], rel=0.5)


def test_soft_optical_modes_are_not_taken_for_acoustic_in_any_direction() -> None:
    """With a soft polar mode, the longitudinal one of three is above the acoustic ones."""
    phonon = on_springs(-0.3)
    phonon.nac_params = nac_of(phonon) | {"factor": 14.4}
    path = np.array([[0.0, 0.0, 0.0], [0.25, 0.0, 0.25], [0.5, 0.0, 0.5]])
    spectrum = frequencies_on_path(phonon, path, np.array([0, 3]))
    at_gamma, acoustic = spectrum.frequencies[0], spectrum.at_gamma[0]
    assert (at_gamma[:2] < -0.5).all() and at_gamma[5] > 0.5
    assert acoustic.tolist() == [False, False, True, True, True, False]
    assert np.abs(at_gamma[acoustic]).max() < 0.01
    assert not spectrum.at_gamma[1:].any()


def test_charges_follow_the_atoms_of_a_cell_and_of_its_primitive_cell() -> None:
    phonon = salt()
    rng = np.random.default_rng(2)
    params = {"born": rng.standard_normal((2, 3, 3)), "dielectric": EPSILON}
    supercell = get_supercell(phonon.unitcell, np.eye(3, dtype=int))
    primitive = get_primitive(supercell, phonon.primitive_matrix)
    of_cell = born.of_cell(params, primitive, supercell)
    of_number = dict(zip(primitive.numbers.tolist(), params["born"], strict=True))
    expected = [of_number[int(number)] for number in phonon.unitcell.numbers]
    np.testing.assert_array_equal(of_cell["born"], expected)
    # Of a larger supercell, whose atoms phonopy has in another order.
    back = born.of_primitive(of_cell, phonon.primitive, phonon.supercell)
    expected = [of_number[int(number)] for number in phonon.primitive.numbers]
    np.testing.assert_array_equal(back["born"], expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("default\n", "line 2"),
        ("default\n1 0 0 0 1 0 0 0 1\n1 0 0 0 1 0 0 0 1\n", "not enough"),
        ("default\n-1 0 0 0 1 0 0 0 1\n" + 2 * "1 0 0 0 1 0 0 0 1\n", "not positive"),
        ("default\n2 0 0 0 2 0 0 0 2\n" + 2 * "nan 0 0 0 1 0 0 0 1\n", "finite"),
        ("default\n2 0 0 0 2 0 0 0 2\n" + 3 * "1 0 0 0 1 0 0 0 1\n", "Too many"),
    ],
)
def test_charges_that_cannot_be_used_are_a_reason(text: str, why: str, tmp_path: Path) -> None:
    salt().save(tmp_path / "phonopy_disp.yaml")
    (tmp_path / "BORN").write_text(text)
    (record,) = read_file(SourceFile(str(tmp_path / "phonopy_disp.yaml"), explicit=True))
    assert isinstance(record, Unreadable)
    assert record.kind == "Born charges" and why in record.message and "BORN" in record.message
    store, result = imported([str(tmp_path)], tmp_path / "s.h5")
    assert result.reasons == {"Born charges": 1}
    assert why in store.table["reason"].item()


def test_charges_of_another_cell_are_refused() -> None:
    phonon = salt()
    params = {"born": np.zeros((3, 3, 3)), "dielectric": EPSILON}
    units = get_calculator_physical_units("vasp")
    with pytest.raises(CrystalError, match="3 atoms, but the primitive cell has 2"):
        born.read_nac_params(params, None, phonon.primitive, units)


@pytest.mark.parametrize("code", ["vasp", "qe", "abinit", "siesta", "wien2k", "cp2k", "elk"])
def test_factor_is_the_same_in_the_units_of_any_code(code: str) -> None:
    units = get_calculator_physical_units(code)
    phonon = salt()
    params = born.read_nac_params(nac_of(phonon), None, phonon.primitive, units)
    assert params is not None
    coulomb = get_calculator_physical_units("vasp").nac_factor
    assert params["factor"] == pytest.approx(coulomb, rel=1e-6)


def test_what_an_older_version_kept_is_not_applied() -> None:
    kept = {"born": np.eye(3)[None].tolist(), "dielectric": np.eye(3).tolist(), "factor": 14.4}
    assert born.from_json(json.dumps(kept)) is None
    assert born.from_json("") is None
    params = born.from_json(born.to_json(kept | {"method": "gonze"}))
    assert params is not None and params["born"].shape == (1, 3, 3)
