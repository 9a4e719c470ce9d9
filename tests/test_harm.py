"""Bad inputs and accidents get a reason and stop nothing: a small part of ``benchmarks/harm.py``.

``KINDS`` are names of its kinds; ``python benchmarks/harm.py --list`` prints all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "harm.py"
KINDS = (
    "CIF: partial occupancy",
    "CIF: labels of no element",
    "CIF: impossible cell lengths",
    "CIF: coordinates that are none",
    "CIF: one bad block of three",
    "POSCAR: nonsense counts",
    "POSCAR: selective dynamics",
    "XYZ: one bad frame of three",
    "only white space",
    "line ends of other systems",
    "JSON: not JSON",
    "YAML: Python's tags",
    "zip: encrypted",
    "zip: members that lead outside",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("harm") / "harm.json"
    command = [sys.executable, str(BENCHMARK), "--output", str(output), "--only", *KINDS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert output.is_file(), ended.stdout + ended.stderr
    return dict(json.loads(output.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_harm_is_told_and_stops_nothing(result: dict[str, Any], kind: str) -> None:
    numbers = result["kinds"][f"files: {kind}"]
    assert numbers["faults"] == []
    assert numbers["with a reason"] + numbers["right without"] == numbers["tried"] > 0
