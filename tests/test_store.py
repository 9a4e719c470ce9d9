"""Segments, consolidation, reading back: what is written stays, whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import hpcbench
from hpcbench.criteria import CRITERIA
from hpcbench.errors import StoreError, StoreMismatchError, UsageError
from hpcbench.store.consolidate import consolidate
from hpcbench.store.fields import Field, Origin, Schema
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS, result_schema
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

GIVEN = Origin.GIVEN
SCHEMA = Schema(
    columns=(
        Field("id", "str", origin=GIVEN),
        Field("status", "str", origin=GIVEN),
        Field("cell", "f8", (3, 3), "angstrom", "lattice", origin=GIVEN),
        Field("natoms", "i4", origin=GIVEN),
    ),
    ragged=(
        Field("positions", "f8", (3,), "angstrom", origin=GIVEN),
        Field("labels", "i8", origin=GIVEN),
    ),
)


def make_row(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    natoms = int(rng.integers(0, 7))
    return {
        "id": f"{number:016x}",
        "status": "done",
        "cell": rng.normal(size=(3, 3)),
        "natoms": natoms,
        "positions": rng.normal(size=(natoms, 3)),
        "labels": np.arange(natoms),
    }


def test_rows_read_back_as_written(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(700)]  # several blocks
    with TableWriter(tmp_path / "t.h5", SCHEMA, {"a": 1}) as writer:
        writer.append(rows[:3])
        writer.append(iter(rows[3:]))
    with TableReader(tmp_path / "t.h5") as reader:
        assert len(reader) == 700
        assert reader.settings == {"a": 1}
        assert reader.column_names() == ["id", "status", "natoms", "cell"]
        np.testing.assert_array_equal(reader.column("cell"), [row["cell"] for row in rows])
        assert list(reader.column("id")) == [row["id"] for row in rows]
        for index in (0, 255, 256, 257, 699):
            got = reader.row(index)
            for name, value in rows[index].items():
                np.testing.assert_array_equal(got[name], value)


def test_a_field_without_a_value_is_missing_not_wrong(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.h5", SCHEMA, {}) as writer:
        writer.append([{"id": "only"}])
    with TableReader(tmp_path / "t.h5") as reader:
        row = reader.row(0)
    assert row["status"] == ""
    assert np.isnan(row["cell"]).all()
    assert len(row["positions"]) == 0


def test_every_dataset_says_its_unit_and_meaning(tmp_path: Path) -> None:
    import h5py

    schema = result_schema(3, ("verdict_x",))
    with TableWriter(tmp_path / "t.h5", schema, {}) as writer:
        writer.append([])
    with h5py.File(tmp_path / "t.h5") as file:
        for path, field in schema.by_path().items():
            attributes = file[path].attrs
            assert attributes["unit"] == field.unit
            assert attributes["meaning"], field.name
            assert attributes["encoding-type"], field.name
            assert attributes["encoding-version"], field.name
        assert file["ragged/force_constants/values"].attrs["unit"] == "eV/angstrom^2"
        assert file["ragged/force_constants/values"].dtype == np.float64


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def rows_then_failure():
        yield make_row(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TableWriter(tmp_path / "t.h5", SCHEMA, {}) as writer:
        writer.append(rows_then_failure())
    assert list(tmp_path.iterdir()) == []


def test_a_writer_killed_at_any_moment_leaves_no_torn_table(tmp_path: Path) -> None:
    """SIGKILL while tables are written: what has its final name is whole."""
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_store import SCHEMA, make_row
        from hpcbench.store.table_writer import TableWriter
        print("ready", flush=True)
        for number in range(10_000):
            with TableWriter(Path(sys.argv[1]) / f"t{{number}}.h5", SCHEMA, {{}}) as writer:
                writer.append(make_row(n) for n in range(50))
        """
    )
    for delay in (0.02, 0.05, 0.11, 0.17):
        folder = tmp_path / str(delay)
        folder.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(delay)
            process.send_signal(signal.SIGKILL)
        for path in folder.glob("t*.h5"):
            with TableReader(path) as reader:
                assert len(reader) == 50
                reader.row(49)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of some metals, with one crystal that cannot be computed."""
    from ase.build import bulk

    path = tmp_path_factory.mktemp("store") / "metals.h5"
    crystals = [bulk("Cu", a=3.7), bulk("Al", a=4.1), bulk("Si"), bulk("Cu", a=3.7)]
    crystals[0].info["name"] = "copper"
    crystals += [Atoms("Cu2", [(0, 0, 0), (0, 0, 0.1)], cell=[4, 4, 4], pbc=True)]
    hpcbench.run(
        crystals,
        model="ase.calculators.emt:EMT",
        out=path,
        mesh=(4, 4, 4),
        dtype="float64",
        supercell=(2, 2, 2),
    )
    return path


def test_table_has_a_row_for_every_crystal(finished: Path) -> None:
    table = hpcbench.open(finished).table
    assert list(table["status"].value_counts().sort_index().items()) == [("done", 2), ("failed", 2)]
    for column in (
        "id", "name", "formula", "natoms", "spacegroup", "status", "reason", "verdict",
        "min_frequency_path", "min_frequency_commensurate", "max_frequency", "rank",
    ):  # fmt: skip
        assert column in table
    copper = table[table["name"] == "copper"].iloc[0]
    assert (copper["spacegroup"], copper["natoms"], copper["verdict"]) == ("Fm-3m", 1, "stable")
    # A crystal that occurs twice is one row with two origins.
    assert [index for _, index, _ in json.loads(copper["origins"])] == [0, 3]
    overlap = table[table["formula"] == "Cu2"].iloc[0]
    assert overlap["reason"].startswith("overlap: ")
    silicon = table[table["formula"] == "Si2"].iloc[0]
    assert "No EMT-potential for Si" in silicon["reason"]
    assert np.isnan(silicon["max_frequency"])


def test_phonopy_object_is_the_one_of_the_run(finished: Path) -> None:
    store = hpcbench.open(finished)
    key = store.find("copper")
    row, phonon = store.row(key), store.phonopy(key)
    np.testing.assert_array_equal(phonon.supercell_matrix, row["supercell_matrix"])
    np.testing.assert_allclose(phonon.primitive_matrix, row["primitive_matrix"])
    np.testing.assert_array_equal(phonon.force_constants.ravel(), row["force_constants"].ravel())
    frequencies = np.sort(phonon.run_qpoints(row["band_qpoints"]).frequencies, axis=1)
    # Bands are stored rounded; what decides is not.
    np.testing.assert_allclose(frequencies.ravel(), row["band_frequencies"], atol=5e-6)
    assert frequencies.min() == pytest.approx(row["min_frequency_path"], abs=1e-9)


def test_bands_are_cut_into_their_segments(finished: Path) -> None:
    store = hpcbench.open(finished)
    bands = store.bands(store.find("copper"))
    assert bands.labels[0] == ("GAMMA", "X")
    assert len(bands.distances) == len(bands.frequencies) == len(bands.labels)
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        assert frequencies.shape == (len(distances), 3)
        assert (np.diff(distances) > 0).all()
    phonon = store.phonopy(store.find("copper"))
    reciprocal = np.linalg.inv(phonon.primitive.cell)
    gamma_to_x = np.linalg.norm(reciprocal @ [0.5, 0, 0.5])
    assert bands.distances[0][-1] == pytest.approx(gamma_to_x)


def test_crystals_are_found_by_name_id_and_beginning_of_an_id(finished: Path) -> None:
    store = hpcbench.open(finished)
    key = store.find("copper")
    assert store.find(key) == key
    assert store.find(key[:8]) == key
    with pytest.raises(UsageError, match="has no crystal 'gold'"):
        store.find("gold")
    failed = store.table.index[store.table["status"] == "failed"][0]
    with pytest.raises(StoreError, match="has no phonons"):
        store.phonopy(failed)


def test_what_is_no_store_is_said_so(tmp_path: Path) -> None:
    import h5py

    with pytest.raises(StoreError, match="no such store"):
        hpcbench.open(tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(StoreError, match="is no HDF5 file"):
        hpcbench.open(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(StoreError, match="not one that hpcbench wrote"):
        hpcbench.open(tmp_path / "other.h5")
    with TableWriter(tmp_path / "newer.h5", SCHEMA, {}) as writer:
        writer.append([])
    with h5py.File(tmp_path / "newer.h5", "a") as file:
        file.attrs["encoding-version"] = "2.0"
    with pytest.raises(StoreError, match="written by a newer hpcbench"):
        hpcbench.open(tmp_path / "newer.h5")


def run_folder(tmp_path: Path) -> tuple[RunFolder, Schema]:
    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    return folder, result_schema(1, ())


def test_of_two_results_the_first_committed_stays(tmp_path: Path) -> None:
    folder, schema = run_folder(tmp_path)
    folder.commit([{"id": "a", "status": "done", "energy": 1.0}], schema, {}, 0)
    folder.commit([{"id": "a", "status": "done", "energy": 2.0}], schema, {}, 1)
    assert list(Store(folder.store).table["energy"]) == [1.0]
    assert consolidate(folder, schema, {}) == 1
    folder.commit([{"id": "a", "status": "done", "energy": 3.0}], schema, {}, 0)
    folder.commit([{"id": "b", "status": "done", "energy": 4.0}], schema, {}, 0)
    assert list(Store(folder.store).table["energy"]) == [1.0, 4.0]
    assert consolidate(folder, schema, {}) == 2
    assert folder.segment_paths() == []
    assert list(Store(folder.store).table["energy"]) == [1.0, 4.0]


def test_who_was_stopped_while_consolidating_overwrites_nothing_newer(tmp_path: Path) -> None:
    folder, schema = run_folder(tmp_path)
    folder.commit([{"id": "early", "status": "done"}], schema, {}, 0)
    # It stops when its new file is whole, and has not taken the store's name yet.
    script = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_store import consolidate, run_folder\n"
        "from hpcbench.store import table_writer\n"
        "flush = table_writer._flush\n"
        "def stop(path):\n"
        "    table_writer._flush = flush\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "table_writer._flush = stop\n"
        f"consolidate(*run_folder(Path({str(tmp_path)!r})), {{}})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        # Others take it for dead, and somebody comes with one result more.
        folder.commit([{"id": "late", "status": "done"}], schema, {}, 1)
        assert consolidate(folder, schema, {}) == 2
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"StoreError" in errors
    assert Store(folder.store).ids == ["early", "late"]


def test_torn_files_go_with_the_next_start(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    for place in (folder.path, folder.segments):
        (place / ".x.h5.1.part").write_bytes(b"torn")
    folder.lock()
    folder.remove_torn_files()
    assert folder.torn_files() == []


def test_an_open_store_outlives_its_segments(tmp_path: Path) -> None:
    folder, schema = run_folder(tmp_path)
    folder.commit([{"id": "a", "status": "done", "energy": 1.0}], schema, {}, 0)
    store = Store(folder.store)
    consolidate(folder, schema, {})
    assert store.row("a")["energy"] == 1.0
    folder.commit([{"id": "b", "status": "done", "energy": 2.0}], schema, {}, 0)
    consolidate(folder, schema, {})
    assert list(store.table["energy"]) == [1.0, 2.0]


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    folder, schema = run_folder(tmp_path)
    folder.agree({"dtype": "float32", "fmax": 0.001})
    # Nothing has been computed yet: the settings may still change.
    folder.agree({"dtype": "float64", "fmax": 0.001})
    folder.commit([{"id": "a"}], schema, {}, 0)
    with pytest.raises(StoreMismatchError) as caught:
        folder.agree({"dtype": "float32", "fmax": 0.001})
    assert "dtype: float64 in the store, float32 now" in str(caught.value)
    assert "fmax" not in str(caught.value)


def test_a_second_launch_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "s.h5"), RunFolder(tmp_path / "s.h5")
    first.create()
    first.lock()
    first.share()
    with pytest.raises(StoreError, match="another run is writing"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path, limit: int) -> None:
    """The harm is done by the kernel: files may not grow beyond a limit."""
    script = textwrap.dedent(
        f"""
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_store import run_folder
        from hpcbench.errors import StoreError
        import numpy as np
        folder, schema = run_folder(Path({str(tmp_path)!r}))
        folder.commit([{{"id": "a", "status": "done"}}], schema, {{}}, 0)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        noise = np.random.default_rng(0).normal(size=(5000, 3, 3))
        try:
            folder.commit([{{"id": "b", "force_constants": noise}}], schema, {{}}, 0)
        except StoreError as error:
            print(error)
            sys.exit(3)
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 3, result.stderr
    assert "What was written before is safe" in result.stdout
    store = Store(tmp_path / "s.h5")
    assert store.ids == ["a"]
    assert [p.name for p in store.folder.segments.iterdir()] == [
        store.folder.segment_paths()[0].name
    ]


def test_an_output_path_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # The superuser may write anywhere: a file in place of the folder stops everyone.
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "s.h5"
    else:
        tmp_path.chmod(0o500)
        path = tmp_path / "s.h5"
    with pytest.raises(StoreError, match="cannot write beside"):
        RunFolder(path).create()


def _table_of(schema: Schema) -> str:
    """The fields as docs/store.md lists them."""
    lines = [
        "| path | shape of a row | dtype | unit | origin | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for path, field in schema.by_path().items():
        shape = ", ".join("T" if length == THERMAL else str(length) for length in field.shape)
        dtype = {"str": "text", "category": "categorical"}.get(field.dtype)
        dtype = dtype or np.dtype(field.dtype).name
        many = "n" + (", " if shape else "") if path.startswith("ragged/") else ""
        cells = (f"`{path}`", f"({many}{shape})" if many or shape else "", dtype)
        origin = field.origin.value + ", essential" * (field.is_essential and schema != CRYSTALS)
        lines.append("| " + " | ".join((*cells, field.unit, origin, field.meaning)) + " |")
    return "\n".join(lines)


# No other length of the schema.
THERMAL = 97


def test_the_document_has_every_field() -> None:
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text()
    results = result_schema(THERMAL, tuple(criterion.column for criterion in CRITERIA))
    for schema in (results, CRYSTALS):
        table = _table_of(schema)
        assert table in text, f"docs/store.md should have:\n{table}"


def test_sums_are_what_the_document_says(tmp_path: Path) -> None:
    """Computed here by the words of docs/store.md alone."""
    import hashlib
    import struct

    import h5py

    rows = [make_row(number) for number in range(300)]
    with TableWriter(tmp_path / "t.h5", SCHEMA, {"a": 1}) as writer:
        writer.append(rows)
    with h5py.File(tmp_path / "t.h5") as file:
        fields = list(file["integrity/fields"].asstr())
        edges = file["integrity/rows"][:]
        stored = file["integrity/sha256"][:]
    assert fields == sorted(fields)
    assert list(edges) == [0, 256, 300]
    for block, (first, end) in enumerate(itertools.pairwise(edges)):
        part = rows[first:end]
        cells = np.array([row["cell"] for row in part], dtype="<f8").tobytes()
        texts = b"".join(struct.pack("<q", 4) + b"done" for _ in part)
        counts = np.array([len(row["positions"]) for row in part], dtype="<i8").tobytes()
        values = b"".join(np.asarray(row["positions"], dtype="<f8").tobytes() for row in part)
        for path, data in (
            ("arrays/cell", cells),
            ("crystals/status", texts),
            ("ragged/positions", counts + values),
        ):
            expected = hashlib.sha256(data).digest()
            assert bytes(stored[block, fields.index(path)]) == expected
