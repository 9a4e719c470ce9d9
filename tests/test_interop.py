"""Exports read by the programs that they are for; what others computed gives the same verdicts."""

from __future__ import annotations

import bz2
import json
import warnings
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

import hpcbench
from hpcbench.cli import main
from hpcbench.criteria import CRITERIA
from hpcbench.errors import SourceError, StoreError
from hpcbench.interop.exporting import export
from hpcbench.interop.finding import find
from hpcbench.interop.importing import import_config, import_found
from hpcbench.store.reader import Store

MESH = (4, 4, 4)
VERDICTS = [criterion.column for criterion in CRITERIA]
SPECTRA = [f"min_frequency_{place}" for place in ("path", "commensurate", "mesh")]
SPECTRA += ["max_frequency", "modes_left_out"]


def some_metals() -> list[Atoms]:
    crystals = {
        "copper": bulk("Cu", a=3.7),
        "copper cell": bulk("Cu", a=3.6, cubic=True),
        "AuCu": Atoms("AuCu", [(0, 0, 0), (1.9, 1.9, 1.9)], cell=[3.8, 3.8, 3.8], pbc=True),
        "bcc": bulk("Ni", "bcc", a=2.7),
    }
    for name, atoms in crystals.items():
        atoms.info["name"] = name
    return list(crystals.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Metals, stable and not, with forces kept; and one crystal that cannot be computed."""
    path = tmp_path_factory.mktemp("exchange") / "metals.h5"
    settings = {"mesh": MESH, "dtype": "float64", "band_points": 31, "keep_forces": True}
    settings["supercell"] = (2, 2, 2)
    model = "ase.calculators.emt:EMT"
    hpcbench.run([*some_metals(), bulk("Si")], model=model, out=path, workers=0, **settings)
    opened = hpcbench.open(path)
    assert dict(opened.table["status"].value_counts()) == {"done": 4, "failed": 1}
    assert set(opened.table["verdict"]) == {"stable", "unstable", ""}
    return opened


def done(store: Store) -> list[str]:
    return list(store.table.index[store.table["status"] == "done"])


def exact_bands(store: Store, key: str) -> np.ndarray:
    """In double precision: a store keeps them in single."""
    qpoints = store.row(key)["band_qpoints"]
    return np.sort(store.phonopy(key).run_qpoints(qpoints).frequencies, axis=1)


def assert_same_bands(got: np.ndarray, expected: np.ndarray, atol: float) -> None:
    """Within ``atol`` THz; acoustic modes at Gamma are roots of rounding errors."""
    zero = np.abs(expected) < 1e-3
    np.testing.assert_allclose(got[~zero], expected[~zero], rtol=0, atol=atol)
    np.testing.assert_allclose(got[zero], expected[zero], atol=1e-5)


def imported(source: Path | str, out: Path, **flags: Any) -> tuple[Store, Any]:
    found = find([str(source)])
    config = import_config(found, {"out": str(out), "workers": 0, **flags}, None)
    result = import_found(found, config)
    return Store(out), result


def folder_of(store: Store, root: Path, key: str) -> Path:
    (folder,) = root.glob(f"*-{key}")
    return folder


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_tables_read_back(store: Store, tmp_path: Path, kind: str) -> None:
    import pandas

    if kind == "parquet":
        pytest.importorskip("pyarrow")
    assert export(store, kind, tmp_path / "table") == 5
    table = getattr(pandas, f"read_{kind}")(tmp_path / "table")
    assert list(table["id"]) == store.ids
    np.testing.assert_allclose(
        table["min_frequency_path"].astype(float), store.table["min_frequency_path"], atol=1e-9
    )


def test_extxyz_has_the_relaxed_crystals_and_their_results(store: Store, tmp_path: Path) -> None:
    assert export(store, "extxyz", tmp_path / "t.extxyz") == 4
    for frame in read(tmp_path / "t.extxyz", ":"):
        row = store.row(frame.info["id"])
        assert frame.info["verdict"] == row["verdict"]
        assert frame.get_potential_energy() == pytest.approx(row["energy"], abs=1e-8)
        np.testing.assert_allclose(frame.get_stress(voigt=False), row["stress"], atol=1e-8)
        np.testing.assert_allclose(frame.positions, row["relaxed_positions"], atol=1e-8)


def test_forces_are_those_of_the_displaced_supercells(store: Store, tmp_path: Path) -> None:
    assert export(store, "forces", tmp_path / "f.extxyz") == 4
    frames = read(tmp_path / "f.extxyz", ":")
    assert len(frames) == store.table["displacements"].sum()
    for frame in frames:
        assert "energy" not in frame.calc.results
        given = frame.get_forces()
        frame.calc = EMT()
        # Eight decimals of the positions.
        np.testing.assert_allclose(given, frame.get_forces(), atol=1e-6)


def test_forces_that_were_not_kept_are_said_so(tmp_path: Path) -> None:
    path = tmp_path / "bare.h5"
    hpcbench.run(
        [bulk("Cu")], model="ase.calculators.emt:EMT", out=path, workers=0, mesh=MESH,
        supercell=(2, 2, 2),
    )  # fmt: skip
    with pytest.raises(StoreError, match="--keep-forces"):
        export(hpcbench.open(path), "forces", tmp_path / "f.extxyz")
    assert [p.name for p in tmp_path.iterdir() if "f.extxyz" in p.name] == []


def test_cif_in_one_file_and_in_many(store: Store, tmp_path: Path) -> None:
    assert export(store, "cif", tmp_path / "all.cif") == 4
    assert export(store, "cif", tmp_path / "each") == 4
    together = read(tmp_path / "all.cif", ":")
    for key, frame in zip(done(store), together, strict=True):
        (path,) = (tmp_path / "each").glob(f"*-{key}.cif")
        row = store.row(key)
        lengths = np.linalg.norm(row["relaxed_cell"], axis=1)
        for atoms in (frame, read(path)):
            np.testing.assert_array_equal(atoms.numbers, row["numbers"])
            np.testing.assert_allclose(atoms.cell.lengths(), lengths, atol=1e-12)
        assert f"data_{path.stem}" in path.read_text()


def test_phonopy_loads_what_was_exported_and_has_equal_bands(store: Store, tmp_path: Path) -> None:
    import phonopy
    import yaml

    assert export(store, "phonopy", tmp_path / "p") == 4
    for key in done(store):
        folder = folder_of(store, tmp_path / "p", key)
        names = {path.name for path in folder.iterdir()}
        assert names == {"phonopy.yaml", "force_constants.hdf5", "FORCE_SETS", "band.yaml"}
        row, bands = store.row(key), exact_bands(store, key)
        loaded = phonopy.load(
            folder / "phonopy.yaml",
            force_constants_filename=folder / "force_constants.hdf5",
            force_sets_filename=folder / "FORCE_SETS",
            log_level=0,
        )
        np.testing.assert_array_equal(loaded.primitive.p2s_map, row["p2s_map"])
        np.testing.assert_array_equal(loaded.force_constants, store.force_constants(key))
        got = loaded.run_qpoints(row["band_qpoints"]).frequencies
        np.testing.assert_allclose(np.sort(got, axis=1), bands, atol=1e-9)
        # The same again from the forces.
        loaded.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
        loaded.symmetrize_force_constants(show_drift=False)
        got = loaded.run_qpoints(row["band_qpoints"]).frequencies
        # Ten decimals of the forces over 0.01 A; the root of what is nearly zero at Gamma.
        assert np.abs(np.sort(got, axis=1) ** 2 - bands**2).max() < 1e-5
        written = yaml.safe_load((folder / "band.yaml").read_text())
        frequencies = [[b["frequency"] for b in p["band"]] for p in written["phonon"]]
        assert_same_bands(np.sort(frequencies, axis=1), bands, atol=1e-9)
        assert written["labels"] == json.loads(row["band_labels"])
        distances = np.concatenate(store.bands(key).distances)
        got = [point["distance"] for point in written["phonon"]]
        np.testing.assert_allclose(got, distances, atol=1e-7)


def test_pymatgen_loads_the_band_structure(store: Store, tmp_path: Path) -> None:
    from monty.serialization import loadfn
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine

    assert export(store, "pymatgen", tmp_path / "b") == 4
    for key in done(store):
        (path,) = (tmp_path / "b").glob(f"*-{key}.json")
        line = loadfn(path)
        assert isinstance(line, PhononBandStructureSymmLine)
        np.testing.assert_allclose(line.bands.T, exact_bands(store, key), atol=1e-9)
        assert len(line.branches) == len(json.loads(store.row(key)["band_labels"]))
        # pymatgen's distances are in 2 pi/A.
        distances = np.concatenate(store.bands(key).distances) * 2 * np.pi
        np.testing.assert_allclose(line.distance, distances, atol=1e-9)
        unstable = store.row(key)["min_frequency_path"] < -0.001
        assert line.has_imaginary_freq(tol=0.001) == unstable
        assert len(line.structure) == len(store.row(key)["p2s_map"])


@pytest.mark.parametrize("kind", ["phonopy", "phononbench"])
@pytest.mark.parametrize("protocol", ["robust", "phononbench"])
def test_an_exported_store_imported_again_is_the_same(
    store: Store, tmp_path: Path, kind: str, protocol: str
) -> None:
    if protocol != "robust":
        path = tmp_path / "literal.h5"
        settings = {"protocol": protocol, "mesh": MESH, "dtype": "float64", "band_points": 31}
        model = "ase.calculators.emt:EMT"
        hpcbench.run(some_metals(), model=model, out=path, workers=0, fmax=0.05, **settings)
        store = hpcbench.open(path)
    export(store, kind, tmp_path / "e")
    again, result = imported(tmp_path / "e", tmp_path / "again.h5")
    assert (result.done, result.differ) == (4, 0)
    assert again.settings["protocol"] == protocol
    # Fifteen decimals in a YAML file; all of them in HDF5.
    keys = done(again)
    for old in done(store):
        old_row = store.row(old)
        name = old_row["name"].replace(" ", "_")
        (key,) = (k for k in keys if again.row(k)["name"] in (name, f"{name}-{old}"))
        new = again.row(key)
        for column in (*VERDICTS, "verdict", "spacegroup", "displacements"):
            assert new[column] == old_row[column], column
        for column in (*SPECTRA, "free_energy", "heat_capacity", "band_qpoints"):
            np.testing.assert_allclose(new[column], old_row[column], atol=1e-6, err_msg=column)
        assert_same_bands(exact_bands(again, key), exact_bands(store, old), atol=1e-9)
        np.testing.assert_allclose(
            again.force_constants(key), store.force_constants(old), atol=1e-12
        )
    if kind == "phononbench":
        assert result.agree == 4
        assert result.without_phonons == len(store) - 4


def test_a_filter_and_names_choose_what_is_exported(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(store.path), str(tmp_path / "t.csv")
    assert main(["export", path, "--where", "verdict == 'stable'", "-o", out]) == 0
    stable = (store.table["verdict"] == "stable").sum()
    assert f"{stable} crystals" in capsys.readouterr().out
    words = ["export", path, "--id", "copper", store.find("bcc")[:8]]
    assert main([*words, "--format", "phonopy", "-o", str(tmp_path / "p")]) == 0
    assert len(list((tmp_path / "p").glob("*-*"))) == 2
    assert main(["export", path, "--id", "gold", "-o", out]) == 2
    assert "no crystal 'gold'" in capsys.readouterr().err
    assert main(["export", path, "--where", "nonsense ==", "-o", out]) == 2
    assert main(["export", path, "--format", "cif", "-o", "-"]) == 2
    assert "give -o PATH" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "forces", "cif", "phonopy", "phononbench", "pymatgen"])
def test_export_that_cannot_be_written_is_one_sentence(
    store: Store, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        export(store, kind, tmp_path / "file" / "below")


# --- what others wrote ---


def phononbench_run(root: Path, crystals: dict[str, Atoms], part: str) -> dict[str, np.ndarray]:
    """What phonon_multi_gpu_run.py leaves, computed by hand; frequencies by name."""
    outputs = root / "phonon-calculation-output" / part
    relaxed = root / "relaxed" / part
    for folder in (outputs, relaxed, root / "phonon-calculation-input"):
        folder.mkdir(parents=True, exist_ok=True)
    labels, frequencies = [("broken_1", "unStable")], {}
    for name, atoms in crystals.items():
        answer = by_hand.phononbench(atoms, EMT())
        given = answer.phonon.replicate()
        given.save(root / "given.yaml", settings={"force_constants": False})
        packed = bz2.compress((root / "given.yaml").read_bytes())
        (root / "given.yaml").unlink()
        (root / "phonon-calculation-input" / f"{name}.yaml.bz2").write_bytes(packed)
        answer.phonon.save(outputs / f"{name}.yaml", settings={"force_constants": True})
        write(relaxed / f"{name}_relaxed.cif", answer.atoms)
        frequencies[name] = answer.frequencies
        labels.append((name, "unStable" if (answer.frequencies < -1e-3).any() else "Stable"))
    text = "".join(f"{name}\t{label}\n" for name, label in sorted(labels))
    (relaxed / "Lable.txt").write_text(text)
    (outputs / "1Top-summary.txt").write_text(
        "GPU 0, Sub-part 0 Summary:\n\nFailed structures and reasons:\nbroken_1: too few atoms\n"
    )
    return frequencies


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Two generators, whose crystals have the same names."""
    root = tmp_path_factory.mktemp("PhononBench")
    metals = some_metals()
    first = {"gen_0": metals[0], "gen_1": metals[1]}
    second = {"gen_0": metals[3], "gen_2": metals[2]}
    expected = {}
    for place, crystals in (("DiffCSP-gen", first), ("MatterGen-gen", second)):
        for name, values in phononbench_run(root / place, crystals, "gpu0_part0").items():
            expected[f"{place}/{name}"] = values
    return root, expected


def test_phononbenchs_folders_give_the_labels_that_its_scripts_gave(
    benchmark: tuple[Path, dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, expected = benchmark
    out = tmp_path / "imported.h5"
    words = ["import", str(root), "--out", str(out), "--mesh", "4", "4", "4", "--workers", "2"]
    words += ["--keep-dos"]
    assert main(words) == 1  # there are labels without phonons
    said = capsys.readouterr().out
    assert "4 of 4 labels agree" in said
    assert "2 labels are of crystals without phonons" in said
    store = hpcbench.open(out)
    assert store.settings["protocol"] == "phononbench"
    assert store.settings["model"] == "imported"
    assert len(store) == 6
    seen = set()
    for result in store:
        if result.status != "done":
            assert result.name == "broken_1"
            assert result.reason == "no force constants: too few atoms"
            assert result.row["imported_label"] == "unStable"
            continue
        ((file, _, _),) = json.loads(result.row["origins"])
        key = f"{Path(file).relative_to(root).parts[0]}/{result.name}"
        seen.add(key)
        label = result.row["imported_label"]
        assert result.verdict == result.verdicts["phononbench"] == label.lower()
        assert (label == "unStable") == bool((expected[key] < -1e-3).any())
        assert_same_bands(exact_bands(store, result.id), expected[key], atol=1e-9)
        assert len(result.row["dos"])
    assert seen == set(expected)
    assert {r.row["imported_label"] for r in store if r.status == "done"} == {"Stable", "unStable"}


def test_files_of_old_phonopy_have_the_cell_that_their_program_took(
    benchmark: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Before version 4, phonopy wrote no primitive matrix for the cell as it is."""
    root, expected = benchmark
    text = (root / "DiffCSP-gen/phonon-calculation-output/gpu0_part0/gen_1.yaml").read_text()
    before, _, after = text.partition("primitive_matrix:\n")
    rows = after.splitlines(keepends=True)
    assert all(row.startswith("-") for row in rows[:3])
    (tmp_path / "old.yaml").write_text(before + "".join(rows[3:]))
    literal, _ = imported(tmp_path, tmp_path / "a.h5", mesh=MESH, protocol="phononbench")
    assert_same_bands(
        exact_bands(literal, literal.ids[0]), expected["DiffCSP-gen/gen_1"], atol=1e-9
    )
    assert len(literal.row(literal.ids[0])["p2s_map"]) == 4
    robust, _ = imported(tmp_path, tmp_path / "b.h5", mesh=MESH, protocol="robust")
    assert len(robust.row(robust.ids[0])["p2s_map"]) == 1
    highest = [store.table["max_frequency"].item() for store in (literal, robust)]
    assert highest[0] == pytest.approx(highest[1], abs=1e-3)


def test_a_single_crystals_folder_of_phononbench(
    benchmark: tuple[Path, dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As phonon_from_cif_single.py leaves it."""
    root, _ = benchmark
    source = root / "DiffCSP-gen"
    (tmp_path / "one").mkdir()
    for old, new in (
        ("phonon-calculation-output/gpu0_part0/gen_0.yaml", "Cu_phonopy_fc.yaml"),
        ("relaxed/gpu0_part0/gen_0_relaxed.cif", "Cu_relaxed.cif"),
        ("phonon-calculation-input/gen_0.yaml.bz2", "Cu.yaml.bz2"),
    ):
        (tmp_path / "one" / new).write_bytes((source / old).read_bytes())
    (tmp_path / "one" / "summary.txt").write_text("Structure: Cu\nStatus: Unstable\n")
    store, result = imported(tmp_path / "one", tmp_path / "one.h5", mesh=MESH)
    assert (result.total, result.done) == (1, 1)
    # The label is wrong, and said to be.
    assert (result.agree, result.differ, result.different) == (0, 1, ["Cu"])
    assert store.table["imported_label"].item() == "Unstable"
    assert main(["show", "Cu", "--store", str(store.path)]) == 0
    shown = capsys.readouterr().out
    assert "Unstable, as it came with the import" in shown
    assert "nan" not in shown


def test_published_folders_without_phonons_keep_crystals_and_labels(tmp_path: Path) -> None:
    folder = tmp_path / "relaxed" / "gpu0_part0"
    folder.mkdir(parents=True)
    write(folder / "a b_relaxed.cif", bulk("Cu"))
    (folder / "Label.txt").write_text("a b\tStable\ngone\tunStable\nno label\n")
    store, result = imported(tmp_path, tmp_path / "s.h5")
    assert (result.done, result.without_phonons) == (0, 2)
    assert result.reasons == {"no force constants": 2}
    table = store.table.set_index("name")
    assert table.loc["a b", ["formula", "imported_label"]].tolist() == ["Cu", "Stable"]
    assert table.loc["gone", "imported_label"] == "unStable"


def test_a_relaxed_crystal_that_is_another_one_is_refused(
    benchmark: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    source = benchmark[0] / "DiffCSP-gen" / "phonon-calculation-output" / "gpu0_part0"
    (tmp_path / "x.yaml").write_bytes((source / "gen_0.yaml").read_bytes())
    write(tmp_path / "x_relaxed.cif", bulk("Al"))
    _, result = imported(tmp_path, tmp_path / "s.h5")
    assert result.reasons == {"relaxed CIF": 1}


def test_bad_files_are_rows_with_a_reason(store: Store, tmp_path: Path) -> None:
    key = store.find("copper")
    export(store[[key]], "phononbench", tmp_path / "e")
    (good,) = (tmp_path / "e").rglob("*.yaml")
    text = good.read_text()
    folder = tmp_path / "bad"
    folder.mkdir()
    at = text.index("force_constants:\n")
    (folder / "good.yaml").write_text(text)
    (folder / "empty.yaml").write_text("")
    (folder / "other.yaml").write_text("a: 1\n")
    (folder / "syntax.yaml").write_text("unit_cell: [\n")
    (folder / "cut.yaml").write_text(text[: at + 1000])
    (folder / "short.yaml").write_text(text[:at] + text[at:].replace("  shape: [", "  shape: [ 7,"))
    # Half of all masses: an isotope that nobody knows, but a mass.
    (folder / "isotope.yaml").write_text(text.replace("mass: 63", "mass: 31"))
    (folder / "heavy.yaml").write_text(text.replace("mass: 63", "mass: -63"))
    (folder / "nan.yaml").write_text(text[:at] + text[at:].replace("[  ", "[ nan 0", 1))
    (folder / "broken.yaml.bz2").write_bytes(bz2.compress(text.encode())[:-100])
    (folder / "nothing").mkdir()
    (folder / "nothing" / "phonopy_disp.yaml").write_text(text[: text.index("displacements:\n")])
    (folder / "sets").mkdir()
    (folder / "sets" / "phonopy_disp.yaml").write_text(text[: text.index("displacements:\n")])
    (folder / "sets" / "FORCE_SETS").write_text("3\n1\n\n1\n0.01 0 0\n0 0 0\n0 0 0\n0 0 0\n")
    again, _ = imported(folder, tmp_path / "bad.h5", mesh=MESH)
    reasons = again.table.set_index("name")["reason"]
    assert {name: reason.partition(":")[0] for name, reason in reasons.items()} == {
        "good": "",
        "empty": "no structure",
        "other": "no structure",
        "syntax": "syntax",
        "cut": "force constants",
        "short": "force constants",
        "isotope": "",
        "heavy": "masses",
        "nan": "force constants",
        "broken": "file",
        "nothing": "no force constants",
        "sets": "forces",
    }
    good_row, isotope = (again.row(again.find(name)) for name in ("good", "isotope"))
    assert isotope["max_frequency"] / good_row["max_frequency"] == pytest.approx(
        np.sqrt(63.546 / 31.546), rel=1e-6
    )
    assert good_row["id"] != isotope["id"]
    with pytest.raises(StoreError, match="exists"):
        imported(folder, tmp_path / "bad.h5")
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="no phonon calculation"):
        imported(tmp_path / "none", tmp_path / "none.h5")
    with pytest.raises(SourceError, match="There is no file or folder"):
        imported(tmp_path / "missing", tmp_path / "none.h5")
    with pytest.raises(StoreError, match="cannot write"):
        imported(folder, tmp_path / "no" / "folder.h5")


# --- real files, other people's ---

FORCE_SETS = ("NaCl", "MgO", "SnO2", "CaTiO3", "SiO2-HP", "ZnO", "MgB2", "Al2O3")


@pytest.fixture(scope="module")
def dft(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = reference_data / "phonons"
    sources = [str(folder / "phonopy" / "example" / name) for name in FORCE_SETS]
    sources += [str(folder / "mdr" / "mp-1000.yaml.bz2")]
    found = find(sources)
    out = tmp_path_factory.mktemp("dft") / "dft.h5"
    config = import_config(found, {"out": str(out), "mesh": MESH, "workers": 0}, None)
    result = import_found(found, config)
    assert result.done == result.total == len(FORCE_SETS) + 1
    assert result.with_nac >= 5
    return Store(out)


@pytest.mark.reference
def test_dft_force_sets_give_phonopys_own_frequencies(dft: Store, reference_data: Path) -> None:
    import phonopy

    example = reference_data / "phonons" / "phonopy" / "example"
    for result in dft:
        if result.name not in FORCE_SETS:
            continue
        row = result.row
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phonopy speaks of its own defaults
            theirs = phonopy.load(
                example / result.name / "phonopy_disp.yaml",
                force_sets_filename=example / result.name / "FORCE_SETS",
                is_nac=False,
                produce_fc=False,
                log_level=0,
            )
            forces = np.array(theirs.forces)
            theirs.forces = forces - forces.mean(axis=1, keepdims=True)
            theirs.produce_force_constants(show_drift=False)
            theirs.symmetrize_force_constants(show_drift=False, use_symfc_projector=False)
        bands = np.sort(theirs.run_qpoints(row["band_qpoints"]).frequencies, axis=1)
        # With Born charges: tests/test_nac.py.
        without = dft.versions(result.id)[-1]
        # The file rounds the masses to six decimals.
        assert_same_bands(exact_bands(dft, without), bands, atol=1e-6)
        assert row["displacements"] == len(forces)
        unstable = row["min_frequency_commensurate"] < -0.5
        assert unstable == (result.name == "CaTiO3")


@pytest.mark.reference
def test_force_constants_in_a_file_are_taken_as_they_are(dft: Store, reference_data: Path) -> None:
    import yaml

    path = reference_data / "phonons" / "mdr" / "mp-1000.yaml.bz2"
    published = yaml.load(bz2.decompress(path.read_bytes()), getattr(yaml, "CSafeLoader"))  # noqa: B009
    row = dft.row(dft.find("mp-1000"))
    # Its frequencies are those on the mesh 2 x 2 x 2 with Gamma, in another order of q.
    mesh = np.array(np.meshgrid(*3 * [[0, 0.5]])).reshape(3, -1).T
    ours = np.sort(dft.phonopy(row["id"]).run_qpoints(mesh).frequencies.ravel())
    assert_same_bands(ours, np.sort(np.ravel(published["phonon_freq"])), atol=1e-9)
    assert (row["verdict"], row["formula"]) == ("stable", "Ba4Te4")
    assert row["nac_params"] == ""
    assert np.isnan(row["energy"])
    assert np.isnan(row["noise_path"])


@pytest.mark.reference
def test_units_of_other_codes_are_converted(reference_data: Path, tmp_path: Path) -> None:
    """Quantum ESPRESSO's file is in Bohr and Rydberg."""
    import phonopy

    path = reference_data / "phonons/phonopy/test/phonopy_params_NaCl-QE.yaml.xz"
    store, _ = imported(path, tmp_path / "qe.h5", mesh=MESH)
    row = store.row(store.find("NaCl-QE"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = phonopy.load(path, log_level=0)
    got = np.sort(theirs.run_qpoints(row["commensurate_qpoints"]).frequencies, axis=1).ravel()
    away = got > 0.1
    np.testing.assert_allclose(row["commensurate_frequencies"][away], got[away], atol=1e-4)
    assert row["relaxed_cell"][0, 0] == pytest.approx(5.7, abs=0.1)


@pytest.mark.reference
def test_an_imported_store_is_intact(dft: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(dft.path)]) == 0
    assert main(["status", str(dft.path), "--exit-code"]) == 0


@pytest.mark.reference
def test_random_displacements_are_fitted_by_symfc(reference_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("symfc")
    import phonopy

    path = reference_data / "phonons" / "phonopy/test/phonopy_params_NaCl-rd.yaml.xz"
    store, _ = imported(path, tmp_path / "rd.h5", mesh=MESH, keep_forces=True)
    row = store.row(store.find("NaCl-rd"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = phonopy.load(path, log_level=0)
    bands = np.sort(theirs.run_qpoints(row["band_qpoints"]).frequencies, axis=1)
    # The file rounds the masses to six decimals.
    assert_same_bands(exact_bands(store, row["id"]), bands, atol=1e-6)
    assert row["displacements"] == len(theirs.dataset["displacements"])
