"""Files that end the process which reads them are named, and left out at the next start."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from ase.build import bulk
from launching import QUICK, run
from pymatgen.io.ase import AseAtomsAdaptor

import hpcbench
from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.limits import DEFAULT
from hpcbench.planning.crystal_list import MOST_DEATHS, ReadingGuard, read_share
from hpcbench.scheduler.journal import Journal, journal_path, read_journal
from hpcbench.scheduler.suspicious import fold_launches, suspect_files
from hpcbench.sources import SourceFile, Unreadable
from hpcbench.sources.isolated_reading import read_apart

# Stands for a library's fault: every process that starts with this on its path has it.
FAULT = """
import json, os, signal
loads = json.loads
def harmful(text, *args, **options):
    if isinstance(text, str) and "HARM" in text:
        {harm}
    return loads(text, *args, **options)
json.loads = harmful
"""
HARMS = {"segfault": "os.kill(os.getpid(), signal.SIGSEGV)", "exit": "os._exit(0)"}


def structure(element: str, harm: str = "") -> str:
    values = AseAtomsAdaptor.get_structure(bulk(element)).as_dict()
    return json.dumps({"name": harm, **values})


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fault"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULT.format(harm=HARMS["segfault"]))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_a_run_goes_on_without_a_file_that_killed_it(tmp_path: Path, fault: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.json").write_text(structure("Cu"))
    (source / "b c.json").write_text(structure("Ag", "HARM"))
    (source / "d.json").write_text(structure("Au"))
    out = tmp_path / "s.h5"
    arguments = [str(source), "--out", str(out), "--model", "ase.calculators.emt:EMT", *QUICK]
    first = run(arguments)
    assert first.returncode not in (0, 1)
    again = run(arguments)
    assert f"an earlier start ended while it read {source}/b c.json" in again.stderr
    assert again.returncode == 1
    table = hpcbench.open(out).table
    assert dict(table["status"].value_counts()) == {"done": 2, "unreadable": 1}
    (reason,) = table["reason"][table["status"] == "unreadable"]
    assert reason == "kills its process: reading it ended the process (Segmentation fault)"


@pytest.mark.parametrize("harm", HARMS)
def test_of_an_archive_the_member_is_left_out(tmp_path: Path, fault: Path, harm: str) -> None:
    (fault / "sitecustomize.py").write_text(FAULT.format(harm=HARMS[harm]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, text in [("Cu", ""), ("Ag", "HARM"), ("Au", "")]:
            archive.writestr(f"{name}.json", structure(name, text))
    file = SourceFile(str(tmp_path / "a.zip"), explicit=True)
    records = [r for _, r in read_apart(file, with_supercell=False, limits=DEFAULT)]
    assert [type(record) for record in records] == [Crystal, Unreadable, Crystal]
    assert records[1].name == "Ag"
    how = {"segfault": "Segmentation fault", "exit": "exit code 0"}[harm]
    assert records[1].reason == f"kills its process: reading it ended the process ({how})"  # type: ignore[union-attr]


def test_what_is_read_is_written_down_first(tmp_path: Path) -> None:
    name = "odd \n\udcff name.json"
    launches = [tmp_path / "launches" / str(number) for number in range(4)]
    for launch, alone in zip(launches, (False, True, True, True), strict=True):
        journal = Journal(launch / "journal" / "rank-00000")
        journal.read("good.cif")
        journal.read(name, alone=alone)
        journal.close()
    ended = Journal(launches[0] / "journal" / "rank-00001")
    ended.read("innocent.cif")
    ended.stop()
    ended.close()
    read = Journal(launches[0] / "journal" / "rank-00002")
    read.read("innocent.cif")
    read.read("")
    read.close()
    assert read_journal(launches[1] / "journal" / "rank-00000").reading == name
    file = tmp_path / "attempts.json"
    assert suspect_files(launches[:1], file) == {name: 0}
    # They are remembered when the folders of the launches are gone.
    fold_launches(launches[:2], file, ())
    fold_launches(launches[2:], file, ())
    assert suspect_files([], file) == {name: MOST_DEATHS}


def test_a_file_that_ends_everything_is_not_read_again(tmp_path: Path) -> None:
    """Where the system kills the rank together with the process that reads for it."""
    path = str(tmp_path / "a.json")
    Path(path).write_text(structure("Cu"))
    told: list[tuple[str, bool]] = []
    config = RunConfig(model="ase.calculators.emt:EMT").resolved()
    files = [SourceFile(path, explicit=True)]

    def share(deaths: int) -> list[str]:
        care = ReadingGuard(lambda name, alone: told.append((name, alone)), {path: deaths})
        found = read_share(config, files, None, 0, 1, care)
        assert isinstance(found, list)
        return [getattr(entry.record, "reason", "") for entry in found]

    assert share(MOST_DEATHS - 1) == [""]
    assert told == [(path, True), ("", False)]
    (reason,) = share(MOST_DEATHS)
    assert reason.startswith("kills its process: 3 starts ended while it was read in a process")
    assert told[2:] == [("", False)]


def test_what_was_read_well_since_is_no_suspect(tmp_path: Path) -> None:
    """Whatever had killed the rank that read it."""
    launches = [tmp_path / f"{number:020d}" for number in range(2)]
    first, second = (Journal(journal_path(launch, "rank-00000")) for launch in launches)
    first.read("a.cif")
    first.close()
    assert suspect_files(launches[:1], tmp_path / "none") == {"a.cif": 0}
    second.read("a.cif", alone=True)
    second.read_well("a.cif")
    second.read("")
    second.close()
    assert suspect_files(launches, tmp_path / "none") == {}
