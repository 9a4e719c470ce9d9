"""Reading a store: whole, in part, one crystal, from elsewhere, and without hpcbench."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.build import bulk

import hpcbench
from hpcbench.errors import StoreError, UsageError
from hpcbench.store.fields import Block, block_of
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import result_schema
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

METALS = ("Cu", "Al", "Ag", "Au")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four metals, one of them unstable, and one crystal that cannot be computed."""
    path = tmp_path_factory.mktemp("store") / "metals.h5"
    crystals = [bulk(symbol) for symbol in METALS]
    # A square lattice of gold is no minimum: imaginary modes.
    crystals += [bulk("Au", "sc", a=2.8), bulk("Si")]
    for crystal, name in zip(crystals, (*METALS, "Au sc", "Si"), strict=True):
        crystal.info["name"] = name
    hpcbench.run(
        crystals,
        model="ase.calculators.emt:EMT",
        out=path,
        mesh=(4, 4, 4),
        supercell=(2, 2, 2),
        dtype="float64",
        band_points=21,
        keep_forces=True,
    )
    return path


def test_one_crystal_is_a_frozen_value(finished: Path) -> None:
    store = hpcbench.open(finished)
    copper = store["Cu"]
    assert copper.id == store.find("Cu")
    assert (copper.status, copper.verdict, copper.formula) == ("done", "stable", "Cu")
    assert copper.given is not None
    assert copper.relaxed is not None
    assert copper.given.to_ase().get_chemical_formula() == "Cu"
    assert copper.relaxed.to_pymatgen().composition.formula == "Cu1"
    assert copper.relaxed.lattice.shape == (3, 3)
    assert copper.force_constants is not None
    assert copper.force_constants.shape == (1, 8, 3, 3)
    np.testing.assert_array_equal(store.force_constants(copper.id), copper.force_constants)
    assert copper.verdicts["phononbench"] == "stable"
    assert copper.row["attempts"] == 1
    assert copper.row["character"] in ("clean", "within noise")
    # A primitive cell of one atom has no optical modes.
    assert abs(copper.row["gamma_acoustic"]) < 1e-3 and np.isnan(copper.row["gamma_optical"])
    assert "at commensurate q" in store["Au sc"].row["character"]
    assert store["Au sc"].row["imaginary_path"] > 0.1 > copper.row["imaginary_path"]
    # What a person sees who prints it.
    assert len(repr(store["Au sc"])) < 1500 and "UnstableMode(frequency=-" in repr(store["Au sc"])
    with pytest.raises(KeyError, match="takes names"):
        store.row("Cu")
    assert copper.row["peak_memory"] > 1e7
    assert 0 < copper.row["force_noise"] < 1e-4
    assert 0 <= copper.row["noise_mesh"] < 0.1
    assert len(copper.row["stage_steps"]) == len(copper.row["stage_energy"]) == 2
    assert copper.row["stage_energy"][-1] == copper.energy
    with pytest.raises(dataclasses.FrozenInstanceError):
        copper.name = "other"  # type: ignore[misc]
    silicon = store["Si"]
    assert silicon.reason.startswith("potential: ")
    assert silicon.relaxed is silicon.bands is silicon.force_constants is None


def test_unstable_modes_solve_the_dynamical_matrix(finished: Path) -> None:
    store = hpcbench.open(finished)
    gold = store["Au sc"]
    assert gold.verdict == "unstable"
    assert gold.unstable_modes
    assert min(m.frequency for m in gold.unstable_modes) == pytest.approx(
        min(gold.min_frequencies.values())
    )
    phonon = store.phonopy("Au sc")
    for mode in gold.unstable_modes:
        phonon.dynamical_matrix.run(mode.qpoint)
        vector = mode.eigenvector.ravel()
        assert np.linalg.norm(vector) == pytest.approx(1.0)
        value = mode.frequency * abs(mode.frequency) / phonon.unit_conversion_factor**2
        np.testing.assert_allclose(
            phonon.dynamical_matrix.dynamical_matrix @ vector, value * vector, atol=1e-12
        )


def test_forces_that_were_kept_give_the_force_constants(finished: Path) -> None:
    store = hpcbench.open(finished)
    row = store["Au sc"].row
    phonon = store.phonopy("Au sc")
    expected = np.array(phonon.force_constants)
    natoms = len(phonon.supercell)
    displaced = zip(row["displacement_atoms"], row["displacement_vectors"], strict=True)
    forces = np.array(row["forces"]).reshape(-1, natoms, 3)
    phonon.dataset = {
        "natom": natoms,
        "first_atoms": [
            {"number": int(atom), "displacement": vector, "forces": f}
            for (atom, vector), f in zip(displaced, forces, strict=True)
        ],
    }
    phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    np.testing.assert_allclose(phonon.force_constants, expected, atol=1e-10)


def test_slices_filters_and_masks(finished: Path) -> None:
    store = hpcbench.open(finished)
    assert len(store) == 6
    assert store[:2].ids == store.ids[:2]
    stable = store.where("verdict == 'stable' and natoms == 1")
    assert set(stable.table["name"]) == set(METALS)
    assert store[store.table["verdict"] == "stable"].ids == stable.ids
    assert store[[store.ids[3], store.ids[1]]].ids == [store.ids[1], store.ids[3]]
    assert [result.id for result in stable] == stable.ids
    assert stable["Cu"].name == "Cu"
    assert len(stable.where("name == 'Cu'")) == 1
    with pytest.raises(UsageError, match="no condition on the table"):
        store.where("nonsense ==")
    with pytest.raises(UsageError, match="give ids"):
        store[["Cu"]]
    with pytest.raises(UsageError, match="a mask of 2 for 6"):
        store[np.array([True, False])]


def test_a_view_stays_itself_when_segments_are_consolidated(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    schema = result_schema(1, ())
    for key in "abc":
        folder.commit([{"id": key, "name": key, "status": "done"}], schema, {}, 0)
    view = hpcbench.open(folder.store)[["b"]]
    from hpcbench.store.consolidate import consolidate

    consolidate(folder, schema, {})
    assert list(view.table["name"]) == ["b"]
    assert view.ids == ["b"]


def test_as_xarray(finished: Path) -> None:
    store = hpcbench.open(finished)
    data = store.to_xarray(ragged=("numbers",))
    assert data["min_frequency_path"].sel(id=store.find("Cu")) == pytest.approx(
        store["Cu"].min_frequencies["path"]
    )
    assert data["entropy"].dims == ("id", "temperature")
    assert data["entropy"].attrs["units"] == "J/K/mol"
    assert list(data["temperature"]) == [0, 75, 150, 300, 600, 1000]
    assert data["relaxed_cell"].dims == ("id", "direction", "component")
    assert data["numbers_count"].sum() == data.sizes["numbers_value"] == 7
    with pytest.raises(UsageError, match="no ragged array 'other'"):
        store.to_xarray(ragged=("other",))


def test_bands_are_rounded_and_force_constants_are_not(finished: Path, tmp_path: Path) -> None:
    with h5py.File(finished) as file:
        assert file["ragged/band_frequencies/values"].dtype == np.float32
        assert file["ragged/force_constants/values"].dtype == np.float64
    whole = tmp_path / "whole.h5"
    hpcbench.run(
        [bulk("Cu")], model="ase.calculators.emt:EMT", out=whole, mesh=(2, 2, 2),
        supercell=(2, 2, 2),
        dtype="float64", band_dtype="float64",
    )  # fmt: skip
    with h5py.File(whole) as file:
        assert file["ragged/band_frequencies/values"].dtype == np.float64
        assert len(file["ragged/forces/values"]) == 0
    phonon = hpcbench.open(whole).phonopy("Cu")
    row = hpcbench.open(whole)["Cu"].row
    frequencies = np.sort(phonon.run_qpoints(row["band_qpoints"]).frequencies, axis=1)
    np.testing.assert_allclose(row["band_frequencies"], frequencies.ravel(), atol=1e-9)


def test_fields_of_a_later_version_are_carried_on(finished: Path, tmp_path: Path) -> None:
    from hpcbench.store.consolidate import consolidate
    from hpcbench.store.fields import Field, Origin, Schema

    with TableReader(finished) as reader:
        schema, settings = reader.schema, reader.settings
        rows = list(reader.rows(range(6)))
    later = Schema(
        (*schema.columns, Field("charm", "f8", (), "eV", "unheard of", origin=Origin.COMPUTED)),
        (*schema.ragged, Field("charms", "f8", (3,), "eV", "more of it", origin=Origin.COMPUTED)),
    )
    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    for row in rows:
        row["charm"], row["charms"] = 7.0, np.ones((2, 3))
    with TableWriter(folder.store, later, settings) as writer:
        writer.append(rows[:4])
    folder.commit(rows[4:], schema, settings, 0)
    assert consolidate(folder, schema, settings) == 6
    table = hpcbench.open(folder.store).table
    assert list(table["charm"].fillna(0.0)) == [7.0] * 4 + [0.0] * 2
    with TableReader(folder.store) as reader:
        assert reader.ragged("charms", 3).shape == (2, 3)
        assert reader.ragged("charms", 5).shape == (0, 3)


def test_h5py_alone_can_make_sense_of_it(finished: Path) -> None:
    with h5py.File(finished) as file:
        assert file["arrays/entropy"].dims[0][0] == file["crystals/id"]
        np.testing.assert_array_equal(file["arrays/entropy"].dims[1][0][:], file["temperatures"])
        group = file[file.attrs["default"]]
        assert group.attrs["NX_class"] == "NXentry"
        assert len(group) == 5
        plot = group[group.attrs["default"]]
        assert plot.attrs["NX_class"] == "NXdata"
        signal = plot[plot.attrs["signal"]]
        axes = [plot[name] for name in plot.attrs["axes"]]
        assert signal.shape == tuple(map(len, axes))
        assert signal.attrs["units"] == "THz"
        key = plot.name.rpartition("/")[2]
        bands = hpcbench.open(finished)[key].bands
        assert bands is not None
        np.testing.assert_allclose(signal[:], np.concatenate(bands.frequencies), rtol=1e-6)
        np.testing.assert_allclose(axes[0][:], np.concatenate(bands.distances))
        crystals = file["crystals"]
        assert crystals.attrs["encoding-type"] == "dataframe"
        names = {crystals.attrs["_index"], *crystals.attrs["column-order"]}
        assert names == set(crystals)


def test_anndata_reads_the_table(finished: Path) -> None:
    io = pytest.importorskip("anndata.io")
    with h5py.File(finished) as file, warnings.catch_warnings():
        # Of anndata's own, about its settings.
        warnings.simplefilter("ignore")
        table = io.read_elem(file["crystals"])
    ours = hpcbench.open(finished).table
    assert list(table.index) == list(ours.index)
    assert list(table["verdict"]) == list(ours["verdict"])


def test_h5ls_lists_it(finished: Path) -> None:
    if shutil.which("h5ls") is None:
        pytest.skip("h5ls is not installed")
    listing = subprocess.run(
        ["h5ls", "-r", str(finished)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"/arrays/cell +Dataset \{6/Inf, 3, 3\}", listing)


class _Parts(SimpleHTTPRequestHandler):
    """Sends parts of files, as file servers do; the standard library's handler does not."""

    asked: list[int]

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        words = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(words[1]), int(words[2])) if words else (0, len(data) - 1)
        part = data[first : last + 1]
        self.send_response(206 if words else 200)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.server.asked.append(len(part))  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(finished: Path) -> Iterator[ThreadingHTTPServer]:
    def handler(*arguments: Any) -> _Parts:
        return _Parts(*arguments, directory=str(finished.parent))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as there:
        there.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield there
        there.shutdown()


def test_a_store_on_a_server(finished: Path, server: ThreadingHTTPServer) -> None:
    pytest.importorskip("aiohttp")
    base = f"http://127.0.0.1:{server.server_port}"
    with hpcbench.open(f"{base}/metals.h5") as store, hpcbench.open(finished) as here:
        assert store.ids == here.ids
        np.testing.assert_array_equal(
            store.force_constants(store.ids[1]), here.force_constants(here.ids[1])
        )
        assert list(store.table["verdict"]) == list(here.table["verdict"])
        assert [result.id for result in store[:3]] == here.ids[:3]
    with pytest.raises(StoreError, match="cannot be opened"):
        hpcbench.open(f"{base}/other.h5")


def test_a_read_only_mount(finished: Path, tmp_path: Path) -> None:
    mount = ["mount", "--bind", "-o", "ro", str(finished.parent), str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "x").touch()
        with hpcbench.open(tmp_path / "metals.h5") as store:
            assert len(store.table) == 6
            assert store["Cu"].verdict == "stable"
        # A file so large that it is not read as a whole is locked by HDF5, if it can be.
        with h5py.File(tmp_path / "metals.h5", "r", locking="best-effort") as file:
            assert len(file["crystals/id"]) == 6
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_table_of_a_hundred_thousand_takes_less_than_a_second(tmp_path: Path) -> None:
    schema = result_schema(6, ("verdict_a", "verdict_b"))
    rng = np.random.default_rng(0)
    row = {
        field.name: rng.random(field.shape) if field.shape else rng.random()
        for field in schema.columns
        if not field.is_text and np.dtype(field.dtype).kind == "f"
    }
    one = block_of([{**row, "status": "done"}], schema)
    ids = np.array([f"{number:016x}" for number in range(100_000)], dtype=object)
    rows = one.take(np.zeros(len(ids), dtype=np.int64))
    own = {"crystals/id": ids, "crystals/name": ids}
    with TableWriter(tmp_path / "s.h5", schema, {}) as writer:
        writer.append_blocks([Block(len(rows), rows.values | own)])
    # In a process of its own: here Python's garbage collector looks at all that tests have made.
    # The import of pandas is not the store's. Beside what h5py alone takes for the columns, and
    # the best of three: this machine may be slow, or busy.
    script = (
        "import sys, time, h5py, hpcbench, pandas\n"
        "def seconds(action):\n"
        "    start = time.process_time()\n"
        "    assert action() == 100_000\n"
        "    return time.process_time() - start\n"
        "def table():\n"
        "    return len(hpcbench.open(sys.argv[1]).table)\n"
        "def columns():\n"
        "    with h5py.File(sys.argv[1]) as file:\n"
        "        items = [file['crystals'][name] for name in file['crystals']]\n"
        "        items = [item['codes'] if isinstance(item, h5py.Group) else item\n"
        "                 if item.dtype != object else item.asstr() for item in items]\n"
        "        return [len(item[:]) for item in items][0]\n"
        "times = [(seconds(table), seconds(columns)) for _ in range(3)]\n"
        "print(*map(min, zip(*times)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "s.h5"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    ours, bare = map(float, answer.stdout.split())
    assert ours < 1.0 or ours < 3.5 * bare


def test_a_mask_means_the_crystals_that_it_names(finished: Path) -> None:
    store = hpcbench.open(finished)
    sorted_table = store.table.sort_values("energy")
    chosen = store[sorted_table["energy"] < 0]
    assert set(chosen.ids) == set(sorted_table.index[sorted_table["energy"] < 0])
    assert store[0].id == store.ids[0]
    assert store[-1].id == store.ids[-1]
    with pytest.raises(IndexError):
        store[17]


def test_a_store_travels_to_another_process(finished: Path) -> None:
    store = hpcbench.open(finished)
    store.row(store.ids[0])
    assert pickle.loads(pickle.dumps(store)).ids == store.ids


def test_files_with_unlike_fields_make_one_table(tmp_path: Path) -> None:
    from hpcbench.store.fields import Field, Origin, Schema

    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    schema = result_schema(1, ())
    later = Schema(
        (*schema.columns, Field("charm", "i4", (3,), origin=Origin.COMPUTED)), schema.ragged
    )
    folder.commit([{"id": "a", "natoms": 3, "idealised": True}], schema, {}, 0)
    folder.commit([{"id": "b", "charm": [1, 2, 3]}], later, {}, 0)
    store = hpcbench.open(folder.store)
    np.testing.assert_array_equal(store.column("charm"), [[0, 0, 0], [1, 2, 3]])
    assert list(store.table["natoms"]) == [3, 0]
    assert store.table["idealised"].dtype == bool
    assert store.to_xarray()["charm"].shape == (2, 3)
    with pytest.raises(UsageError, match="has no column 'other'"):
        store.column("other")


def test_a_store_without_rows(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "s.h5", result_schema(1, ()), {"temperatures": [300.0]}) as writer:
        writer.append([])
    store = hpcbench.open(tmp_path / "s.h5")
    assert len(store) == len(store.table) == len(store.where("natoms < 3")) == 0
    assert store.to_xarray()["cell"].shape == (0, 3, 3)
    assert list(store) == []


def test_a_torn_segment_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    for key in "ab":
        folder.commit([{"id": key}], result_schema(1, ()), {}, 0)
    torn = folder.segment_paths()[0]
    torn.write_bytes(torn.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=f"left out: {torn}"):
        store = hpcbench.open(folder.store)
    assert store.ids == ["b"]


def test_a_file_of_the_same_number_is_not_taken_for_the_one_that_was_listed(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "s.h5")
    folder.create()
    schema = result_schema(1, ())

    def write(ids: str) -> None:
        with TableWriter(folder.store, schema, {}) as writer:
            writer.append({"id": key, "name": key} for key in ids)

    write("abc")
    store = hpcbench.open(folder.store)
    assert store.row("a")["name"] == "a"
    for ids in ("cab", "bca", "cba", "bac"):  # numbers of inodes are used again
        write(ids)
        assert store.row("a")["name"] == "a"
        assert [row["name"] for row in store.rows()] == list(ids)


def test_a_store_that_is_left_open_does_no_harm_at_the_end(finished: Path) -> None:
    """Not even one that something has forgotten to let go."""
    script = (
        "import ctypes, hpcbench\n"
        f"store = hpcbench.open({str(finished)!r})\n"
        "store.table\n"
        "(reader,) = store._files._readers.values()\n"
        "for item in (reader, reader._file, reader._file.id):\n"
        "    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
