"""The command line: fast, helpful, one clear sentence for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

import hpcbench
from hpcbench.cli import main

EMT = "ase.calculators.emt:EMT"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["status", "--help"]])
def test_help_is_instant_and_loads_nothing_heavy(words: list[str]) -> None:
    heavy = ("torch", "phonopy", "ase", "h5py", "mpi4py", "pandas")
    code = (
        "import sys\n"
        "from hpcbench.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        f"sys.exit(any(name in sys.modules for name in {heavy!r}))"
    )
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        result = python(code)
        seconds.append(time.monotonic() - start)
        assert result.returncode == 0
        assert "usage: hpcbench" in result.stdout
    assert min(seconds) < 0.5


def test_help_names_every_setting() -> None:
    from hpcbench.config import OF_VALIDATION, settings

    text = python("from hpcbench.cli import main; main(['run', '--help'])").stdout
    for field in settings():
        is_told = "--" + field.name.replace("_", "-") in text
        is_option = field.metadata["flag"] and field.name not in ("sources", *OF_VALIDATION)
        assert is_told is is_option, field.name


def test_without_words_help_or_the_run_of_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "commands" in capsys.readouterr().out
    (tmp_path / "hpcbench.toml").write_text('sources = ["missing"]\nmodel = "mattersim-demo"')
    assert main([]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.fixture
def copper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "copper.cif"
    write(path, bulk("Cu"))
    return path


MISTAKES = [
    (["run", "nowhere"], 2, "nowhere"),
    (["run"], 2, "no crystals: give a folder"),
    (["run", "empty", "--model", EMT], 2, "empty"),
    (["run", "junk.cif", "--model", EMT], 2, "no readable crystal"),
    (["run", "copper.cif", "--model", "mattersm-demo"], 2, "did you mean mattersim-demo"),
    (["run", "copper.cif", "--model", "mattersim-v1.0.0-1M"], 3, "weights of mattersim-v1.0.0-1M"),
    (["run", "copper.cif", "--fmax", "tiny"], 2, "fmax expects a number"),
    (["run", "copper.cif", "--protocol", "robst"], 2, "did you mean robust"),
    (["run", "copper.cif", "--config", "wrong.toml"], 2, "did you mean 'supercell'"),
    (["run", "copper.cif", "--device", "cuda:9", "--model", EMT], 3, "torch sees"),
    (["run", "copper.cif", "--model", EMT, "--out", "missing/s.h5"], 0, ""),
    (["run", "copper.cif", "--model", EMT, "--out", "copper.cif/s.h5"], 3, "cannot write beside"),
    (["status", "missing.h5"], 2, "no such store"),
    (["show", "x", "--store", "missing.h5"], 2, "no such store"),
    (["report", "missing.h5"], 2, "no such store"),
    (["export", "missing.h5"], 2, "no such store"),
    (["status", "copper.cif"], 3, "is no HDF5 file"),
    (["run", "copper.cif", "--model", "nowhere.at.all:make"], 2, "no module nowhere"),
    (["run", "copper.cif", "--model", "ase.calculators.emt:No"], 2, "has no No"),
    (["run", "copper.cif", "--against", "nowhere.csv"], 2, "no file or folder 'nowhere.csv'"),
    (["run", "copper.cif", "--model", "math:sqrt"], 2, "it needs arguments (missing a required"),
    (["run", "copper.cif", "--model", "builtins:map"], 3, "TypeError"),
    (["verify", "missing.h5"], 2, "no such store"),
    (["repair", "missing.h5"], 2, "no such store"),
    (["consolidate", "missing.h5"], 2, "no run of this name"),
    (["diff", "missing.h5", "missing.h5"], 2, "no such store"),
    (["reanalyse", "missing.h5"], 2, "no such store"),
    (["merge", "missing.h5", "-o", "m.h5"], 2, "no such"),
    (
        ["run", "copper.cif", "--model", "chgnet", "--derivative", "response"],
        2,
        "chgnet cannot compute linear response",
    ),
    (["models", "fetch", "chgnet"], 2, "nothing to fetch for 'chgnet'"),
]


@pytest.mark.parametrize(("words", "code", "text"), MISTAKES)
def test_mistakes_are_one_sentence_and_an_exit_code(
    words: list[str],
    code: int,
    text: str,
    copper: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(filename: str, folder: Path) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("hpcbench.potentials.fetch.download_mattersim", offline)
    monkeypatch.setenv("HOME", str(copper.parent))
    (copper.parent / "empty").mkdir()
    (copper.parent / "junk.cif").write_text("no crystal")
    (copper.parent / "wrong.toml").write_text("supercel = [2, 2, 2]")
    if words[0] == "run" and code == 0:
        words = [*words, "--mesh", "4", "4", "4", "--no-report"]
    assert main(words) == code
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    # First what is wrong, then where help is.
    hint = "--help" in error.splitlines()[-1] if code else False
    assert hint == (code == 2)
    assert not code or error.startswith("hpcbench: ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["run", "copper.cif", "--modle", "chgnet"], "did you mean --model?"),
        (["run", "copper.cif", "--silence", "60"], "write `silence = VALUE` into a TOML file"),
        (["run", "copper.cif", "--supercel=3"], "could match --supercell, "),
        (["export", "s.h5", "--wher", "x", "--fromat"], "did you mean --format?"),
        (["rn", "copper.cif"], "did you mean run?"),
        (["statsu"], "did you mean status?"),
        (["copper.cif"], "did you mean hpcbench run copper.cif?"),
        (["xyz"], "choose from"),
    ],
)
def test_a_wrong_word_is_exit_code_2_and_what_is_near_is_named(
    words: list[str], text: str, copper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert text in error
    first, last = error.splitlines()
    assert text in first
    assert last.startswith("see hpcbench ")
    assert last.endswith(" --help")


def test_a_run_and_everything_that_looks_at_it(
    copper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("two.extxyz", [bulk("Al"), Atoms("Si", cell=[3, 3, 3], pbc=True)])
    words = ["run", "copper.cif", "two.extxyz", "--model", EMT, "--mesh", "4", "4", "4"]
    words += ["--supercell", "2", "2", "2"]
    assert main([*words, "--out", "s.h5"]) == 1  # silicon is not known to EMT
    out = capsys.readouterr().out
    for text in ("copper", "Fm-3m (225)", "stable", "No EMT-potential", "s.h5", "s.h5.html"):
        assert text in out
    assert Path("s.h5.html").stat().st_size > 10_000

    assert main(["status", "s.h5"]) == 0
    assert "2 done, 2 stable, 1 failed, 0 to compute" in capsys.readouterr().out
    assert main(["status", "s.h5", "--exit-code", "--quiet"]) == 1
    assert capsys.readouterr().out == ""

    assert main(["show", "copper", "--store", "s.h5"]) == 0
    out = capsys.readouterr().out
    for text in ("copper", "THz", "Γ", "⠒", "phononbench-v3"):
        assert text in out
    assert main(["show", "copper", "--store", "s.h5", "--png", "bands.png"]) == 0
    assert Path("bands.png").read_bytes()[:4] == b"\x89PNG"
    silicon = hpcbench.open("s.h5").table.query("status == 'failed'")["id"].iloc[0]
    capsys.readouterr()
    assert main(["show", silicon, "--store", "s.h5"]) == 1
    assert "No EMT-potential" in capsys.readouterr().out
    assert main(["show", "gold", "--store", "s.h5"]) == 2

    assert main(["export", "s.h5", "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("id,name,")
    assert main(["export", "s.h5", "--format", "extxyz"]) == 0
    assert Path("s.h5.extxyz").exists()
    assert main(["report", "s.h5", "-o", "other.html", "--table"]) == 0
    assert "copper" in capsys.readouterr().out

    assert main([*words, "--out", "s.h5", "--displacement", "0.02"]) == 2
    assert "displacement: 0.01 in the store, 0.02 now" in capsys.readouterr().err


def test_settings_of_the_folder_are_used_by_every_command(
    copper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("hpcbench.toml").write_text(
        f'sources = ["copper.cif"]\nout = "here.h5"\nmodel = "{EMT}"\nmesh = [4, 4, 4]\n'
        "report = false\n"
    )
    assert main([]) == 0
    capsys.readouterr()
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("here.h5: 1 done")


def test_models_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "mattersim-demo" in out
    assert "module:callable" in out
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "batched and translated forces agree" in out
    assert "BAD" not in out


def test_an_element_without_a_mass_or_unknown_to_the_potential_is_a_recorded_reason(
    copper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("heavy.extxyz", [bulk("Po", "sc", a=3.3), bulk("Cu"), bulk("Au")])
    words = ["run", "heavy.extxyz", "--model", "mattersim-demo", "--no-report", "--out", "s.h5"]
    assert main([*words, "--mesh", "4", "4", "4", "--supercell", "2", "2", "2"]) == 1
    table = hpcbench.open("s.h5").table.set_index("formula")
    assert table.loc["Po", "reason"].startswith("no mass")
    assert table.loc["Au", "reason"] == "unknown element: mattersim-demo does not know Au"
    assert table.loc["Cu", "status"] == "done"


def test_a_run_that_was_killed_before_its_list_was_written_is_not_done(tmp_path: Path) -> None:
    """A chain of jobs asks this way whether to go on."""
    from hpcbench.cli.stores import exit_code

    (tmp_path / "s.h5.run" / "segments").mkdir(parents=True)
    assert exit_code(str(tmp_path / "s.h5")) == 75


def test_what_is_left_out_is_counted_by_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        (tmp_path / f"{number}.xsf").write_text("CRYSTAL")
    (tmp_path / "metrics.json").write_text('{"avg_energy_above_hull_per_atom": 0.1}')
    bulk("Cu").write(tmp_path / "Cu.cif")
    assert main(["plan", str(tmp_path), "--model", "ase.calculators.emt:EMT"]) == 0
    assert (
        "hpcbench: left out: 7 .xsf files (0.xsf, ...), 1 JSON files without structures "
        "(metrics.json)\n"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status"], ["show", "Cu", "--store"], ["report", "--table"]])
def test_no_character_ends_a_command_where_the_terminal_has_ascii(
    words: list[str], copper: Path
) -> None:
    """A store that is not there is enough: its name is not ASCII."""
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    answer = subprocess.run(
        [sys.executable, "-m", "hpcbench", *words, "Γ-ü.h5"],
        env=os.environ | ascii_only,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "no such store" in answer.stderr


def test_what_nobody_foresaw_is_one_line_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: object) -> int:
        raise KeyError("x\ny")

    monkeypatch.setattr("hpcbench.cli.status.run", broken)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["status", "some.h5"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hpcbench: status some.h5: KeyError: ")
    (log,) = (tmp_path / "hpcbench" / "errors").iterdir()
    assert str(log) in line
    assert "Traceback" in log.read_text()


def test_one_is_no_plural() -> None:
    from hpcbench.counting import counted, they_are

    assert [counted(n, "crystal") for n in (0, 1, 2)] == ["0 crystals", "1 crystal", "2 crystals"]
    assert they_are(1, "row") == "1 row is"
