"""What is written takes the place of nothing that hpcbench did not write, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from ase.build import bulk
from ase.io import write

import hpcbench
from hpcbench.cli import main
from hpcbench.errors import StoreError, UsageError
from hpcbench.interop.exporting import export
from hpcbench.outputs import (
    SETTINGS_FILE,
    appended,
    file_to_write,
    folder_to_write,
    is_ours,
    remove_left_over,
    replacing,
    target_of,
    temporary_name,
)
from hpcbench.report.html import write_report
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder

QUICK = ["--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--band-points", "11"]
QUICK += ["--supercell", "2", "2", "2", "--workers", "0", "--no-report"]
OF_THE_USER = b"id,cif\n0,data_x\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two crystals, whose names differ in case only; with its forces."""
    path = tmp_path_factory.mktemp("outputs") / "s.h5"
    crystals = [bulk("Cu", a=3.6), bulk("Al", a=4.0)]
    for atoms, name in zip(crystals, ("Twin.A", "twin.a"), strict=True):
        atoms.info["name"] = name
    hpcbench.run(
        crystals, model="ase.calculators.emt:EMT", out=path, workers=0, mesh=(4, 4, 4),
        band_points=11, supercell=(2, 2, 2), keep_forces=True,
    )  # fmt: skip
    shutil.rmtree(RunFolder(path).path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in a folder of its own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(made, tmp_path / "s.h5"))


def tree(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder with what is in them, and what links lead to."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else "no file")
        for path in sorted(folder.rglob("*"))
    }


FILES = {
    "csv": (["export", "s.h5", "-o"], "t.csv"),
    "json": (["export", "s.h5", "--format", "json", "-o"], "t.json"),
    "parquet": (["export", "s.h5", "--format", "parquet", "-o"], "t.parquet"),
    "extxyz": (["export", "s.h5", "--format", "extxyz", "-o"], "t.extxyz"),
    "forces": (["export", "s.h5", "--format", "forces", "-o"], "t.extxyz"),
    "cif": (["export", "s.h5", "--format", "cif", "-o"], "t.cif"),
    "page": (["report", "s.h5", "-o"], "t.html"),
    "benchmark": (["report", "s.h5", "--json"], "t.json"),
    "png": (["show", "Twin.A", "s.h5", "--png"], "t.png"),
    "svg": (["show", "Twin.A", "s.h5", "--png"], "t.svg"),
    "pdf": (["show", "Twin.A", "s.h5", "--png"], "t.pdf"),
    "difference": (["diff", "s.h5", "s.h5", "--csv"], "t.csv"),
    "difference drawn": (["diff", "s.h5", "s.h5", "--png"], "t.png"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_the_user_is_replaced_by_force_alone(
    kind: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, name = FILES[kind]
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(OF_THE_USER)
    before = tree(tmp_path)
    assert main([*words, name]) == 2
    assert f"{name} exists, and hpcbench did not write it" in capsys.readouterr().err
    assert tree(tmp_path) == before
    # Through a link as well: the link stays, and what it leads to.
    (tmp_path / "link").symlink_to(name)
    (tmp_path / f"link{path.suffix}").symlink_to(tmp_path / "link")
    before = tree(tmp_path)
    assert main([*words, f"link{path.suffix}"]) == 2
    assert tree(tmp_path) == before

    assert main([*words, name, "--force"]) == 0
    first = path.read_bytes()
    assert first != OF_THE_USER and is_ours(path)
    # What is our own is replaced without a word, and the link stays one.
    assert main([*words, f"link{path.suffix}"]) == 0
    after = tree(tmp_path)
    assert after.keys() == before.keys() and not path.is_symlink()
    assert after["link"] == name


def test_the_list_that_was_computed_survives_its_own_export(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names that a generator and hpcbench both choose."""
    (tmp_path / "generated.csv").write_bytes(OF_THE_USER)
    store.rename(tmp_path / "generated.h5")
    assert main(["export", "generated.h5"]) == 0
    assert (tmp_path / "generated.csv").read_bytes() == OF_THE_USER
    assert (tmp_path / "generated.h5.csv").exists()
    store = (tmp_path / "generated.h5").rename(tmp_path / "generated")
    assert main(["export", "generated"]) == 2
    assert (tmp_path / "generated.csv").read_bytes() == OF_THE_USER
    assert "generated.csv exists" in capsys.readouterr().err


def test_names_with_dots_are_kept_apart(store: Path, tmp_path: Path) -> None:
    """The ending of a name may be half of a version."""
    for name in ("gen_v1.0", "gen_v1.1", "gen_v1.0.h5"):
        shutil.copy(store, tmp_path / name)
        assert main(["report", name]) == 0
        assert main(["export", name, "--format", "cif"]) == 0
        assert f"<h1>{name}</h1>" in (tmp_path / f"{name}.html").read_text()
        assert (tmp_path / f"{name}-cif" / SETTINGS_FILE).is_file()


FOLDERS = {
    **{
        kind: ["export", "s.h5", "--format", kind, "-o"]
        for kind in ("cif", "phonopy", "band-yaml", "pymatgen", "phononbench")
    },
    "figures": ["report", "s.h5", "--figures"],
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_the_user_is_written_into_by_force_alone(
    kind: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = FOLDERS[kind]
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "a.cif").write_bytes(OF_THE_USER)
    (tmp_path / "link").symlink_to("generated")
    before = tree(tmp_path)
    for name in ("generated", "link", "generated/a.cif/"):
        assert main([*words, name]) == 2
    assert "is no folder of an earlier export" in capsys.readouterr().err
    assert tree(tmp_path) == before
    # Two in one folder: a new one, and again.
    (tmp_path / "new").mkdir()
    assert main([*words, "new"]) == 0
    once = tree(tmp_path / "new")
    killed = temporary_name(tmp_path / "new", "x.cif").with_suffix(".within.part")
    killed.write_text("half a file")
    assert main([*words, "new"]) == 0
    assert tree(tmp_path / "new").keys() == once.keys() > {SETTINGS_FILE}
    assert main([*words, "link", "--force"]) == 0
    after = tree(tmp_path / "generated")
    assert after.keys() == {"a.cif", *once} and after["a.cif"] == OF_THE_USER


def test_one_process_writes_into_a_folder(store: Path, tmp_path: Path) -> None:
    with folder_to_write(tmp_path / "f", "{}"), pytest.raises(StoreError, match="another process"):
        export(Store(store), "cif", tmp_path / "f")


def test_names_that_differ_in_case_only_are_two_files(store: Path, tmp_path: Path) -> None:
    """File systems that know no case would have one file for two crystals."""
    for kind in ("cif", "phononbench", "phonopy", "band-yaml", "pymatgen"):
        export(Store(store), kind, tmp_path / kind)
        found = [str(path.relative_to(tmp_path / kind)) for path in (tmp_path / kind).rglob("*")]
        assert len({name.casefold() for name in found}) == len(found)
    labels = (tmp_path / "phononbench" / "relaxed" / "gpu0_part0" / "Lable.txt").read_text()
    assert len(labels.splitlines()) == 2


def test_nothing_takes_the_place_of_a_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.h5").symlink_to("s.h5")
    (tmp_path / "other.h5").write_bytes(h5_file(tmp_path / "x"))
    before = tree(tmp_path)
    for words, _ in FILES.values():
        for name in ("s.h5", "link.h5", "other.h5"):
            if "--png" not in words:
                assert main([*words, name, "--force"]) == 2
                # Of CIF, a name without its ending is that of a folder.
                sentence = "is a file: give" if "cif" in words else "is an HDF5 file"
                assert sentence in capsys.readouterr().err
    assert tree(tmp_path) == before
    # One under way has no file yet.
    RunFolder(tmp_path / "begun.html").create()
    with pytest.raises(UsageError, match="the name of a store"):
        write_report(Store(store), tmp_path / "begun.html", force=True)


def h5_file(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        file["forces"] = [1.0]
    data = path.read_bytes()
    path.unlink()
    return data


def test_a_report_beside_a_store_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--out x.html`` made the report take the store's place."""
    monkeypatch.chdir(tmp_path)
    write("cu.cif", bulk("Cu"))
    words = ["run", "cu.cif", *QUICK, "--report", "--out", "x.html"]
    assert main(words) == 0
    assert len(Store("x.html")) == 1
    assert is_ours(tmp_path / "x.html.html")
    # A file of the user is where the report would be: the results count.
    (tmp_path / "x.html.html").write_bytes(OF_THE_USER)
    capsys.readouterr()
    assert main(words) == 0
    assert "no report: x.html.html exists" in capsys.readouterr().err
    assert (tmp_path / "x.html.html").read_bytes() == OF_THE_USER


def fifo(path: Path) -> None:
    os.mkfifo(path)


def circle(path: Path) -> None:
    path.symlink_to(path.name + "2")
    path.with_name(path.name + "2").symlink_to(path.name)


def elsewhere(path: Path) -> None:
    (path.parent / "data.h5").write_bytes(h5_file(path.parent / "y"))
    path.symlink_to("data.h5")


def foreign_folder(path: Path) -> None:
    path.with_name(path.name + ".run").mkdir()
    path.with_name(path.name + ".run").joinpath("settings.json").write_text("mine")


REFUSED: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "a list": ("generated.csv", lambda p: p.write_bytes(OF_THE_USER), 2, "is no store"),
    "the source": ("cu.cif", lambda p: None, 2, "is no store"),
    "empty": ("e.h5", lambda p: p.touch(), 2, "is no store"),
    "a folder": ("f", lambda p: p.mkdir(), 2, "is a folder"),
    "this folder": (".", lambda p: None, 2, "is a folder"),
    "the folder above": ("..", lambda p: None, 2, "is a folder"),
    "a pipe": ("p", fifo, 2, "is no store"),
    "a device": ("/dev/null", lambda p: None, 2, "is no store"),
    "a circle": ("c.h5", circle, 2, "leads in a circle"),
    "HDF5": ("d.h5", lambda p: p.write_bytes(h5_file(p)), 3, "not one that hpcbench wrote"),
    "a link to HDF5": ("l.h5", elsewhere, 3, "data.h5: an HDF5 file, but not one"),
    "other settings": ("s.h5", lambda p: None, 2, "was computed with other settings"),
    "a folder for its run": ("r.h5", foreign_folder, 2, "r.h5.run is there, and is not of a run"),
    "a file for its run": (
        "r.h5", lambda p: p.with_name("r.h5.run").write_text("mine"), 2, "is not of a run"
    ),
    "too long": ("x" * 300, lambda p: None, 2, "File name too long"),
    "too long with its run": ("new/" + "x" * 253, lambda p: None, 3, "cannot write beside"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_name_leaves_nothing_behind(
    kind: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, prepare, code, sentence = REFUSED[kind]
    write("cu.cif", bulk("Cu"))
    prepare(tmp_path / name)
    before = tree(tmp_path)
    words = ["--displacement", "0.02"] if kind == "other settings" else []
    assert main(["run", "cu.cif", *QUICK, *words, "--out", name]) == code
    assert sentence in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_store_has_one_lock_and_one_folder_whatever_it_is_called(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run through a link made a second store, and the old one stayed where it was."""
    (tmp_path / "disk").mkdir()
    target = store.rename(tmp_path / "disk" / "s.h5")
    (tmp_path / "today.h5").symlink_to("latest.h5")
    (tmp_path / "latest.h5").symlink_to("disk/s.h5")
    links, folders = [tmp_path / name for name in ("today.h5", "latest.h5")], []
    for name in (target, *links):
        folders.append(RunFolder(name))
        folders[-1].create()
    folders[0].lock()
    for other in folders[1:]:
        with pytest.raises(StoreError, match="another run is writing"):
            other.lock()
    folders[0].unlock()
    assert {p.name for p in tmp_path.rglob("*.run")} == {"s.h5.run"}
    write("cu.cif", bulk("Ag"))
    words = ["run", "cu.cif", *QUICK, "--band-points", "11", "--keep-forces", "--out", "today.h5"]
    assert main(words) == 0
    assert all(link.is_symlink() for link in links)
    assert len(Store(target)) == 1 and len(Store(target).earlier) == 2
    # What looks for the run's files is told where they are.
    capsys.readouterr()
    assert main([*words, "--where"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    # A new one is made where the link leads.
    (tmp_path / "dangling.h5").symlink_to("disk/new.h5")
    assert main(["merge", "today.h5", "-o", "dangling.h5"]) == 0
    assert (tmp_path / "dangling.h5").is_symlink() and len(Store("disk/new.h5")) == 1


def test_repair_mends_what_a_link_leads_to(store: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target = store.rename(tmp_path / "disk" / "s.h5")
    store.symlink_to(target)
    # Names of earlier repairs, one of them a link to nothing.
    (tmp_path / "disk" / "s.h5.damaged").symlink_to("gone")
    with h5py.File(target) as file:
        chunk = file["crystals/max_frequency"].id.get_chunk_info(0)
    data = bytearray(target.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    target.write_bytes(data)
    assert main(["repair", "s.h5"]) == 0
    assert store.is_symlink() and len(Store(store)) == 2
    assert (tmp_path / "disk" / "s.h5.damaged").is_symlink()
    assert (tmp_path / "disk" / "s.h5.damaged-2").read_bytes() == data


KILLED = {
    "merge": (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from hpcbench.maintenance import merge\n"
        "merge._require_sound = lambda *_: (print('ready', flush=True), time.sleep(600))\n"
        "merge.merge([Path('s.h5')], Path('m.h5'))\n"
    ),
    "import": (
        "import time\n"
        "from hpcbench.cli import main\n"
        "from hpcbench.store.run_folder import RunFolder\n"
        "first = RunFolder.require_free\n"
        "def again(self):\n"
        "    print('ready', flush=True); time.sleep(600)\n"
        "def once(self):\n"
        "    RunFolder.require_free = again; first(self)\n"
        "RunFolder.require_free = once\n"
        "main(['import', 'p', '--out', 'i.h5', '--workers', '0'])\n"
    ),
}


@pytest.mark.parametrize("kind", KILLED)
def test_what_a_killed_command_left_is_removed_by_the_next_but_not_what_is_at_work(
    kind: str, store: Path, tmp_path: Path
) -> None:
    export(Store(store), "phonopy", tmp_path / "p")

    def start() -> tuple[subprocess.Popen[str], Path]:
        known = set(tmp_path.glob(".*.part"))
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED[kind]], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        while child.stdout.readline().strip() != "ready":
            assert child.poll() is None
        (part,) = set(tmp_path.glob(".*.part")) - known
        return child, part

    child, part = start()
    try:
        assert main(["merge", "s.h5", "-o", "other.h5"]) == 0
        assert main(["export", "s.h5"]) == 0
        assert part.exists(), "its writer is at work"
    finally:
        child.kill()
        child.communicate()
    # A file of the user may end in the same way.
    (tmp_path / ".download.part").write_bytes(OF_THE_USER)
    (tmp_path / "film.1-00000000.part").write_bytes(OF_THE_USER)
    # Whatever comes next.
    words = {"merge": ["export", "s.h5"], "import": ["merge", "s.h5", "-o", "another.h5"]}[kind]
    assert main(words) == 0
    names = {path.name for path in tmp_path.glob("*.part")}
    assert names == {".download.part", "film.1-00000000.part"}


def test_a_run_removes_what_an_import_left_beside_its_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("cu.cif", bulk("Ag"))
    writer = subprocess.Popen(["true"])
    writer.wait()
    part = temporary_name(tmp_path, "s.h5")
    part = part.with_name(part.name.replace(f".{os.getpid()}-", f".{writer.pid}-"))
    part.write_bytes(b"torn")
    assert main(["run", "cu.cif", *QUICK, "--keep-forces", "--out", "s.h5"]) == 0
    assert not part.exists()


def test_without_locks_only_old_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    old, new = temporary_name(tmp_path, "old"), temporary_name(tmp_path, "new")
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (0, time.time() - 100_000))
    remove_left_over(tmp_path)
    assert new.exists() and not old.exists()
    with replacing(tmp_path / "t.csv") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "t.csv").read_text() == "x"


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def export_late() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ours")
            path.write_bytes(OF_THE_USER)

    with pytest.raises(UsageError, match="did not write it"):
        export_late()
    assert tree(tmp_path) == {"t.csv": OF_THE_USER}


def test_what_may_be_written(tmp_path: Path) -> None:
    # As mktemp makes them.
    (tmp_path / "empty").touch()
    assert file_to_write(tmp_path / "empty") == tmp_path / "empty"
    # A text that speaks of hpcbench is not written by it.
    (tmp_path / "notes").write_text("hpcbench may replace id,name,origins,formula\n")
    with pytest.raises(UsageError):
        file_to_write(tmp_path / "notes")
    fifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a pipe"):
        file_to_write(tmp_path / "pipe", force=True)
    with pytest.raises(UsageError, match="is not a file name"):
        target_of("")
    assert appended(tmp_path / "gen_v1.0", ".html").name == "gen_v1.0.html"
    # A name as long as names may be has a temporary one too.
    with replacing(tmp_path / ("é" * 127)) as temporary:
        temporary.write_text("x")
