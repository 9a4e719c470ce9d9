"""Stores that a stranger has made: refused or read, in a moment, and nothing else happens."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
from ase import Atoms
from ase.build import bulk

import hpcbench
from hpcbench.cli import main
from hpcbench.errors import HpcbenchError, StoreError, UnreadableError
from hpcbench.events import read_events
from hpcbench.interop.export_files import each_its_own, safe_name
from hpcbench.interop.exporting import export
from hpcbench.interop.spreadsheets import as_cell, from_cell
from hpcbench.json_text import json_of
from hpcbench.store.examiner import Examiner
from hpcbench.store.known import wrong_id
from hpcbench.store.physics import phonopy_of
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter
from hpcbench.texts import LONGEST_REASON, one_line, printable, shortened

SECONDS = 5.0
"""In which a store is refused: a second, on a machine that has other work to do."""
SHOUT = "x\x1b[31m\x1b]0;title\x07\u202e<script>alert(1)</script>"
FORMULA = '=HYPERLINK("http://example.org")'


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metals, stable and not, with forces kept; and one crystal that cannot be computed."""
    path = tmp_path_factory.mktemp("strangers") / "metals.h5"
    crystals = [
        bulk("Cu", a=3.7),
        bulk("Al", a=4.1),
        bulk("Ni", "bcc", a=2.7),
        Atoms("AuCu", [(0, 0, 0), (1.9, 1.9, 1.9)], cell=[3.8] * 3, pbc=True),
        bulk("Si"),
    ]
    settings = {"mesh": (4, 4, 4), "dtype": "float64", "band_points": 11, "keep_forces": True}
    settings |= {"supercell": (2, 2, 2), "workers": 0, "max_steps": 200}
    hpcbench.run(crystals, model="ase.calculators.emt:EMT", out=path, **settings)
    shutil.rmtree(path.with_name("metals.h5.run"))
    return path


def ids_of_computed(finished: Path) -> list[str]:
    """Return those of the metals, in the order of the store."""
    table = hpcbench.open(finished).table
    return [str(key) for key in table.index[table["status"] == "done"]]


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copy(finished, tmp_path / "store.h5"))


def replaced(file: h5py.File, path: str, make: Callable[[h5py.Dataset], Any]) -> None:
    """Put something else in the place of an object, with its attributes."""
    there = file[path]
    attributes = dict(there.attrs)
    made = make(there)
    del file[path]
    file[path] = made
    if isinstance(made, h5py.Dataset | np.ndarray):
        file[path].attrs.update(
            {k: v for k, v in attributes.items() if k in ("encoding-type", "encoding-version")}
        )


def external(file: h5py.File, path: str, elsewhere: str) -> None:
    """The values of a column are bytes of another file."""
    shape, dtype, attributes = file[path].shape, file[path].dtype, dict(file[path].attrs)
    del file[path]
    made = file.create_dataset(path, shape, dtype, external=[(elsewhere, 0, h5py.h5f.UNLIMITED)])
    made.attrs["encoding-type"], made.attrs["unit"] = attributes["encoding-type"], ""


def virtual(file: h5py.File, path: str) -> None:
    shape, dtype = file[path].shape, file[path].dtype
    del file[path]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource("secret.h5", "x", shape, dtype)
    file.create_virtual_dataset(path, layout).attrs["encoding-type"] = "array"


def written(path: str, row: Any, value: Any) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        values = file[path][:]
        values[row] = value
        file[path][:] = values

    return harm


def settings(**changed: Any) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        values = json.loads(file["settings"][()]) | changed
        replaced(file, "settings", lambda _: json.dumps(values))

    return harm


def text_of_settings(text: str) -> Callable[[h5py.File], None]:
    return lambda file: replaced(file, "settings", lambda _: text)


def longer(rows: int) -> Callable[[h5py.File], None]:
    """All columns are to have so many rows, of which there are none in the file."""

    def harm(file: h5py.File) -> None:
        for item in file["crystals"].values():
            (item["codes"] if isinstance(item, h5py.Group) else item).resize((rows,))

    return harm


def linked(path: str, link: Any) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        file.pop(path, None)
        file[path] = link

    return harm


def packed_twice(file: h5py.File) -> None:
    """A kilobyte that becomes a gigabyte: gzip of gzip."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((5,))
    plan.set_deflate(9)
    plan.set_deflate(9)
    del file["crystals/natoms"]
    space = h5py.h5s.create_simple((5,))
    h5py.h5d.create(file.id, b"crystals/natoms", h5py.h5t.NATIVE_INT32, space, plan)


def one_text_for_all(file: h5py.File) -> None:
    """Very many names that are one and the same long text of the file."""
    ids = file["crystals/id"]
    before = ids.asstr()[:]
    rows = 5
    long = "n" * 300_000
    names = file["crystals/name"]
    names[0] = long
    reference = names.id.read_direct_chunk((0,))[1][:16]
    names.id.write_direct_chunk((0,), reference * 1024)
    assert len(names) == rows and list(before) == list(ids.asstr()[:])


def deep(file: h5py.File) -> None:
    group = file["crystals"]
    for _ in range(20):
        group = group.create_group("g")


FOREIGN: dict[str, Callable[[h5py.File], None]] = {
    "external link": linked("crystals/name", h5py.ExternalLink("secret.h5", "/x")),
    "link to a pipe": linked("crystals/name", h5py.ExternalLink("pipe", "/x")),
    "soft link": linked("crystals/name", h5py.SoftLink("/crystals/id")),
    "loop": linked("crystals/loop", h5py.SoftLink("/crystals")),
    "link of the gallery": linked("gallery/more", h5py.ExternalLink("secret.h5", "/")),
    "link to the settings": linked("settings", h5py.ExternalLink("secret.h5", "/x")),
    "link in a field": linked("ragged/numbers/values", h5py.SoftLink("/ragged/forces/values")),
    "two names": lambda file: file.__setitem__("ragged/self", file["ragged"]),
    "two names of a column": lambda file: file.__setitem__("crystals/more", file["crystals/id"]),
    "external column": lambda file: external(file, "crystals/natoms", "/etc/passwd"),
    "external pipe": lambda file: external(file, "crystals/energy", "pipe"),
    "external array": lambda file: external(file, "arrays/stress", "/etc/passwd"),
    "virtual column": lambda file: virtual(file, "crystals/energy"),
    "packed twice": packed_twice,
    "deep": deep,
    "10^9 rows": longer(10**9),
    "10^12 rows": longer(10**12),
    "10^12 values": lambda file: file["ragged/numbers/values"].resize(10**12, axis=0),
    "references": lambda file: file.create_dataset("crystals/refs", (5,), h5py.ref_dtype),
    "compound": lambda file: file.create_dataset("crystals/pairs", (5,), "i4,i4"),
    "texts of one length": lambda file: replaced(
        file, "crystals/name", lambda there: np.array(there[:], "S8")
    ),
}
"""What hpcbench never writes, and HDF5 would read."""

UNSOUND: dict[str, Callable[[h5py.File], None]] = {
    "id that leads up": written("crystals/id", 0, "../../../../up"),
    "id from the root": written("crystals/id", 1, "/tmp/up"),
    "id with a slash": written("crystals/id", 2, "a/b"),
    "id that shouts": written("crystals/id", 3, SHOUT),
    "id of a line": written("crystals/id", 3, "a\nb"),
    "no id": written("crystals/id", 4, ""),
    "id twice": lambda file: file["crystals/id"].__setitem__(1, file["crystals/id"][0]),
    "rows missing": lambda file: file["crystals/energy"].resize((3,)),
    "no names": lambda file: file.__delitem__("crystals/name"),
    "no status": lambda file: file.__delitem__("crystals/status"),
    "no settings": lambda file: file.__delitem__("settings"),
    "settings of brackets": text_of_settings("[" * 100_000),
    "settings that are a list": text_of_settings("[1]"),
    "settings that are no text": lambda file: replaced(file, "settings", lambda _: 3.0),
    "unknown criterion": settings(criterion="<script>alert(1)</script>"),
    "criterion that is a number": settings(criterion=3),
    "temperatures that are none": settings(temperatures=["warm"]),
    "criteria from a file": settings(criteria="/etc/passwd"),
    "criteria that are none": settings(criteria=[[["["]]]),
    "mesh that is a table": settings(mesh={"a": 1}),
}
"""What no store that hpcbench can make something of says of all its crystals."""

UNREADABLE: dict[str, Callable[[h5py.File], None]] = {
    "codes": written("crystals/status/codes", 0, 10**9),
    "negative codes": written("crystals/status/codes", 0, -2),
    "names that are numbers": lambda file: replaced(
        file, "crystals/name", lambda there: np.arange(5)
    ),
    "numbers that are names": lambda file: replaced(
        file, "crystals/natoms", lambda there: np.array(["a"] * 5, object)
    ),
    "one text for all": one_text_for_all,
}
"""What the table of results ends with."""


def go_astray(file: h5py.File) -> None:
    for name in file["ragged"]:
        written(f"ragged/{name}/indptr", slice(1, -1), (-5, 10**15) * 2)(file)


CRYSTALS: dict[str, Callable[[h5py.File], None]] = {
    "huge supercells": written("arrays/supercell_matrix", slice(None), 100_000),
    "skew supercells": written(
        "arrays/supercell_matrix", slice(None), [[2, 10**6, 0], [0, 2, 0], [0, 0, 2]]
    ),
    "flat supercells": written("arrays/supercell_matrix", slice(None), 0),
    "force constants that are none": written("ragged/force_constants/values", slice(None), np.nan),
    "flat cells": written("arrays/relaxed_cell", slice(None), 0.0),
    "infinite cells": written("arrays/relaxed_cell", slice(None), np.inf),
    "primitive cells": written("arrays/primitive_matrix", slice(None), 1e300),
    "no elements": written("ragged/numbers/values", slice(None), -7),
    "places that lead astray": go_astray,
    "blocks that lead astray": written("integrity/rows", -1, 10**12),
}
"""What phonopy and others cannot work on, or would for ever."""

TEXTS: dict[str, Callable[[h5py.File], None]] = {
    "origins": written("crystals/origins", slice(0, 3), ("not json", "[[1,2]]", "[" * 100_000)),
    "labels": lambda file: replaced(
        file,
        "crystals/band_labels/categories",
        lambda there: np.array(['[["</text><script>alert(1)</script>","X"]]'] * len(there), object),
    ),
    "provenance": lambda file: replaced(
        file,
        "crystals/provenance/categories",
        lambda there: np.array(['{"<script>alert(1)</script>":"</td>"}'] * len(there), object),
    ),
    "provenance that is none": lambda file: replaced(
        file,
        "crystals/provenance/categories",
        lambda there: np.array(["[" * 50_000] * len(there), object),
    ),
    "names": written("crystals/name", slice(0, 3), (SHOUT, FORMULA, "n" * 9000)),
    "reasons": written("crystals/reason", slice(None), (SHOUT + "\n") * 5000),
    "settings": settings(**{'x"><img src=x onerror=alert(1)>': "</script><script>alert(1)"}),
    "model": settings(model=SHOUT),
}


@pytest.fixture
def stranger(store: Path) -> Callable[[Callable[[h5py.File], None]], Path]:
    def make(harm: Callable[[h5py.File], None]) -> Path:
        os.mkfifo(store.with_name("pipe"))
        with h5py.File(store.with_name("secret.h5"), "w") as file:
            file["x"] = np.array([b"SECRET"] * 5, dtype=h5py.string_dtype())
        with h5py.File(store, "r+") as file:
            harm(file)
        return store

    return make


@pytest.mark.parametrize("harm", FOREIGN.values(), ids=FOREIGN)
def test_what_hpcbench_never_writes_is_refused_before_it_is_read(
    stranger: Any, harm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stranger(harm)
    start = time.perf_counter()
    with pytest.raises(StoreError, match="hpcbench writes no such file"):
        hpcbench.open(path)
    with pytest.raises(StoreError):
        Examiner(path)
    assert time.perf_counter() - start < SECONDS
    assert main(["export", str(path), "-o", "-"]) == 3
    said = capsys.readouterr()
    assert "SECRET" not in said.out and "root:" not in said.out
    assert str(path) in said.err


def test_who_reads_a_single_field_is_told_as_well(stranger: Any) -> None:
    """Segments are not looked at as a whole: there are thousands of them."""
    path = stranger(FOREIGN["external column"])
    with TableReader(path) as reader:
        assert len(reader.column("name")) == 5
        with pytest.raises(StoreError, match="natoms: its values are in another file"):
            reader.column("natoms")
    os.unlink(path.with_name("pipe"))
    with h5py.File(path, "r+") as file:
        del file["crystals/natoms"]
        file["crystals/natoms"] = h5py.ExternalLink("secret.h5", "/x")
    with pytest.raises(StoreError, match="link to somewhere else"):
        TableReader(path)


@pytest.mark.parametrize("harm", UNSOUND.values(), ids=UNSOUND)
def test_what_all_crystals_lack_is_said_on_opening(stranger: Any, harm: Any) -> None:
    path = stranger(harm)
    start = time.perf_counter()
    with pytest.raises(StoreError, match=str(path)):
        hpcbench.open(path)
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize("harm", UNREADABLE.values(), ids=UNREADABLE)
def test_a_table_that_is_none_is_an_error(stranger: Any, harm: Any) -> None:
    path = stranger(harm)
    start = time.perf_counter()
    with pytest.raises(StoreError, match=str(path)):
        _ = hpcbench.open(path).table
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize("harm", CRYSTALS.values(), ids=CRYSTALS)
def test_crystals_of_which_nothing_can_be_made_are_an_error(
    finished: Path, stranger: Any, harm: Any
) -> None:
    computed = ids_of_computed(finished)
    start = time.perf_counter()
    store = hpcbench.open(stranger(harm))
    for key in computed:
        with pytest.raises(StoreError):
            store.phonopy(key)
    for kind in ("phonopy", "pymatgen", "forces"):
        with pytest.raises(StoreError):
            export(store, kind, store.path.with_name(f"out-{kind}"))
    assert time.perf_counter() - start < SECONDS


def shown(path: Path, out: Path) -> list[list[str | Path]]:
    """Commands of which people see what they read from a store."""
    return [
        ["status", path],
        ["show", "Al", path],
        ["report", path, "-o", f"{out}.html", "--table"],
        ["export", path, "-o", f"{out}.csv"],
        ["diff", path, path, "--csv", f"{out}-diff.csv"],
    ]


def others(path: Path, out: Path) -> list[list[str | Path]]:
    """All others that read a store."""
    return [
        ["report", path, "--json", f"{out}.json"],
        ["export", path, "--format", "extxyz", "-o", f"{out}.extxyz"],
        ["export", path, "--format", "cif", "-o", f"{out}-cif"],
        ["export", path, "--format", "phononbench", "-o", f"{out}-phononbench"],
        ["export", path, "--format", "band-yaml", "-o", f"{out}-bands"],
        ["merge", path, "-o", f"{out}-merged.h5"],
    ]


# Other commands say of what they read what their errors say: shown once, the rest at night.
COMMANDS = [
    *(pytest.param(harm, shown, id=name) for name, harm in TEXTS.items()),
    *(
        pytest.param(
            harm, others, id=f"{name}, others",
            marks=[] if name in ("names", "model") else pytest.mark.nightly,
        )
        for name, harm in TEXTS.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "commands"), COMMANDS)
def test_texts_command_no_terminal_and_no_page(
    stranger: Any, harm: Any, commands: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(stranger(harm), tmp_path / "out"):
        assert main([str(word) for word in words]) in (0, 1, 2, 3)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert text == printable(text)
        assert max(map(len, text.splitlines()), default=0) < 2000
    page = tmp_path / "out.html"
    if page.exists():
        html = page.read_text()
        assert "<script>alert" not in html and "<img" not in html
        assert "\x1b" not in html


def test_names_are_no_formulas_in_spreadsheets(
    stranger: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (FORMULA, "-1.5", "@x")
    path = stranger(written("crystals/name", slice(0, 3), names))
    table = hpcbench.open(path).table
    assert main(["export", str(path), "-o", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows[:3]] == [f"'{FORMULA}", "-1.5", "'@x"]
    assert [from_cell(row["name"]) for row in rows] == list(table["name"])
    numbers = pandas.Series([float(row["min_frequency_path"] or "nan") for row in rows])
    assert (numbers < 0).any()
    np.testing.assert_array_equal(numbers, table["min_frequency_path"])


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra", " =1", "\uff1d1"])
def test_a_cell_that_looks_like_a_formula_is_marked(text: str) -> None:
    assert as_cell(text) == f"'{text}"
    assert from_cell(as_cell(text)) == text


@pytest.mark.parametrize("text", ["", "Cu", "-1", "+2.5e-3", "'quoted", "a=b", "'", "P-1"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert as_cell(text) == from_cell(text) == text


def test_names_of_files_lead_nowhere_and_are_different() -> None:
    for name in ("../../x", "/etc/passwd", "..", "-rf", ".hidden", "a\0b", SHOUT, "", "\u202e"):
        safe = safe_name(name)
        assert "/" not in safe and not safe.startswith((".", "-")) and safe == one_line(safe)
    names = each_its_own({"a": "Si", "b": "si", "c": "SI", "d": "si-2", "e": "Ge"})
    assert names == {"a": "Si", "b": "si-2", "c": "SI-3", "d": "si-2-2", "e": "Ge"}


def test_crystals_whose_names_differ_in_capitals_have_their_own_files(
    stranger: Any, tmp_path: Path
) -> None:
    path = stranger(written("crystals/name", slice(0, 4), ("cu", "Cu", "CU", "../cu")))
    store = hpcbench.open(path)
    for kind, where in (("phononbench", "phonon-calculation-output/gpu0_part0"), ("cif", "")):
        assert export(store, kind, tmp_path / kind) >= 4
        files = [file.name.lower() for file in (tmp_path / kind / where).iterdir()]
        assert len(set(files)) == len(files) >= 4
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("cu")) == []


def test_a_pipe_and_a_folder_are_no_stores(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name in ("pipe.h5", "folder.h5"):
        with pytest.raises(StoreError, match=f"{name}: is no file"):
            hpcbench.open(tmp_path / name)


def test_more_than_a_limit_is_not_read_at_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcbench.store.datasets.MOST_AT_ONCE", 1000)
    with pytest.raises(StoreError, match="bytes at once, more than 1,000"):
        list(hpcbench.open(store))
    monkeypatch.setattr("hpcbench.store.datasets.MOST_AT_ONCE", 10**9)
    monkeypatch.setattr("hpcbench.store.table_reader.MOST_AT_ONCE", 1000)
    with pytest.raises(StoreError, match="have more than 1,000 bytes"):
        list(hpcbench.open(store))


def test_ids(store: Path) -> None:
    good = ["0123456789abcdef", "x0123", "a:first", "a_b-c.d+e", "A" * 100]
    assert wrong_id(good) is None
    for bad in ("", ".", "..", "-rf", "a/b", "a\\b", "a\nb", "a b", "\u00e4", "A" * 101, "a\0"):
        assert wrong_id([*good, bad]) == bad
    assert wrong_id([]) is None


def test_texts_are_cut_and_cleaned() -> None:
    assert printable(SHOUT) == "x<script>alert(1)</script>"
    assert printable("a\n\tb\r\x9b2Jc\ud800") == "a\n\tbc?"
    assert one_line(" a\n b\u2028c\u2066") == "a bc"
    assert len(shortened("x" * 10**6)) == LONGEST_REASON
    assert shortened("short") == "short"
    assert len(UnreadableError("kind", "m" * 10**6).reason) == LONGEST_REASON
    with pytest.raises(StoreError, match="what: not JSON"):
        json_of("[" * 100_000, "what")


def test_a_store_that_is_merged_has_each_crystal_once(store: Path, tmp_path: Path) -> None:
    with TableReader(store) as reader:
        schema, decided, rows = reader.schema, reader.settings, list(reader.rows(range(5)))
    with TableWriter(store, schema, decided) as writer:
        writer.append([*rows, rows[0]])
    assert main(["merge", str(store), "-o", str(tmp_path / "merged.h5")]) == 3
    assert not (tmp_path / "merged.h5").exists()
    with pytest.raises(HpcbenchError, match="is in it 2 times; hpcbench repair"):
        hpcbench.open(store)


def test_brackets_do_not_use_up_the_stack(store: Path) -> None:
    """Where the program around has raised Python's limit, as some libraries do."""
    with h5py.File(store, "r+") as file:
        text_of_settings("[" * 100_000)(file)
    script = (
        "import sys, hpcbench; sys.setrecursionlimit(10**6)\n"
        "try: hpcbench.open(sys.argv[1])\n"
        "except hpcbench.HpcbenchError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script, store], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "nested more than" in ended.stdout


def test_a_run_folder_of_pipes_and_brackets(store: Path) -> None:
    folder = RunFolder(store)
    folder.create()
    events = folder.events / "rank-00000.jsonl"
    events.write_text("[" * 100_000 + "\n")
    assert read_events(events) == ([], 100_001)
    for name in ("settings.json", "retry.json"):
        path = folder.path / name
        path.write_text("[" * 100_000)
        with pytest.raises(StoreError, match=name):
            (folder.settings if name == "settings.json" else folder.voided)()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(StoreError, match="is no file"):
            (folder.settings if name == "settings.json" else folder.voided)()
        path.unlink()
    os.mkfifo(folder.segments / "segment-1-00000-000000.h5")
    with pytest.raises(StoreError, match="is no file"):
        hpcbench.open(store)


def test_a_row_that_was_just_computed_is_taken_as_one_that_is_stored(finished: Path) -> None:
    """It has its force constants and forces by atoms, not flat."""
    store = hpcbench.open(finished)
    row = store.row(ids_of_computed(finished)[0])
    atoms = len(row["numbers"]) * 8
    shaped = row | {
        "force_constants": row["force_constants"].reshape(len(row["p2s_map"]), -1, 3, 3),
        "forces": row["forces"].reshape(-1, atoms, 3),
    }
    there, here = (phonopy_of(one, store.settings["symprec"]) for one in (row, shaped))
    np.testing.assert_array_equal(there.force_constants, here.force_constants)
