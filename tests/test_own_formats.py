"""Apply CONTRIBUTING.md's examples of new formats, and use them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

import hpcbench

ROOT = Path(__file__).parents[1]
PACKAGE = Path(hpcbench.__file__).parent

READ = """
import json, sys
from hpcbench.crystal import Crystal
from hpcbench.limits import Limits
from hpcbench.sources import find_sources, read_file

limits = Limits(tuple(sys.argv[2:]))
for file in find_sources([sys.argv[1]]).files:
    for one in read_file(file, limits=limits):
        found = one.positions.tolist() if isinstance(one, Crystal) else one.reason
        print(json.dumps([one.name, found]))
"""


def patched(section: str, to: Path) -> Path:
    """Apply the diff of a section of CONTRIBUTING.md to a copy of the package."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"## {section}\n")[2]
    diff = re.search(r"^```diff\n(.*?)^```$", text, re.M | re.S)
    assert diff
    shutil.copytree(PACKAGE, to / "hpcbench", ignore=shutil.ignore_patterns("__pycache__"))
    file, place, added = Path(), "", ""

    def insert() -> None:
        if added:
            before = file.read_text()
            assert place in before
            after = before.replace(place, f"{place}\n{added}", 1) if place else before + added
            file.write_text(after)

    for line in diff[1].splitlines():
        if line.startswith("--- a/"):
            insert()
            file, added = to / line.removeprefix("--- a/"), ""
        elif line.startswith("@@"):
            place = line.removeprefix("@@").strip()
        else:
            assert line[0] == "+", line
            added += line[1:] + "\n"
    insert()
    return to


def run(package: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package)},
        cwd=package,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_format_of_crystals_is_an_entry_and_a_function(tmp_path: Path) -> None:
    package = patched("Add a format of crystals", tmp_path / "with")
    crystals = tmp_path / "crystals"
    crystals.mkdir()
    atoms = bulk("MgO", "rocksalt", a=4.25)
    write(crystals / "salt.res", atoms, format="res")
    text = (crystals / "salt.res").read_text()
    (crystals / "cut.res").write_text(text[: len(text) // 4])
    found = dict(map(json.loads, run(package, "-c", READ, crystals).splitlines()))
    assert found.keys() == {"salt", "cut"}
    expected = read(crystals / "salt.res", format="res").positions
    np.testing.assert_allclose(found["salt"], expected, atol=1e-12)
    assert found["cut"].startswith("syntax: not a complete .res file")
    # Its limits have their names.
    limited = run(package, "-c", READ, crystals / "salt.res", "res.bytes=10")
    assert "more than 10 bytes; --read-limits res.bytes=N" in limited


@pytest.mark.slow
def test_an_export_is_an_entry_and_a_function(tmp_path: Path) -> None:
    package = patched("Add an export", tmp_path / "with")
    store = tmp_path / "s.h5"
    hpcbench.run(
        [bulk("Cu")], model="ase.calculators.emt:EMT", out=store, workers=0, mesh=(4, 4, 4),
        band_points=5, supercell=(2, 2, 2),
    )  # fmt: skip
    assert "reasons and verdicts" in run(package, "-m", "hpcbench", "export", "--help")
    for _ in range(2):
        run(package, "-m", "hpcbench", "export", store, "--format", "list")
    (row,) = csv.DictReader(Path(f"{store}-list.csv").read_text().splitlines())
    assert (row["formula"], row["status"], row["verdict"]) == ("Cu", "done", "stable")
