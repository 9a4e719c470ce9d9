"""Test which files of a folder are read, left out, or cannot be seen."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from ase.build import bulk
from ase.db import connect
from ase.io import write

from hpcbench.cli import main
from hpcbench.crystal import Crystal
from hpcbench.errors import SourceError
from hpcbench.sources import Unreadable, find_sources, read_file
from hpcbench.sources.formats import format_of
from hpcbench.store.reader import Store

DATA = Path(__file__).parent / "data"


def names_of(*sources: str | Path) -> list[str]:
    return [Path(file.path).name for file in find_sources(sources).files]


def kinds_of(*sources: str | Path) -> dict[str, str]:
    return {Path(item.path).name: item.kind for item in find_sources(sources).left_out}


def problems_of(*sources: str | Path) -> dict[str, str]:
    return {Path(f.path).name: f.problem for f in find_sources(sources).files if f.problem}


def records_of(*sources: str | Path) -> list[Crystal | Unreadable]:
    return [record for file in find_sources(sources).files for record in read_file(file)]


# Layouts of generators


def test_results_of_mattergen_are_its_crystals_once(tmp_path: Path) -> None:
    results = DATA / "mattergen" / "res"
    assert names_of(results) == ["generated_crystals.extxyz"]
    assert kinds_of(DATA / "mattergen") == {
        "generated_crystals_cif.zip": "copies of the same crystals by MatterGen",
        "generated_trajectories.zip": "trajectories of MatterGen",
        "metrics.json": "JSON files without structures",
        "manifest.toml": "manifests and settings",
    }
    found = records_of(DATA / "mattergen" / "manifest.toml")
    assert [len(r.origins) for r in found if isinstance(r, Crystal)] == [1, 1]
    # Without the frames the zip is what there is.
    shutil.copytree(results, tmp_path / "cif")
    (tmp_path / "cif" / "generated_crystals.extxyz").unlink()
    assert names_of(tmp_path / "cif") == ["generated_crystals_cif.zip"]
    # What a person names is read.
    assert names_of(results / "generated_trajectories.zip") == ["generated_trajectories.zip"]


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_results_of_mattergen_in_an_archive_or_unpacked(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "res"
    shutil.copytree(DATA / "mattergen" / "res", folder)
    for name in ("generated_crystals_cif", "generated_trajectories"):
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            archive.extractall(folder / name)
    assert names_of(folder) == ["generated_crystals.extxyz"]
    packed = tmp_path / f"packed{ending}"
    # In an order in which the copies come first.
    members = sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True)
    if ending == ".zip":
        with zipfile.ZipFile(packed, "w") as stream:
            for path in members:
                stream.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(packed, "w:gz") as tar:
            for path in members:
                tar.add(path, path.relative_to(tmp_path))
    assert [type(record) for record in records_of(packed)] == [Crystal, Crystal]
    assert Counter(kinds_of(packed).values())["trajectories of MatterGen"] == 3


# Content


def test_files_are_taken_by_what_is_in_them(tmp_path: Path) -> None:
    from pymatgen.io.ase import AseAtomsAdaptor

    copper = bulk("Cu")
    structure = AseAtomsAdaptor.get_structure(copper)
    (tmp_path / "a.json").write_text(json.dumps(structure.as_dict()))
    (tmp_path / "config.json").write_text(json.dumps({"lattice": 3.6, "steps": [1, 2]}))
    (tmp_path / "bands.json").write_text(
        json.dumps({"@class": "PhononBandStructureSymmLine", "structure": structure.as_dict()})
    )
    cell = {
        "lattice": copper.cell.tolist(),
        "points": [{"symbol": "Cu", "coordinates": [0.0, 0.0, 0.0]}],
    }
    # Not by names: of generated crystals some begin like phonopy's results.
    (tmp_path / "band_gap_1.yaml").write_text(yaml.safe_dump({"unit_cell": cell}))
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(cell))
    (tmp_path / "found.yaml").write_text("nqpoint: 2\nlattice:\n- [1, 0, 0]\npoints:\n- 1\n")
    (tmp_path / "hparams.yaml").write_text("lr: 0.1\n")
    numbers = {
        "frac_coords": torch.zeros(1, 3),
        "atom_types": torch.tensor([29]),
        "lengths": torch.full((1, 3), 2.6),
        "angles": torch.full((1, 3), 60.0),
    }
    torch.save(numbers, tmp_path / "eval_gen.pt")
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "model.pt")
    with connect(tmp_path / "ase.db") as database:
        database.write(copper)
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE runs (id)")
    other.close()
    with sqlite3.connect(tmp_path / "view.db") as other:
        other.execute(
            "CREATE VIEW systems AS WITH RECURSIVE c(x) AS "
            "(SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT x AS id FROM c"
        )
    other.close()
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "labels.csv").write_text("name,cif_path\na,a.cif\n")
    read = ["a.json", "ase.db", "band_gap_1.yaml", "eval_gen.pt", "old.yaml"]
    left_out = {
        "bands.json": "band structures",
        "config.json": "JSON files without structures",
        "found.yaml": "results of phonopy",
        "hparams.yaml": "YAML files without a crystal",
        "labels.csv": "CSV tables without structures",
        "mlflow.db": "databases without crystals",
        "model.pt": "torch files without crystals",
        "Thumbs.db": "databases without crystals",
        "view.db": "databases without crystals",
    }
    assert names_of(tmp_path) == read
    assert kinds_of(tmp_path) == left_out
    assert all(isinstance(record, Crystal) for record in records_of(tmp_path))
    # The same of an archive's members.
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(tmp_path.iterdir()):
            if path.suffix != ".zip":
                archive.write(path, path.name)
    inside = find_sources([tmp_path / "all.zip"]).left_out
    assert {item.path.rpartition("::")[2]: item.kind for item in inside} == left_out
    assert len(records_of(tmp_path / "all.zip")) == len(read)


def test_a_file_that_cannot_tell_what_it_holds_is_read(tmp_path: Path) -> None:
    for name in ("a.json", "b.yaml", "c.pt", "d.db", "e.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "f.json.gz").write_bytes(b"\x1f\x8bdamaged")
    (tmp_path / "g.json").write_bytes('{"sites": []}'.encode("utf-16"))
    assert len(names_of(tmp_path)) == 7
    kinds = [record.kind for record in records_of(tmp_path) if isinstance(record, Unreadable)]
    assert len(kinds) == 7


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CONTCAR_relaxed.cif", "cif"),
        ("poscars.extxyz", "xyz"),
        ("POSCAR.json", "json"),
        ("POSCAR.cif.gz", "cif"),
        ("POSCAR_list.txt", "list"),
        ("POSCAR.zip", "archive"),
        ("CONTCAR.png", ""),
        ("POSCAR.h5", ""),
        ("poscar_notes.md", ""),
        ("POSCAR", "poscar"),
        ("POSCAR-001", "poscar"),
        ("POSCAR.Si", "poscar"),
        ("CONTCAR.0.25", "poscar"),
        ("CONTCAR_mp-149.xz", "poscar"),
        ("poscar.vasp", "poscar"),
    ],
)
def test_names_like_poscar_count_without_another_ending(name: str, kind: str) -> None:
    assert format_of(name) == kind


@pytest.mark.parametrize(
    ("name", "formula"), [("CONTCAR_relaxed.cif", "HLi"), ("poscars.extxyz", "Cu2")]
)
def test_files_called_like_poscar_are_read_by_their_ending(name: str, formula: str) -> None:
    record = records_of(DATA / name)[0]
    assert isinstance(record, Crystal)
    assert record.formula == formula


# Links, and what cannot be seen


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "real").mkdir(parents=True)
    there.mkdir()
    write(here / "real" / "a.cif", bulk("Cu"))
    write(there / "b.cif", bulk("Al"))
    (here / "elsewhere").symlink_to(there)
    (here / "again").symlink_to(here / "real")
    (here / "real" / "loop").symlink_to(here)
    (there / "up").symlink_to(tmp_path)
    found = find_sources([here])
    assert [str(Path(f.path).relative_to(here)) for f in found.files] == [
        "elsewhere/b.cif",
        "real/a.cif",
    ]
    assert {str(Path(x.path).relative_to(here)): x.kind for x in found.left_out} == {
        "again": "links to folders that are read already",
        "elsewhere/up": "links to a folder around them",
        "real/loop": "links to folders that are read already",
    }


def test_dead_links_and_devices_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.cif", bulk("Cu"))
    (tmp_path / "b.cif").symlink_to("gone.cif")
    (tmp_path / "run7").symlink_to("/nowhere/run7")
    (tmp_path / "notes.md").symlink_to("gone.md")
    (tmp_path / "itself.cif").symlink_to("itself.cif")
    os.mkfifo(tmp_path / "pipe.cif")
    assert problems_of(tmp_path) == {
        "b.cif": "a link to nothing: there is no 'gone.cif'",
        "itself.cif": "it cannot be looked at (Too many levels of symbolic links)",
        "run7": "a link to nothing: there is no '/nowhere/run7'",
    }
    assert kinds_of(tmp_path) == {"notes.md": "dead links", "pipe.cif": "pipes and devices"}
    # A pattern that matches them stops nothing either.
    reasons = [r.reason for r in records_of(tmp_path / "*.cif") if isinstance(r, Unreadable)]
    assert [reason.partition(":")[0] for reason in reasons] == ["file", "file"]
    assert len(records_of(tmp_path / "**" / "*.cif")) == 3


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder with an unreadable folder and file, seen by a user who may not read them."""
    user = os.geteuid()
    folder = Path(tempfile.mkdtemp(prefix="hpcbench-test-"))
    folder.chmod(0o755)
    (folder / "shut").mkdir()
    for path in (folder / "a.cif", folder / "b.json", folder / "shut" / "c.cif"):
        write(path.with_suffix(".cif"), bulk("Cu"))
    (folder / "b.cif").rename(folder / "b.json")
    (folder / "b.json").chmod(0)
    (folder / "shut").chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)  # who is nobody
        yield folder
    finally:
        os.seteuid(user)
        (folder / "shut").chmod(0o755)
        shutil.rmtree(folder)


def test_what_may_not_be_read_is_a_row(closed: Path) -> None:
    try:
        (closed / "b.json").read_bytes()
        pytest.skip("this user may read everything")
    except PermissionError:
        pass
    assert problems_of(closed) == {"shut": "the folder cannot be read (Permission denied)"}
    reasons = [r.reason for r in records_of(closed) if isinstance(r, Unreadable)]
    assert reasons == [
        "file: the file cannot be opened (Permission denied)",
        "file: the folder cannot be read (Permission denied)",
    ]
    assert problems_of(closed / "*" / "*.cif") == {
        "shut": "the folder cannot be read (Permission denied)"
    }
    assert problems_of(closed / "**" / "*.cif") == {
        "shut": "the folder cannot be read (Permission denied)"
    }


# What this program writes itself


def test_a_second_run_in_the_same_folder_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("cu.cif", bulk("Cu"))
    command = ["run", ".", "--model", "ase.calculators.emt:EMT", "--relax", "none"]
    command += ["--supercell", "2", "2", "2", "--mesh", "4", "4", "4", "--band-points", "5"]
    command += ["--workers", "0"]
    assert main(command) == 0
    first = sorted(find_sources(["."]).files, key=lambda file: file.path)
    assert [file.path for file in first] == ["cu.cif"]
    for kind in ("csv", "json", "extxyz", "cif", "phonopy", "band-yaml", "pymatgen", "phononbench"):
        assert main(["export", "--format", kind]) == 0
    assert main(["export", "--format", "cif", "-o", "one.cif"]) == 0
    assert main(["export", "--format", "training"]) == 0
    words = ["export", "--format", "training", "--unlabelled", "vasp", "-o", "for-dft"]
    assert main(words) == 0
    assert main(["report", "--json", "benchmark.json"]) == 0
    assert find_sources(["."]).files == first
    capsys.readouterr()
    assert main(command) == 0
    assert "1 run folders of hpcbench (store.h5.run)" in capsys.readouterr().err
    assert len(Store("store.h5").table) == 1
    # By a pattern or by name a store and its folder are no sources either; an export is.
    assert names_of("store.h5*") == [n for n in names_of("store.h5*") if not n.endswith(".h5")]
    assert names_of("store.h5", "store.h5.run", "cu.cif") == ["cu.cif"]
    assert names_of("one.cif") == ["one.cif"]


def test_a_folder_of_other_things_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(SourceError, match=r"1 JSON files without structures \(metrics.json\)"):
        find_sources([tmp_path])


def test_members_of_a_tar_that_are_larger_than_its_headers_are_read(tmp_path: Path) -> None:
    """Kept in memory between looking and reading, up to 16 MiB."""
    write(tmp_path / "Cu.extxyz", bulk("Cu"))
    text = (tmp_path / "Cu.extxyz").read_text() * 60_000
    assert 2**22 < len(text) < 2**24
    (tmp_path / "Cu.extxyz").write_text(text)
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        archive.add(tmp_path / "Cu.extxyz", "Cu.extxyz")
    (file,) = find_sources([str(tmp_path / "many.tar")]).files
    first = next(iter(read_file(file)))
    assert isinstance(first, Crystal)
