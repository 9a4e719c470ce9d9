"""Disks that are full, cannot be written, or give back something else than they were given."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest
from chaos_harness import metals
from launching import QUICK, SLOW, in_file, mpiexec, run_here, slow_potential, take

import hpcbench
from hpcbench.errors import StoreError
from hpcbench.results.rows import schema_of
from hpcbench.store.consolidate import consolidate
from hpcbench.store.damage import find_damage
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE

CRYSTALS = 12
# Of a run that takes its time.
FEW = 8


@contextlib.contextmanager
def mounted(*words: object) -> Iterator[None]:
    """Something mounted on the last of the words, for a while."""
    result = subprocess.run(
        ["mount", *map(str, words)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"needs the right to mount: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(words[-1])], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be opened for writing below a folder."""
    remount = ["mount", "-o", "remount,bind,ro", str(folder)]
    with mounted("--bind", folder, folder):
        # Refused at moments when something is open there for writing.
        end = time.monotonic() + 30
        while subprocess.run(remount, check=False).returncode:
            assert time.monotonic() < end, "the folder cannot be made read-only"
        yield


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64m", "hpcbench-test", folder):
        yield folder


def disturbed(
    folder: Path, out: Path, ranks: int, disturb: Callable[[], object]
) -> tuple[int, str]:
    """Start a run, do something when its first results are committed, and wait for its end."""
    metals(folder / "metals.extxyz", FEW)
    slow_potential(folder, 0.05)
    launcher = mpiexec(ranks) if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "hpcbench", "run", *words_of(out), *QUICK]
    command += ["--no-report", "--model", SLOW, *in_file(block=1, commit_interval=0.3, silence=5)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
    ) as process:  # fmt: skip
        end = time.monotonic() + 240
        segments = RunFolder(out).segments
        while not list(segments.glob("segment-*")) and time.monotonic() < end:
            time.sleep(0.01)
        disturb()
        text = process.communicate(timeout=240)[0]
    return process.returncode, text


def words_of(out: Path) -> list[str]:
    return ["metals.extxyz", "--out", str(out)]


def require_finished(folder: Path, out: Path, finished_before: dict[str, float]) -> None:
    """The same command finishes, and computes nothing again that it had."""
    take(folder, 0.0)
    with contextlib.chdir(folder):
        assert run_here([*words_of(out), "--model", SLOW]) == 0
    table = hpcbench.open(out).table
    assert list(table["status"]) == [DONE] * FEW
    assert {key: table.loc[key, "finished"] for key in finished_before} == finished_before
    assert RunFolder(out).segment_paths() == RunFolder(out).torn_files() == []


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "room"), [pytest.param(1, 0, marks=pytest.mark.nightly), (1, 200_000), (2, 0)]
)
def test_a_disk_that_fills_up_while_a_run_writes(
    tmp_path: Path, disk: Path, ranks: int, room: int
) -> None:
    out = disk / "s.h5"
    filler = disk / "filler"

    def fill() -> None:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            stream.write(bytes(max(0, free - room)))
            while not room:
                stream.write(bytes(4096))

    code, text = disturbed(tmp_path, out, ranks, fill)
    assert code == 3, text
    assert "No space left on device" in text
    assert "the same command again" in text
    assert "Traceback" not in text
    before = hpcbench.open(out).table
    assert 0 < len(before) < FEW
    filler.unlink()
    require_finished(tmp_path, out, dict(before["finished"]))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_folder_that_becomes_read_only_while_a_run_writes(tmp_path: Path, ranks: int) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    out = folder / "s.h5"
    with contextlib.ExitStack() as until_mended:
        code, text = disturbed(
            tmp_path, out, ranks, lambda: until_mended.enter_context(read_only(folder))
        )
        assert code == 3, text
        assert "Read-only file system" in text
        assert "the same command again" in text
        assert "Traceback" not in text
        before = hpcbench.open(out).table
        assert 0 < len(before) < FEW
    require_finished(tmp_path, out, dict(before["finished"]))


def test_a_folder_that_cannot_be_written_is_said_so_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    sources = metals(tmp_path / "metals.extxyz", 2)
    words = [str(sources), "--out", str(folder / "s.h5")]
    with read_only(folder):
        assert run_here(words) == 3
        said = capfd.readouterr().err
        assert f"cannot write beside {folder / 's.h5'}: Read-only file system" in said
        assert "Traceback" not in said
    # One that has results, too.
    assert run_here(words) == 0
    capfd.readouterr()
    with read_only(folder):
        assert run_here(words) == 3
        said = capfd.readouterr().err
        assert "Read-only file system" in said
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is finished, with its sources beside it."""
    folder = tmp_path_factory.mktemp("results")
    sources = metals(folder / "metals.extxyz", CRYSTALS)
    assert run_here([str(sources), "--out", str(folder / "s.h5")]) == 0
    return folder / "s.h5"


def in_segments(results: Path, folder: Path, rows: int = 3) -> tuple[Path, RunFolder]:
    """The same run as one that was killed before it had consolidated its results."""
    store = Store(results)
    killed = RunFolder(folder / "s.h5")
    killed.create()
    settings = store.folder.settings()
    killed.agree(settings)
    for first in range(0, CRYSTALS, rows):
        part = [store.row(key) for key in store.ids[first : first + rows]]
        killed.commit(part, schema_of(settings), settings, 0)
    return results.with_name("metals.extxyz"), killed


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ (1 << bit)]))


def tear(path: Path) -> None:
    """As a machine that goes down may leave a file."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_force_constant(path: Path) -> None:
    with h5py.File(path) as file:
        values = file["ragged/force_constants/values"]
        place = values.id.get_chunk_info(0).byte_offset
    flip(path, place + 100)


@pytest.mark.parametrize("harm", [tear, empty, flip_a_force_constant])
def test_damaged_segments_are_named_set_aside_and_computed_again(
    tmp_path: Path,
    results: Path,
    harm: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    sources, folder = in_segments(results, tmp_path)
    damaged = folder.segment_paths()[1]
    lost = Store(folder.store).ids[3:6]
    harm(damaged)
    assert run_here([str(sources), "--out", str(folder.store)]) == 0
    said = capfd.readouterr()
    assert f"{damaged} is damaged" in said.err
    assert f"{CRYSTALS} crystals, 3 to compute" in said.out
    assert damaged.with_name(damaged.name + ".damaged").exists()
    before, after = Store(results).table, Store(folder.store).table
    assert list(after["status"]) == [DONE] * CRYSTALS
    newer = after.index[after["finished"] > before.loc[after.index, "finished"]]
    assert set(newer) == set(lost)


def test_a_segment_that_is_damaged_during_a_run_costs_its_own_crystals_only(
    tmp_path: Path, results: Path
) -> None:
    _, folder = in_segments(results, tmp_path)
    settings = folder.settings()
    damaged = folder.segment_paths()[2]
    flip_a_force_constant(damaged)
    with pytest.raises(StoreError, match=f"{damaged.name} is damaged.*(?s:.)*same command again"):
        consolidate(folder, schema_of(settings), settings)
    assert len(Store(folder.store)) == CRYSTALS - 3
    assert folder.segment_paths() == []


def test_most_flipped_bits_are_noticed_and_none_does_harm(tmp_path: Path, results: Path) -> None:
    """HDF5 has no checksums for texts, and does not use all bytes of a file."""
    _, folder = in_segments(results, tmp_path, rows=CRYSTALS)
    (sound,) = folder.segment_paths()
    data = sound.read_bytes()
    rng = random.Random(1)
    with h5py.File(sound) as file:
        values: list[tuple[int, int]] = []
        file["ragged"].visititems(
            lambda name, item: (
                values.extend(
                    (chunk.byte_offset, chunk.size)
                    for chunk in map(item.id.get_chunk_info, range(item.id.get_num_chunks()))
                )
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    flipped = sound.with_name("flipped.h5")
    for place, length in rng.choices(values, k=20):
        flipped.write_bytes(data)
        flip(flipped, place + rng.randrange(length), rng.randrange(8))
        assert find_damage([flipped]), f"a value, at byte {place} or after it"
    for _ in range(60):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        flipped.write_bytes(data)
        flip(flipped, place, bit)
        if not find_damage([flipped]):
            # Whoever reads it later does not stumble.
            assert len(list(_rows(flipped))) == CRYSTALS, f"byte {place}, bit {bit}"


def _rows(path: Path) -> Iterator[dict]:
    from hpcbench.store.table_reader import TableReader

    with TableReader(path) as reader:
        yield from (reader.row(index) for index in range(len(reader)))
