"""Settings from flags, environment and TOML; what is wrong with them is said in one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hpcbench.config import OF_VALIDATION, RunConfig, settings
from hpcbench.config_loading import load_config
from hpcbench.criteria import Criterion
from hpcbench.errors import ConfigError
from hpcbench.protocols import Stage
from hpcbench.settings_hash import settings_hash


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'dtype = "float64"\nfmax = 0.01\nsupercell = [3, 3, 3]\nsymprec = 1e-4')
    environment = {"HPCBENCH_FMAX": "0.02", "HPCBENCH_SUPERCELL": "1 2 3", "OTHER": "x"}
    config = load_config({"supercell": ["4", "4", "4"], "mesh": None}, file, environment)
    assert config.supercell == (4, 4, 4)
    assert config.fmax == 0.02
    assert config.dtype == "float64"
    assert config.symprec == 1e-4
    assert config.mesh == (20, 20, 20)


def test_paths_of_a_file_start_from_its_folder(tmp_path: Path) -> None:
    file = write(tmp_path, 'sources = ["crystals", "/abs/x.cif"]\nout = "s.h5"')
    config = load_config({}, file, {})
    assert config.sources == (str(tmp_path / "crystals"), "/abs/x.cif")
    assert config.out == str(tmp_path / "s.h5")


def test_protocols_fill_in_what_was_not_given() -> None:
    robust, literal = (load_config({"protocol": p}, None, {}) for p in ("robust", "phononbench"))
    assert (robust.fmax, literal.fmax) == (0.001, 0.005)
    assert robust.criterion == "exact-q"
    assert literal.criterion == "phononbench"
    assert (robust.supercell, literal.supercell) == ((12.0,), (2, 2, 2))
    both = load_config({"protocol": "both"}, None, {})
    assert both.supercell == (12.0,)
    given = load_config({"protocol": "both", "supercell": ["3", "3", "3"]}, None, {})
    assert given.supercell == (3, 3, 3)
    # What a length means depends on the most atoms that are allowed: both decide.
    assert robust.result_settings()["supercell"] == [12.0]
    assert robust.result_settings()["supercell_atoms"] == 500
    assert "supercell_atoms" not in literal.result_settings()
    (stage,) = literal.protocol_definition.stages(0.005, 500)
    assert stage == Stage(0.0025, 0.005, 500, 15, "refined")
    first, second = robust.protocol_definition.stages(0.001, 1000)
    assert (first.fmax_accept, second.fmax_accept) == (0.005, 0.001)
    assert (first.symmetry, second.symmetry) == ("kept", "exact")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fmx = 0.1", "unknown setting 'fmx'; did you mean 'fmax'"),
        ('protocol = "robst"', "did you mean robust"),
        ('fmax = "small"', "fmax expects a number"),
        ("fmax = -1", "fmax expects a number above 0"),
        ("fmax = nan", "fmax expects a finite number"),
        ("max_steps = 2.5", "max_steps expects a whole number"),
        ("max_steps = true", "max_steps expects a number"),
        ("supercell = [2, 2]", "supercell expects 3 whole numbers"),
        ("supercell = [1.5, 2, 2]", "supercell expects 3 whole numbers"),
        ("supercell = [0, 2, 2]", "positive determinant"),
        ("mesh = [0, 1, 1]", "mesh expects three whole numbers above 0, or a length"),
        ("mesh = 20", "mesh expects three whole numbers above 0, or a length of at least 30"),
        ("model = 5", "model expects text"),
        ("share_gpu = 3", "share_gpu expects true or false"),
        ("sources = [1]", "sources expects text"),
        ("x = ", "not valid TOML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({}, write(tmp_path, text), {})
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_mistakes_in_the_environment_name_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"environment variable HPCBENCH_MODLE: .* 'model'"):
        load_config({}, None, {"HPCBENCH_MODLE": "x"})
    with pytest.raises(ConfigError, match="HPCBENCH_FMAX: fmax expects a number"):
        load_config({}, None, {"HPCBENCH_FMAX": "x"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({}, tmp_path / "missing.toml", {})


def test_config_is_frozen_and_hash_sees_what_decides_only() -> None:
    config = load_config({}, None, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.fmax = 1.0  # type: ignore[misc]
    first = settings_hash(config.result_settings())
    for field in settings():
        value = getattr(config, field.name)
        other = {
            "dtype": "float64",
            "protocol": "phononbench",
            "relax": "none",
            "criteria": (Criterion("own", "path", 0.0),),
        }.get(field.name)
        if other is None:
            match value:
                case bool():
                    other = not value
                case int() | float():
                    other = value + 1
                case tuple():
                    other = (
                        (*value, *value) if field.name == "sources" else tuple(x + 1 for x in value)
                    )
                case _:
                    other = f"{value}-other"
        changed = dataclasses.replace(config, **{field.name: other})
        same = settings_hash(changed.result_settings()) == first
        assert same != field.metadata["decides"], field.name


def test_settings_have_options_but_for_those_of_files_and_all_have_a_help_text() -> None:
    from hpcbench.cli.parser import build_parser

    options = build_parser().parse_args(["run", "x", "--supercell", "2", "2", "2", "--no-report"])
    validation = build_parser().parse_args(["validate", "--reference", "x"])
    assert validation.sources == ["x"]
    for field in settings():
        parsed = validation if field.name in OF_VALIDATION else options
        assert hasattr(parsed, field.name) is field.metadata["flag"]
        assert field.metadata["help"]
    assert options.report is False
    assert isinstance(RunConfig(), RunConfig)
