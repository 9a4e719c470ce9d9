"""Potentials against references: both spectra in one store, and a reason for what is not compared.

Most references here are made with phonopy and a potential of ASE: a validation of the same
potential must find no error.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from launching import SLOW, in_file, mpiexec, slow_potential, take

from hpcbench.analysis.accuracy.summary import summary_of
from hpcbench.cli import main
from hpcbench.config_loading import load_config
from hpcbench.errors import ConfigError, UsageError
from hpcbench.origin import Origin
from hpcbench.planning.crystal_list import read_share
from hpcbench.references.finding import KIND, files_of, find_references
from hpcbench.references.values import ROOM_TEMPERATURE, values_in, values_of
from hpcbench.store.reader import Store

MODEL = "ase.calculators.emt:EMT"
QUICK = ["--dtype", "float64", "--mesh", "6", "6", "6", "--device", "cpu", "--workers", "0"]
QUICK += ["--band-points", "21", "--no-report"]
LENGTH = 0.03
AT = 3  # of 300 K among the temperatures


def gold_copper() -> Atoms:
    return Atoms("AuCu3", [(0, 0, 0), (0, 1.9, 1.9), (1.9, 0, 1.9), (1.9, 1.9, 0)], cell=[3.8] * 3)


def reference_by_phonopy(
    atoms: Atoms,
    *,
    supercell: tuple[int, int, int] = (2, 2, 2),
    primitive_matrix: Any = "auto",
    snapshots: int | None = None,
    plusminus: Any = "auto",
) -> Any:
    """A calculation by phonopy itself, with forces by ASE."""
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        numbers=atoms.numbers, cell=atoms.cell[:], scaled_positions=atoms.get_scaled_positions()
    )
    with warnings.catch_warnings():
        # It warns that its default has changed.
        warnings.simplefilter("ignore")
        phonon = phonopy.Phonopy(
            cell, supercell_matrix=supercell, primitive_matrix=primitive_matrix
        )
    if snapshots is None:
        phonon.generate_displacements(distance=LENGTH, is_plusminus=plusminus)
    else:
        phonon.generate_displacements(distance=LENGTH, number_of_snapshots=snapshots, random_seed=1)
    forces = []
    for one in phonon.supercells_with_displacements:
        displaced = Atoms(
            numbers=one.numbers, cell=one.cell, scaled_positions=one.scaled_positions, pbc=True
        )
        displaced.calc = EMT()
        forces.append(displaced.get_forces())
    phonon.forces = np.array(forces)
    return phonon


def save(phonon: Any, path: Path, **settings: bool) -> Path:
    """Write phonopy's YAML, compressed by the ending of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name("saved-by-phonopy.tmp")
    asked = {"force_sets": True, "displacements": True, "force_constants": False, **settings}
    phonon.save(plain, settings=asked)
    content = plain.read_bytes()
    plain.unlink()
    packed = {".xz": lzma.compress, ".bz2": bz2.compress, ".gz": gzip.compress}
    path.write_bytes(packed.get(path.suffix, bytes)(content))
    return path


def validated(
    out: Path, *references: Path, words: tuple[str, ...] = (), code: int = 0, model: str = MODEL
) -> Store:
    arguments = ["validate", "--reference", *map(str, references), "--out", str(out)]
    assert main([*arguments, "--model", model, *QUICK, *words]) == code
    return Store(out)


def both(store: Store, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    key = store.find(name)
    return store.row(key), store.row(f"{key}:reference")


def assert_same_phonons(ours: dict[str, Any], theirs: dict[str, Any], atol: float) -> None:
    np.testing.assert_allclose(ours["band_qpoints"], theirs["band_qpoints"], atol=1e-12)
    ours_squared, theirs_squared = (
        np.asarray(row["band_frequencies"], dtype=float) * np.abs(row["band_frequencies"])
        for row in (ours, theirs)
    )
    np.testing.assert_allclose(ours_squared, theirs_squared, atol=20 * atol)
    assert ours["max_frequency"] == pytest.approx(theirs["max_frequency"], abs=atol)
    for name in ("free_energy", "entropy", "heat_capacity"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=100 * atol)


def test_the_potential_of_the_reference_has_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In all the forms that databases have: a file for each crystal, or a folder for each."""
    folder = tmp_path / "references"
    save(reference_by_phonopy(bulk("Cu", cubic=True)), folder / "copper.yaml.xz")
    save(reference_by_phonopy(bulk("Al")), folder / "aluminium.yaml.bz2")
    save(reference_by_phonopy(gold_copper()), folder / "gold-copper" / "phonopy_params.yaml.gz")
    nickel = reference_by_phonopy(bulk("Ni", a=3.5))
    nickel.produce_force_constants()
    save(nickel, folder / "nickel.yaml", force_sets=False, force_constants=True)
    silver = reference_by_phonopy(bulk("Ag"), plusminus=False)
    # Forces beside the file, as VASP's users have them.
    save(silver, folder / "silver" / "phonopy_disp.yaml", force_sets=False)
    from phonopy.file_IO import write_FORCE_SETS

    write_FORCE_SETS(silver.dataset, filename=folder / "silver" / "FORCE_SETS")
    store = validated(tmp_path / "s.h5", folder, words=("--protocol", "lee-xia"))
    assert dict(store.table["status"].value_counts()) == {"done": 5}
    assert list(store.references.table["parent"]) == store.ids
    for name in store.table["name"]:
        ours, theirs = both(store, name)
        assert theirs["again"] == "reference"
        assert_same_phonons(ours, theirs, 2e-4 if name == "nickel" else 1e-5)
        np.testing.assert_allclose(ours["relaxed_cell"], theirs["relaxed_cell"], atol=1e-9)
        np.testing.assert_array_equal(ours["primitive_matrix"], theirs["primitive_matrix"])
        # The reference's displacements, not those of the run's setting.
        lengths = np.linalg.norm(ours["displacement_vectors"], axis=1)
        np.testing.assert_allclose(lengths, LENGTH, atol=1e-9)
        np.testing.assert_allclose(ours["displacement_vectors"], theirs["displacement_vectors"])
        assert ours["relaxation_steps"] == 0
        assert np.isnan(theirs["energy"])
    assert len(both(store, "silver-phonopy_disp")[0]["displacement_vectors"]) == 1
    told = summary_of(store)
    assert (told.crystals, told.compared, told.frequencies, told.reasons) == (5, 5, 5, ())
    assert told.error < 1e-4
    said = capsys.readouterr().out
    assert "compared with references: 5 of 5 crystals" in said
    assert "mean absolute error of the highest frequency at commensurate q: 0.0000 THz" in said
    assert f"hpcbench accuracy {tmp_path / 's.h5'}" in said
    assert main(["verify", str(tmp_path / "s.h5")]) == 0


def test_sets_in_which_all_atoms_move(tmp_path: Path) -> None:
    """Both sides are fitted by symfc, to forces on the same supercells."""
    pytest.importorskip("symfc")
    phonon = reference_by_phonopy(gold_copper(), snapshots=6)
    path = save(phonon, tmp_path / "random.yaml.xz")
    store = validated(tmp_path / "s.h5", path, words=("--protocol", "lee-xia"))
    ours, theirs = both(store, "random")
    assert ours["displacements"] == theirs["displacements"] == 6
    assert_same_phonons(ours, theirs, 1e-5)
    # Not the spectrum of single displacements, which are as long, but of other directions.
    single = save(reference_by_phonopy(gold_copper()), tmp_path / "single.yaml")
    other = validated(tmp_path / "o.h5", single, words=("--protocol", "lee-xia"))
    difference = both(other, "single")[0]["max_frequency"] - ours["max_frequency"]
    assert 1e-4 < abs(difference) < 0.3


def test_loew_relaxes_from_the_cell_of_the_reference(tmp_path: Path) -> None:
    stretched = bulk("Cu", a=3.62, cubic=True)
    path = save(reference_by_phonopy(stretched, supercell=(3, 2, 2)), tmp_path / "copper.yaml")
    store = validated(tmp_path / "full.h5", path)
    assert (store.settings["protocol"], store.settings["validate"]) == ("loew", True)
    assert store.settings["cutoff_frequency"] == 0.0
    ours, theirs = both(store, "copper")
    np.testing.assert_allclose(theirs["relaxed_cell"], stretched.cell[:], atol=1e-9)
    assert ours["relaxed_cell"][0, 0] == pytest.approx(3.59, abs=0.01)
    assert ours["fmax"] < 0.005
    assert ours["relaxation_steps"] > 0
    for row in (ours, theirs):
        np.testing.assert_array_equal(row["supercell_matrix"], np.diag([3, 2, 2]))
        np.testing.assert_allclose(
            np.linalg.norm(row["displacement_vectors"], axis=1), LENGTH, atol=1e-9
        )
    # A stretched crystal is softer.
    assert 0.05 < ours["max_frequency"] - theirs["max_frequency"] < 1.0
    fixed = validated(tmp_path / "fixed.h5", path, words=("--relax", "positions"))
    mine, given = both(fixed, "copper")
    np.testing.assert_allclose(mine["relaxed_cell"], given["relaxed_cell"], atol=1e-9)
    assert mine["max_frequency"] == pytest.approx(given["max_frequency"], abs=1e-5)


def test_cell_and_energy_are_those_of_the_file(tmp_path: Path) -> None:
    phonon = reference_by_phonopy(bulk("Cu", cubic=True), primitive_matrix="P")
    path = save(phonon, tmp_path / "p.yaml")
    # As the files of Alexandria have it.
    path.write_text(f"energy: -14.25\n{path.read_text()}")
    store = validated(tmp_path / "s.h5", path)
    assert both(store, "p")[1]["energy"] == -14.25
    for row in both(store, "p"):
        np.testing.assert_allclose(row["primitive_matrix"], np.eye(3))
        assert row["heat_capacity"][AT] == pytest.approx(4 * 23.2, abs=2.0)


def permuted(phonon: Any) -> str:
    """A file whose supercell has two atoms exchanged."""
    lines = phonon_text(phonon).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("supercell:"))
    at = [i for i, line in enumerate(lines) if "coordinates" in line and i > start][:2]
    lines[at[0]], lines[at[1]] = lines[at[1]], lines[at[0]]
    return "\n".join(lines) + "\n"


def phonon_text(phonon: Any, **settings: bool) -> str:
    asked = {"force_sets": True, "displacements": True, "force_constants": False, **settings}
    where = Path(os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0] + ".tmp")
    phonon.save(where, settings=asked)
    text = where.read_text()
    where.unlink()
    return text


def bad_references(folder: Path) -> dict[str, str]:
    """Write references that cannot be compared with; return what their reasons contain."""
    folder.mkdir()
    gold, palladium = bulk("Au"), bulk("Pd")
    (folder / "no-forces.yaml").write_text(
        phonon_text(reference_by_phonopy(gold), force_sets=False)
    )
    (folder / "order.yaml").write_text(permuted(reference_by_phonopy(bulk("Pt"))))
    few = reference_by_phonopy(palladium)
    text = phonon_text(few)
    forces = [i for i, line in enumerate(text.splitlines()) if line.startswith("  - [")]
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() == "forces:")
    assert any(i > at for i in forces)
    del lines[at + 1]
    (folder / "few-forces.yaml").write_text("\n".join(lines) + "\n")
    born = reference_by_phonopy(bulk("Ag", a=4.0))
    born.nac_params = {"born": np.zeros((1, 3, 3)), "dielectric": np.eye(3), "factor": 14.4}
    save(born, folder / "born.yaml", born_effective_charge=True, dielectric_constant=True)
    # One displacement of a crystal without symmetry does not determine its force constants.
    rattled = gold_copper()
    rattled.rattle(0.05, seed=2)
    one = reference_by_phonopy(rattled)
    one.dataset = {
        "natom": one.dataset["natom"], "first_atoms": one.dataset["first_atoms"][:1]
    }  # fmt: skip
    save(one, folder / "one.yaml")
    (folder / "damaged.yaml").write_text("phonopy:\n  version: 4\nunit_cell: [1, 2\n")
    write(folder / "alone.cif", bulk("Al", a=4.1))
    save(reference_by_phonopy(bulk("Al", a=4.05)), folder / "packed.yaml")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.write(folder / "packed.yaml", "packed.yaml")
    (folder / "packed.yaml").unlink()
    silicon = bulk("Si")
    phonon = reference_by_phonopy(bulk("Ni", a=3.6))
    text = phonon_text(phonon).replace("symbol: Ni", "symbol: Si")
    (folder / "silicon.yaml").write_text(text.replace("mass: 58.6934", "mass: 28.0855"))
    assert len(silicon) == 2
    return {
        "no-forces": "neither force constants nor forces",
        "order": "supercell: the file's supercell is not the one that phonopy makes",
        "few-forces": "forces",
        "born": "Born charges: it has Born charges",
        "one": "do not determine force constants",
        "alone": "its source has neither",
        "packed": "unpack that",
    }


def test_a_bad_reference_has_its_reason_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "references"
    expected = bad_references(folder)
    copper = reference_by_phonopy(bulk("Cu"))
    save(copper, folder / "copper.yaml")
    # The same crystal in the same supercell.
    save(copper, folder / "copper-again.yaml.xz")
    words = ("--protocol", "lee-xia")
    # In a folder these two would be left out.
    named = (folder / "alone.cif", folder / "packed.zip")
    store = validated(tmp_path / "s.h5", folder, *named, words=words, code=1)
    table = store.table.set_index("name")
    references = store.references
    for name, part in expected.items():
        assert table.loc[name, "status"] == "failed", name
        assert table.loc[name, "reason"].startswith(f"{KIND}: "), name
        assert part in table.loc[name, "reason"], name
        row = references.row(f"{store.find(name)}:reference")
        assert (row["status"], row["reason"]) == ("failed", table.loc[name, "reason"])
    # What the potential does not know has a reference still.
    assert table.loc["silicon", "status"] == "failed"
    assert KIND not in table.loc["silicon", "reason"]
    assert both(store, "silicon")[1]["status"] == "done"
    assert table.loc["damaged", "status"] == "unreadable"
    (name,) = (one for one in table.index if one.startswith("copper"))
    assert table.loc[name, "status"] == "done"
    assert "reference there twice" in table.loc[name, "notes"]
    told = summary_of(store)
    assert (told.compared, told.frequencies) == (1, 1)
    assert sum(number for _, number in told.reasons) == told.crystals - 1
    kinds = Counter(table.loc[name, "reason"].split(": ")[1] for name in expected)
    assert not kinds - Counter(dict(told.reasons))
    assert told.error < 1e-5
    said = capsys.readouterr().out
    assert all(f"not compared: {kind}" in said for kind in kinds)
    # Born charges are left out where that is asked for.
    asked = validated(tmp_path / "b.h5", folder / "born.yaml", words=(*words, "--leave-out-born"))
    ours, theirs = both(asked, "born")
    assert (ours["nac_params"], theirs["nac_params"]) == ("", "")
    assert_same_phonons(ours, theirs, 1e-5)


def test_what_lies_beside_references_is_left_out(tmp_path: Path) -> None:
    for name in ("phonopy_disp.yaml", "POSCAR-unitcell", "relaxed.cif", "calculations.tar.xz"):
        (tmp_path / name).write_text("unit_cell: 1\nforces: 2\n" if "yaml" in name else "-")
    found = find_references([str(tmp_path)])
    assert [Path(file.path).name for file in found.files] == ["phonopy_disp.yaml"]
    assert "2 structures without phonons" in found.note()
    assert "1 archives, which have to be unpacked" in found.note()
    named = find_references([str(tmp_path / "relaxed.cif")])
    assert len(named.files) == 1


def test_a_relaxed_cell_of_less_symmetry_takes_displacements_of_its_own(tmp_path: Path) -> None:
    """The file's tolerance holds for the reference; a coarse cell is no less its own."""
    from hpcbench.phonons.phonon_result import PhononSettings
    from hpcbench.references.displaced import OTHER_DISPLACEMENTS, displace_like, without_forces

    settings = PhononSettings("auto", 0.01, 1e-5, 21, (4, 4, 4), (300.0,), 0.0)
    dataset = without_forces(reference_by_phonopy(gold_copper()).dataset)
    moved = gold_copper()
    moved.rattle(0.03, seed=1)
    moved.pbc = True
    done = displace_like(moved, 2 * np.eye(3, dtype=int), settings, dataset)
    assert done.note == OTHER_DISPLACEMENTS
    (copies,) = done.copies
    assert len(copies) > len((dataset or {})["first_atoms"])
    np.testing.assert_allclose(np.linalg.norm(copies.displacements, axis=1), LENGTH)


def test_a_store_is_a_reference(tmp_path: Path) -> None:
    folder = tmp_path / "dft"
    save(reference_by_phonopy(bulk("Cu")), folder / "copper.yaml")
    save(reference_by_phonopy(bulk("Al")), folder / "aluminium.yaml")
    words = ["--mesh", "6", "6", "6", "--band-points", "21", "--workers", "0"]
    imported = tmp_path / "imported.h5"
    assert main(["import", str(folder), "--out", str(imported), *words]) == 0
    store = validated(tmp_path / "s.h5", imported, words=("--protocol", "lee-xia"))
    direct = validated(tmp_path / "d.h5", folder, words=("--protocol", "lee-xia"))
    assert len(store) == 2
    for name in ("copper", "aluminium"):
        ours, theirs = both(store, name)
        assert theirs["parent"] == ours["id"]
        assert_same_phonons(ours, theirs, 1e-5)
        assert_same_phonons(theirs, both(direct, name)[1], 1e-9)
        assert ours["displacements"] == both(direct, name)[0]["displacements"]


def test_killed_and_continued_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "references"
    for name, a in (("one", 3.58), ("two", 3.6), ("three", 3.62), ("four", 3.64)):
        save(reference_by_phonopy(bulk("Cu", a=a)), folder / f"{name}.yaml")
    (folder / "bad.yaml").write_text("phonopy:\n  version: 4\nunit_cell: [1, 2\n")
    slow_potential(tmp_path, 0.0)
    words = ["validate", "--reference", "references", "--model", SLOW, "--protocol", "lee-xia"]
    words += [*QUICK, *in_file(commit_interval=0.1, block=1)]

    def command(out: str, ranks: int = 1) -> list[str]:
        start = mpiexec(ranks) if ranks > 1 else []
        return [*start, sys.executable, "-m", "hpcbench", *words, "--out", out]

    def run(out: str, ranks: int = 1) -> None:
        done = subprocess.run(
            command(out, ranks), cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert "compared with references: 4 of 5 crystals" in done.stdout

    run("whole.h5")
    take(tmp_path, 0.4)
    victim = subprocess.Popen(
        command("killed.h5"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    segments = tmp_path / "killed.h5.run" / "segments"
    for _ in range(600):
        if segments.is_dir() and [*segments.glob("segment-*.h5")]:
            break
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    killed = Store(tmp_path / "killed.h5")
    assert 0 < len(killed.finished_ids()) < 4
    # A reference is committed with its crystal.
    assert len(killed.references) == len(killed.finished_ids())
    killed.close()
    take(tmp_path, 0.0)
    run("killed.h5")
    run("ranks.h5", 2)
    whole = Store(tmp_path / "whole.h5")
    for out in ("killed.h5", "ranks.h5"):
        again = Store(tmp_path / out)
        assert sorted(again.ids) == sorted(whole.ids)
        for key in (*whole.ids, *whole.references.ids):
            one, other = whole.row(key), again.row(key)
            assert one["status"] == other["status"]
            for name in ("force_constants", "band_frequencies", "heat_capacity", "parent"):
                np.testing.assert_array_equal(one[name], other[name])


def test_labels_of_tables_survive_into_the_store(tmp_path: Path) -> None:
    import io

    def cif(atoms: Atoms) -> str:
        text = io.BytesIO()
        write(text, atoms, format="cif")
        return text.getvalue().decode()

    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["material_id", "phonondb_min_freq_thz", "phonondb_max_freq_thz", "phonondb_supercell",
             "cif"]
        )  # fmt: skip
        table.writerow(["mp-30", "0.0", "7.5", "2, 2, 3", cif(bulk("Cu"))])
        table.writerow(["mp-134", "", "nan", "2, 2, 2", cif(bulk("Al"))])
        table.writerow(["mp-81", "-0.1", "4.0", "", cif(bulk("Au"))])
    store = validated(tmp_path / "s.h5", path, words=("--supercell", "2", "2", "2"), code=1)
    assert len(store.references) == 1
    copper = store.row(store.find("mp-30"))
    np.testing.assert_array_equal(copper["supercell_matrix"], np.diag([2, 2, 3]))
    assert values_of(copper).max_frequency == 7.5
    gold = store.row(store.find("mp-81"))
    np.testing.assert_array_equal(gold["supercell_matrix"], np.diag([2, 2, 2]))
    assert (values_of(gold).min_frequency, values_of(gold).max_frequency) == (-0.1, 4.0)
    assert np.isnan(values_of(gold).heat_capacity)
    assert store.row(store.find("mp-134"))["reason"].startswith(KIND)
    told = summary_of(store)
    differences = [abs(copper["max_frequency"] - 7.5), abs(gold["max_frequency"] - 4.0)]
    assert (told.frequencies, told.labels) == (0, 2)
    assert told.label_error == pytest.approx(np.mean(differences))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ({"validate": True, "protocol": "robust"}, "needs a protocol of references"),
        ({"validate": True, "protocol": "loew", "relax": "cell"}, "relax expects one of"),
    ],
)
def test_wrong_settings_are_refused(words: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load_config(words, environment={})


def test_protocols_bring_their_settings() -> None:
    loew, lee_xia = (load_config({"protocol": one}, environment={}) for one in ("loew", "lee-xia"))
    assert (loew.relax, loew.fmax, loew.mesh) == ("full", 0.005, (20, 20, 20))
    assert (loew.criterion, loew.cutoff_frequency) == ("loew", 0.0)
    assert (lee_xia.relax, lee_xia.mesh, lee_xia.cutoff_frequency) == ("none", (75.0,), 0.1)
    assert lee_xia.criterion == "lee-xia"
    given = load_config({"protocol": "lee-xia", "mesh": (8, 8, 8)}, environment={})
    assert given.mesh == (8, 8, 8)


def test_no_references_is_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "--model", MODEL]) == UsageError.exit_code
    assert "--reference PATH" in capsys.readouterr().err


def test_launch_sh_starts_its_ranks(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    for words in ("validate --reference dft", "run dft"):
        line = [str(root / "launch.sh"), "--dry-run", "-n", "1", *words.split()]
        told = subprocess.run(
            line, cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "HPCBENCH_PYTHON": sys.executable},
        )  # fmt: skip
        assert f"-m hpcbench {words}" in told.stdout + told.stderr


def test_files_of_one_calculation_are_one_reference(tmp_path: Path) -> None:
    for name in ("phonopy_disp.yaml", "phonopy_params.yaml.xz", "FORCE_SETS", "BORN", "mp-1.yaml"):
        (tmp_path / name).touch()
    found = [files_of(Origin(str(tmp_path / name))) for name in os.listdir(tmp_path) if "p" in name]
    together = {one for one in found if one is not None}
    assert len(together) == 2
    (files,) = (one for one in together if len(one.candidates) == 2)
    assert [one.name for one in files.candidates] == ["phonopy_params.yaml.xz", "phonopy_disp.yaml"]
    assert files.beside.force_sets == tmp_path / "FORCE_SETS"
    assert files.beside.born == tmp_path / "BORN"
    assert files_of(Origin("a.cif")) is None


# What nobody here has computed.


def golden(path: Path, out: Path, *words: str) -> dict[str, Any]:
    """The row of a reference; EMT does not know its elements, which does not matter to it."""
    arguments = ["validate", "--reference", str(path), "--model", MODEL, "--out", str(out)]
    arguments += ["--dtype", "float64", "--device", "cpu", "--workers", "0", "--no-report"]
    assert main([*arguments, *words]) == 1
    store = Store(out)
    (key,) = store.references.ids
    return store.row(key)


def by_phonopy_alone(path: Path, *, nac: bool = False, **how: Any) -> tuple[Any, Any]:
    """Return phonopy's own object and its thermal properties at 300 K, as its users get them."""
    import phonopy

    with warnings.catch_warnings():
        # Of changed defaults, and of meshes that do not have the symmetry of the crystal.
        warnings.simplefilter("ignore")
        phonon = phonopy.load(path, is_nac=nac, **how)
        phonon.run_mesh([20, 20, 20])
        phonon.run_thermal_properties(temperatures=[300.0])
    return phonon, phonon.thermal_properties


THERMAL = ("free_energy", "entropy", "heat_capacity")


def test_the_reference_of_mdr_is_what_its_file_says(tmp_path: Path, reference_data: Path) -> None:
    """Of mp-1000, which has force constants, frequencies and thermal properties."""
    import yaml

    path = reference_data / "phonons" / "mdr" / "mp-1000.yaml.bz2"
    plain = tmp_path / "mp-1000.yaml"
    plain.write_bytes(bz2.decompress(path.read_bytes()))
    row = golden(path, tmp_path / "s.h5")
    _, direct = by_phonopy_alone(plain, symmetrize_fc=False)
    for name in THERMAL:
        assert row[name][AT] == pytest.approx(getattr(direct, name)[0], rel=1e-9)
    file = yaml.load(plain.read_text(), Loader=yaml.CSafeLoader)
    highest = np.max(file["phonon_freq"])
    assert row["commensurate_frequencies"].max() == pytest.approx(highest, rel=1e-6)
    # Its thermal properties are from phonopy's mesh of a length of 100. Two modes at Gamma, of
    # 3e-8 THz by rounding, count in its entropy.
    dense = golden(path, tmp_path / "dense.h5", "--mesh", "100")
    for at, temperature in enumerate(file["temperatures"][:5]):
        assert temperature == (0.0, 75.0, 150.0, 300.0, 600.0)[at]
        assert dense["heat_capacity"][at] == pytest.approx(file["heat_capacity"][at], rel=1e-6)
        assert dense["entropy"][at] == pytest.approx(file["entropy"][at], rel=1e-5)
        assert dense["free_energy"][at] == pytest.approx(file["free_e"][at], abs=2e-4)


@pytest.mark.parametrize(("material", "rel"), [("mp-1000", 1e-6), ("mp-2612", 2e-5)])
def test_references_have_the_published_numbers(
    tmp_path: Path, reference_data: Path, material: str, rel: float
) -> None:
    folder = reference_data / "phonons" / "dft-20A"
    with (folder / "mace-mp-0b3-published.csv").open() as stream:
        (published,) = (one for one in csv.DictReader(stream) if one["material"] == material)
    path = folder / f"{material}.yaml.xz"
    row = golden(path, tmp_path / "s.h5")
    (tmp_path / "plain.yaml").write_bytes(lzma.decompress(path.read_bytes()))
    _, direct = by_phonopy_alone(tmp_path / "plain.yaml", symprec=1e-4, symmetrize_fc=True)
    _, bare = by_phonopy_alone(tmp_path / "plain.yaml", symprec=1e-4, symmetrize_fc=False)
    for name in THERMAL:
        assert row[name][AT] == pytest.approx(getattr(direct, name)[0], rel=1e-6)
        theirs = float(published[f"benchmark_{name}"])
        assert row[name][AT] == pytest.approx(theirs, rel=rel)
        # What is left is symmetrisation, which the published numbers are without.
        assert getattr(bare, name)[0] == pytest.approx(theirs, rel=1e-9)
    assert row["max_frequency"] == pytest.approx(
        float(published["benchmark_max_frequency"]), abs=2e-3
    )


def test_random_displacements_with_born_charges(tmp_path: Path, reference_data: Path) -> None:
    """phonopy's own example NaCl-rd: 10 supercells in which all atoms are displaced."""
    pytest.importorskip("symfc")
    source = reference_data / "phonons" / "phonopy" / "example" / "NaCl-rd"
    folder = tmp_path / "NaCl-rd"
    folder.mkdir()
    for name in ("phonopy_disp.yaml", "FORCE_SETS", "BORN"):
        shutil.copyfile(source / name, folder / name)
    refused = golden(folder, tmp_path / "r.h5")
    assert refused["status"] == "failed"
    assert "Born charges" in refused["reason"]
    row = golden(folder, tmp_path / "s.h5", "--leave-out-born")
    assert (row["status"], row["displacements"]) == ("done", 10)
    phonon, direct = by_phonopy_alone(
        folder / "phonopy_disp.yaml",
        force_sets_filename=folder / "FORCE_SETS",
        fc_calculator="symfc",
    )
    for name in THERMAL:
        assert row[name][AT] == pytest.approx(getattr(direct, name)[0], rel=1e-6)
    at_q = phonon.run_qpoints(row["commensurate_qpoints"]).frequencies
    assert row["commensurate_frequencies"].max() == pytest.approx(at_q.max(), rel=1e-6)


def test_labels_of_others(reference_data: Path) -> None:
    """Frequencies of phononDB, heat capacities of matcalc, and of k_SRME's binaries."""
    sources = [
        str(reference_data / "labels" / "mp-dft-phonon-labels.csv.gz"),
        str(reference_data / "heat-capacity" / "alexandria-binary-pbe-phonon-2025.1.json.gz"),
        str(reference_data / "phonons" / "kappa-103" / "phononDB-PBE-structures.extxyz"),
    ]
    settings = {"validate": True, "protocol": "loew", "max_atoms": 8}
    config = load_config({**settings, "sources": sources}, environment={})
    files = find_references(sources).files
    share = read_share(config, files, None, 0, 1)
    assert not isinstance(share, Exception)
    crystals = [one.record for one in share]
    by_file = [[x for x in crystals if x.origins[0].file == source] for source in sources]  # type: ignore[union-attr]
    assert [len(one) for one in by_file] == [1100, 1170, 103]
    values = [[values_in(x.origins, x.natoms) for x in one] for one in by_file]  # type: ignore[union-attr]
    assert not any(one.is_empty for part in values for one in part)
    (gallium,) = (x for x in by_file[0] if x.name.endswith("mp-10009"))
    assert values_in(gallium.origins, 8).max_frequency == 8.4714831859  # type: ignore[union-attr]
    np.testing.assert_array_equal(gallium.supercell_matrix, np.diag([4, 4, 1]))  # type: ignore[union-attr]
    # Dulong and Petit's 3 R is the limit, which only very light or stiff atoms are far from.
    for part in values[1:]:
        capacities = np.array([one.heat_capacity for one in part])
        assert (capacities < 3 * 8.3145).all()
        assert np.median(capacities) > 18.0
        assert all(one.temperature == ROOM_TEMPERATURE for one in part)
    barium = json.loads(gzip.decompress(Path(sources[1]).read_bytes()))[0]
    assert values[1][0].heat_capacity == pytest.approx(barium["heat_capacity"] / 3)
    lead = next(x for x in by_file[2] if dict(x.origins[0].columns)["mp_id"] == "mp-19717")  # type: ignore[union-attr]
    np.testing.assert_array_equal(lead.supercell_matrix, np.diag([4, 4, 4]))  # type: ignore[union-attr]
