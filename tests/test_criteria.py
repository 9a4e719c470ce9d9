"""A user's own criteria: from a TOML file into the verdicts, the store and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import hpcbench
from hpcbench.config_loading import load_config
from hpcbench.criteria import CRITERIA, Criterion, as_tables, criteria_of, own_criteria
from hpcbench.errors import ConfigError
from hpcbench.report.html import write_report

OWN = """
[[criteria]]
name = "strict"
place = "commensurate"
threshold = 0.5
gamma_threshold = "left out"
source = "a colleague"

[[criteria]]
name = "never-gamma"
place = "mesh"
threshold = -0.2
gamma_threshold = -1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def test_criteria_are_read_from_a_file(file: Path) -> None:
    strict, never = own_criteria(file)
    assert strict == Criterion("strict", "commensurate", 0.5, True, None, "a colleague")
    assert never == Criterion("never-gamma", "mesh", -0.2, True, -1.0)
    assert never.column == "verdict_never_gamma"


def test_criteria_survive_json(file: Path) -> None:
    config = load_config({"criteria": str(file)}, None, {})
    stored = json.loads(json.dumps(config.result_settings()))
    assert criteria_of(stored) == (*CRITERIA, *own_criteria(file))
    assert own_criteria(as_tables(CRITERIA[:0])) == ()


def test_they_may_stand_in_the_run_file_or_beside_it(file: Path, tmp_path: Path) -> None:
    beside, within = tmp_path / "beside.toml", tmp_path / "within.toml"
    beside.write_text('criteria = "own.toml"\ncriterion = "strict"\n')
    within.write_text('criterion = "strict"\n' + OWN)
    configs = [load_config({}, path, {}) for path in (beside, within)]
    assert configs[0] == configs[1]
    assert configs[0].criterion == "strict"


def test_settings_without_own_criteria_keep_their_hash() -> None:
    assert "criteria" not in load_config({}, None, {}).result_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.replace("mesh", "zone"), "place of never-gamma to be one of path"),
        (OWN.replace("-0.2", '"low"'), "threshold of never-gamma to be a number in THz"),
        (OWN.replace("-0.2", "nan"), "threshold of never-gamma to be a number in THz"),
        (OWN.replace("= -1", '= "ignored"'), "gamma_threshold of never-gamma"),
        (OWN.replace("threshold = 0.5", "treshold = 0.5"), "did you mean threshold"),
        (OWN.replace("strict", "mesh"), "another name than mesh"),
        (OWN.replace("strict", "never_gamma"), "another name than never_gamma"),
        (OWN.replace("strict", "Too Strict"), "a name of small letters"),
        ("threshold = 1", r"tables \[\[criteria\]\] and nothing else"),
        ("criteria = 3", r"tables \[\[criteria\]\]"),
        ("[[criteria", "valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config({"criteria": str(path)}, None, {})


def test_a_missing_file_and_a_wrong_name_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config({"criteria": str(tmp_path / "no.toml")}, None, {})
    with pytest.raises(ConfigError, match="did you mean lee-xia"):
        load_config({"criterion": "leexia"}, None, {})


def test_own_criteria_are_in_the_store_and_decide(file: Path, tmp_path: Path) -> None:
    crystals = [bulk("Cu"), bulk("Au", "sc", a=2.8)]
    table = hpcbench.run(
        crystals,
        model="ase.calculators.emt:EMT",
        out=tmp_path / "own.h5",
        mesh=(3, 3, 3),
        supercell=(2, 2, 2),
        band_points=11,
        criteria=file,
        criterion="strict",
    ).table
    assert list(table["verdict"]) == list(table["verdict_strict"])
    store = hpcbench.open(tmp_path / "own.h5")
    for result in store:
        row = result.row
        lowest = np.reshape(row["commensurate_frequencies"], (8, 3))[1:].min()
        assert (row["verdict_strict"] == "stable") == (lowest >= 0.5)
        assert result.verdicts["strict"] == row["verdict_strict"]
    assert set(table["verdict_strict"]) == {"stable", "unstable"}
    page = write_report(store, tmp_path / "own.html").read_text()
    assert "a colleague" in page
    assert "never-gamma" in page
    with pytest.raises(hpcbench.HpcbenchError, match="criteri"):
        hpcbench.run(crystals, model="ase.calculators.emt:EMT", out=tmp_path / "own.h5")
