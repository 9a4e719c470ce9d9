"""What is done with a column follows from the origin that its entry in the table says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.build import bulk

import hpcbench
from hpcbench.criteria import CRITERIA
from hpcbench.errors import StoreError
from hpcbench.maintenance.merge import merge
from hpcbench.maintenance.repair import repair
from hpcbench.results import recompute
from hpcbench.results.phonon_columns import Keep
from hpcbench.store import known, result_fields
from hpcbench.store.fields import Field, Origin
from hpcbench.store.schema import result_schema
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

CRITERION_COLUMNS = tuple(criterion.column for criterion in CRITERIA)
METALS = ("Cu", "Al", "Ag", "Pt")
ADDED = (
    *(Field(f"added_{origin.value}", "f8", origin=origin) for origin in Origin),
    Field("added_essential", "f8", origin=Origin.GIVEN, is_essential=True),
    Field("added_large", "f8", origin=Origin.COMPUTED, stays_behind=True),
)
STORED, AGAIN, WRONG = 1.0, 2.0, 7.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("origins") / "s.h5"
    hpcbench.run(
        [bulk(metal) for metal in METALS],
        model="ase.calculators.emt:EMT",
        out=path,
        mesh=(4, 4, 4),
        dtype="float64",
        band_points=11,
        supercell=(2, 2, 2),
        workers=0,
    )
    return path


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Columns in the table, and their values where phonons become columns: nothing else."""
    phonon_columns = recompute.phonon_columns

    def with_added(*arguments: Any) -> dict[str, Any]:
        values = dict.fromkeys(("added_derived", "added_noise"), AGAIN)
        return phonon_columns(*arguments) | values

    monkeypatch.setattr(result_fields, "WORK", (*result_fields.WORK, *ADDED))
    monkeypatch.setattr(recompute, "phonon_columns", with_added)
    known.known_fields.cache_clear()
    yield
    monkeypatch.undo()
    known.known_fields.cache_clear()


@pytest.fixture
def store(finished: Path, added: None, tmp_path: Path) -> Path:
    """The store with the added columns, in two blocks of two crystals."""
    path = tmp_path / "s.h5"
    with TableReader(finished) as reader:
        settings, rows = reader.settings, list(reader.rows(range(len(METALS))))
    schema = result_schema(len(settings["temperatures"]), CRITERION_COLUMNS)
    rows = [row | {field.name: STORED for field in ADDED} for row in rows]
    with TableWriter(path, schema, settings) as writer:
        for first in (0, 2):
            writer.append(rows[first : first + 2])
    shutil.copytree(f"{finished}.run", f"{path}.run", symlinks=True)
    return path


def values_in(store: Path) -> dict[str, list[float]]:
    with TableReader(store) as reader:
        return {field.name: list(reader.column(field.name)) for field in ADDED}


def test_a_field_says_its_origin() -> None:
    with pytest.raises(TypeError, match="origin"):
        Field("energy", "f8")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("damaged", "again"),
    [
        (("given", "computed", "derived"), {"derived"}),
        (("noise", "derived"), {"noise", "derived"}),
        (("noise", "given"), set()),
    ],
)
def test_a_repair_follows_the_origin(
    store: Path, damaged: tuple[str, ...], again: set[str]
) -> None:
    with h5py.File(store, "r+") as file:
        for origin in damaged:
            file[f"crystals/added_{origin}"][3] = WRONG
    result = repair(store)
    assert (result.kept, result.lost_ids, result.computed_again) == (4, [], 2 * bool(again))
    lost = set(damaged) - again
    assert result.emptied == {f"added_{origin}": 2 for origin in lost}
    there = values_in(store)
    for origin in damaged:
        *intact, third, fourth = there[f"added_{origin}"]
        assert intact == [STORED] * 2
        if origin in again:
            assert (third, fourth) == (AGAIN, AGAIN)
        else:
            assert np.isnan([third, fourth]).all()
    assert there["added_essential"] == [STORED] * 4


def test_a_row_without_an_essential_field_is_lost(store: Path) -> None:
    with h5py.File(store, "r+") as file:
        file["crystals/added_essential"][3] = WRONG
        lost = list(file["crystals/id"].asstr()[2:])
    result = repair(store)
    assert (result.kept, result.lost_ids) == (2, lost)
    assert values_in(store)["added_essential"] == [STORED] * 2
    with h5py.File(store, "r+") as file:
        del file["crystals/added_essential"]
    with pytest.raises(StoreError, match="added_essential"):
        repair(store)


@pytest.mark.parametrize("is_known", [True, False], ids=["known noise", "unknown noise"])
def test_a_reanalysis_follows_the_origin(store: Path, is_known: bool) -> None:
    if not is_known:
        with h5py.File(store, "r+") as file:
            file["crystals/force_noise"][:] = float("nan")
            file["crystals/nonlinearity"][:] = float("nan")
    recompute._opened.cache_clear()
    with hpcbench.open(store) as opened:
        key, settings = opened.ids[0], opened.settings
    (row,) = recompute.analyse_stored(store, key, settings, Keep(False, "float32", False))
    assert (row["added_given"], row["added_computed"]) == (STORED, STORED)
    assert row["added_derived"] == AGAIN
    assert row["added_noise"] == (AGAIN if is_known else STORED)
    assert "added_large" not in row and "force_constants" not in row


def test_a_merge_keeps_columns_of_every_origin(store: Path, finished: Path, tmp_path: Path) -> None:
    merge([store, finished], tmp_path / "m.h5")
    assert values_in(tmp_path / "m.h5") == {field.name: [STORED] * 4 for field in ADDED}
    merge([finished, store], tmp_path / "n.h5")
    assert np.isnan(values_in(tmp_path / "n.h5")["added_derived"]).all()


def test_every_derived_field_is_computed_again(finished: Path) -> None:
    """A field that says so, and that nobody computes, would be empty after a repair."""
    with TableReader(finished) as reader:
        row, settings = reader.row(0), reader.settings
    schema = result_schema(len(settings["temperatures"]), CRITERION_COLUMNS)
    fields = {field.name: field for field in (*schema.columns, *schema.ragged)}
    again = recompute.columns_again(row, settings, Keep(False, "float32", True))
    of = {origin: {n for n, f in fields.items() if f.origin is origin} for origin in Origin}
    assert again.keys() == of[Origin.DERIVED] | of[Origin.NOISE] | {"notes"}
