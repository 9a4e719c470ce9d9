"""The latest list of a run counts; what only earlier lists had stays in the store, marked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

import hpcbench
from hpcbench.analysis.generators import outcomes_of
from hpcbench.cli import main
from hpcbench.maintenance.merge import merge
from hpcbench.report.benchmark_json import benchmark_json
from hpcbench.store.consolidate import consolidate
from hpcbench.store.reader import Store
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import EARLIER_LIST
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

CASE = Path(__file__).parent / "data" / "edited-samples"
QUICK = ["--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--band-points", "11"]
QUICK += ["--supercell", "2", "2", "2", "--workers", "0", "--dtype", "float64"]
OLD, NEW = {"Cu", "Ag", "Au"}, {"Ni", "Pd", "Pt"}


def formulas(store: Store) -> set[str]:
    return set(store.table["formula"])


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose samples were computed, overwritten with new ones, and computed again."""
    folder = tmp_path_factory.mktemp("edited")
    for path in CASE.iterdir():
        shutil.copy(path, folder)
    command = ["run", str(folder / "manifest.toml"), "--out", str(folder / "s.h5"), *QUICK]
    assert main([*command, "--no-report"]) == 0
    samples: list[Atoms] = [bulk(name) for name in sorted(NEW)]
    write(folder / "generated.extxyz", samples)
    assert main(command) == 0
    return folder / "s.h5"


@pytest.fixture
def store(edited: Path, tmp_path: Path) -> Path:
    """A copy of the folder; the store in it."""
    shutil.copytree(edited.parent, tmp_path / "run", symlinks=True)
    return tmp_path / "run" / "s.h5"


def test_counts_rates_table_and_report_are_of_the_latest_list(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Store(store)
    assert len(opened) == len(opened.ids) == len(list(opened)) == len(opened.table) == 3
    assert formulas(opened) == NEW and formulas(opened.earlier) == OLD
    assert not opened.table[EARLIER_LIST].any() and opened.earlier.table[EARLIER_LIST].all()
    (outcome,) = outcomes_of(opened.table)
    assert (outcome.generated, outcome.unique, outcome.done) == (3, 3, 3)
    (generator,) = benchmark_json(opened)["generators"]
    assert generator["counts"]["generated"] == 3
    assert benchmark_json(opened)["of_earlier_lists"] == 3
    # History goes with its crystal.
    assert {key.partition(":")[0] for key in opened.history.ids} <= set(opened.ids)

    note = "3 more crystals are in the store from earlier lists of this run, and in no number here"
    monkeypatch.chdir(store.parent)
    assert main(["report", "s.h5", "--table"]) == 0
    said = capsys.readouterr().out
    assert note in said and "3 crystals: 3 done" in said
    assert note in Path("s.h5.html").read_text()
    for words in (["status", "s.h5"], ["verify", "s.h5", "--sample", "0"]):
        assert main(words) == 0
        assert note in capsys.readouterr().out
    assert main(["export", "s.h5", "-o", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    # The gallery is of what counts.
    with h5py.File(store) as file:
        assert set(file["gallery"]) <= set(opened.ids)


def test_what_an_earlier_list_had_is_found_and_says_so(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Store(store)
    copper = next(key for key in opened.earlier.ids if opened.row(key)["formula"] == "Cu")
    for words in (copper, copper[:8]):
        assert main(["show", words, str(store)]) == 0
        assert "an earlier one: the run's latest does not have it" in capsys.readouterr().out
    assert opened[copper].status == "done" and opened.phonopy(copper) is not None
    # A name stands for the crystal that has it now.
    name = opened.row(copper)["name"]
    assert opened.row(opened.find(name))["formula"] in NEW
    assert main(["show", name, str(store)]) == 0
    assert "an earlier one" not in capsys.readouterr().out
    assert main(["export", str(store), "--id", copper, "-o", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_mark_is_in_the_store_alone(store: Path) -> None:
    """Copied without the folder of its run, it says the same."""
    shutil.rmtree(RunFolder(store).path)
    assert formulas(Store(store)) == NEW and formulas(Store(store).earlier) == OLD


def test_a_list_that_comes_back_counts_again_and_nothing_is_computed(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(store.parent / "generated.extxyz", [bulk("Ni"), *read_case()[:2]])
    before = {key: Store(store).row(key)["finished"] for key in (*Store(store).finished_ids(),)}
    assert len(before) == 6
    command = ["run", str(store.parent / "manifest.toml"), "--out", str(store), *QUICK]
    assert main([*command, "--no-report"]) == 0
    said = capsys.readouterr().out
    assert "3 crystals, 0 to compute" in said and "3 more crystals are in the store" in said
    opened = Store(store)
    assert formulas(opened) == {"Ni", "Cu", "Ag"} and formulas(opened.earlier) == {"Au", "Pd", "Pt"}
    assert {key: opened.row(key)["finished"] for key in before} == before


def read_case() -> list[Atoms]:
    from ase.io import read

    frames = read(CASE / "generated.extxyz", ":")
    assert isinstance(frames, list)
    return frames


def test_one_mended_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of CIFs in which one was wrong, and another could not be read."""
    monkeypatch.chdir(tmp_path)
    Path("cifs").mkdir()
    for name in ("Cu", "Ag"):
        write(f"cifs/{name}.cif", bulk(name))
    write("cifs/Al.cif", bulk("Al", a=2.0))
    Path("cifs/Au.cif").write_text("no crystal")
    words = ["run", "cifs", *QUICK, "--no-report", "--out", "s.h5"]
    main(words)
    first = Store("s.h5")
    assert len(first) == 4 and not len(first.earlier)
    wrong = next(key for key in first.ids if first.row(key)["formula"] == "Al")
    write("cifs/Al.cif", bulk("Al"))
    write("cifs/Au.cif", bulk("Au"))
    assert main(words) == 0
    second = Store("s.h5")
    assert second.table["status"].tolist() == ["done"] * 4
    assert formulas(second) == {"Cu", "Ag", "Al", "Au"}
    assert second.earlier.ids == [wrong]


def under_way(store: Path, formula: str) -> None:
    """The state after a launch has written its list, of one crystal, and was killed."""
    folder = RunFolder(store)
    with TableReader(folder.crystals) as reader:
        rows = [reader.row(index) for index in range(len(reader))]
        schema, settings = reader.schema, reader.settings
    opened = Store(store)
    wanted = [opened.row(key) for key in opened.finished_ids()]
    (one,) = [row for row in wanted if row["formula"] == formula]
    new = {**rows[0], **{k: one[k] for k in ("id", "name", "origins", "formula", "natoms", "cell")}}
    new |= {"numbers": one["numbers"], "positions": one["positions"]}
    with TableWriter(folder.crystals, schema, settings) as writer:
        writer.append([new])


def test_of_a_run_under_way_its_list_counts(store: Path) -> None:
    under_way(store, "Cu")
    opened = Store(store)
    assert formulas(opened) == {"Cu"} and len(opened.earlier) == 5
    assert not opened.table[EARLIER_LIST].any() and opened.earlier.table[EARLIER_LIST].all()
    assert not opened.row(opened.ids[0])[EARLIER_LIST]
    settings = RunFolder(store).settings()
    from hpcbench.results.rows import schema_of

    rows = consolidate(RunFolder(store), schema_of(settings), settings)
    assert rows >= 6
    shutil.rmtree(RunFolder(store).path)
    assert formulas(Store(store)) == {"Cu"}


def without_marks(store: Path) -> None:
    """Write a store as an older version did."""
    from hpcbench.results.rows import schema_of
    from hpcbench.store.fields import Schema

    with TableReader(store) as reader:
        schema, settings = schema_of(reader.settings), reader.settings
        rows = [reader.row(index) for index in range(len(reader))]
    columns = tuple(field for field in schema.columns if field.name != EARLIER_LIST)
    with TableWriter(store, Schema(columns, schema.ragged), settings) as writer:
        writer.append({k: v for k, v in row.items() if k != EARLIER_LIST} for row in rows)


def test_all_rows_of_an_older_store_count_until_a_run_goes_on(store: Path) -> None:
    without_marks(store)
    for _ in range(2):
        opened = Store(store)
        assert formulas(opened) == OLD | NEW and not len(opened.earlier)
        assert len(opened.table) == 6 and EARLIER_LIST not in opened.table
        assert main(["status", str(store)]) == 0
    command = ["run", str(store.parent / "manifest.toml"), "--out", str(store), *QUICK]
    assert main([*command, "--no-report"]) == 0
    assert formulas(Store(store)) == NEW and formulas(Store(store).earlier) == OLD


def test_a_failure_of_an_earlier_list_is_tried_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "a.extxyz", *QUICK, "--no-report", "--out", "s.h5"]
    write("a.extxyz", [bulk("Cu"), bulk("Si")])
    assert main(words) == 1
    (failed,) = Store("s.h5").table.query("status == 'failed'")["id"]
    then = Store("s.h5").row(failed)["finished"]
    write("a.extxyz", [bulk("Cu")])
    # What failed and is in the list no more is no failure of this run.
    assert main(words) == 0
    write("a.extxyz", [bulk("Cu"), bulk("Si")])
    assert main([*words, "--retry-failed"]) == 1
    assert Store("s.h5").row(failed)["finished"] > then


@pytest.mark.parametrize("order", [("s.h5", "other.h5"), ("other.h5", "s.h5")])
def test_in_a_merge_counts_what_counts_in_one_of_the_stores(
    order: tuple[str, str], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The other store has copper, which is of an earlier list of the first, in its own list.
    other = store.with_name("other.h5")
    shutil.copy(store, other)
    shutil.copytree(RunFolder(store).path, RunFolder(other).path, symlinks=True)
    under_way(other, "Cu")
    assert main(["consolidate", str(other)]) == 0
    capsys.readouterr()
    names = [str(store.with_name(name)) for name in order]
    assert main(["merge", *names, "-o", str(tmp_path / "m.h5")]) == 0
    assert "2 more crystals are in the store from earlier lists" in capsys.readouterr().out
    merged = Store(tmp_path / "m.h5")
    assert formulas(merged) == {*NEW, "Cu"} and formulas(merged.earlier) == {"Ag", "Au"}
    # With a store of an older version, which marks nothing, all of that store's count.
    without_marks(other)
    result = merge([Path(name) for name in names], tmp_path / "n.h5")
    assert result.crystals == 6 and result.earlier == 0
    assert formulas(Store(tmp_path / "n.h5")) == OLD | NEW


def test_a_reanalysis_is_of_what_counts(store: Path) -> None:
    assert main(["reanalyse", str(store), "--mesh", "5", "5", "5", "--workers", "0"]) == 0
    again = Store(store.with_name("s.again.h5"))
    assert formulas(again) == NEW and not len(again.earlier)


def test_python_sees_the_crystals_of_the_last_call(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"mesh": (4, 4, 4), "band_points": 11, "supercell": (2, 2, 2)}
    for name in ("Cu", "Ag"):
        result = hpcbench.run(
            [bulk(name)], model="ase.calculators.emt:EMT", out=tmp_path / "s.h5", workers=0,
            **settings,
        )  # fmt: skip
        assert set(result.table["formula"]) == {name}
        assert result.store is not None and formulas(result.store) == {name}
    assert formulas(Store(tmp_path / "s.h5").earlier) == {"Cu"}
