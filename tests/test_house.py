"""The source code keeps its shape: no new import circles, no fewer described functions.

``benchmarks/house.py`` counts; ``--circles`` and ``--undescribed`` show the places.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
# Imports between rooms that lead in circles. None may be added.
CIRCLES: set[str] = set()
# Share of the public functions with several parameters that describe them. It may only grow.
LEAST_DESCRIBED = 0.98


# A docstring says what is done, not about what.
NOT_A_VERB = re.compile(r"(How|What|Why|Who|Which|Whether|Where|When)\b")


def test_docstrings_begin_with_what_is_done() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in sorted((ROOT / "hpcbench").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if NOT_A_VERB.match(text)
    ]
    assert found == []


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


def test_no_new_circles_and_no_fewer_descriptions(house: ModuleType) -> None:
    numbers, described, _ = house.measure(ROOT / "hpcbench")
    assert set(numbers["imports_in_circles"]) <= CIRCLES
    missing = [entry.name for entry in described if not entry.described]
    assert numbers["described_share"] >= LEAST_DESCRIBED, missing


def test_circles_and_missing_descriptions_are_found(house: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "toy"
    (source / "above").mkdir(parents=True)
    (source / "above" / "__init__.py").write_text('"""One line."""\n')
    (source / "above" / "one.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from toy.below import value\n"
        "if TYPE_CHECKING:\n"
        "    from toy.checked import Type\n"
        "def bare(a, b):\n"
        "    return a + b  # counted as code\n"
        "def half(a, b):\n"
        '    """Add.\n\n    Parameters\n    ----------\n    a : int\n        First.\n\n'
        '    Returns\n    -------\n    b\n    """\n'
        "class Whole:\n"
        "    def add(self, a, *, b=1):\n"
        '        """Add.\n\n        Parameters\n        ----------\n        a, b : int\n'
        '            Both.\n        """\n'
    )
    (source / "below.py").write_text("def value():\n    from toy import above\n    return above\n")
    (source / "checked.py").write_text("from toy.above.one import bare\n")
    numbers, described, imports = house.measure(source)
    assert numbers["import_circles"] == [["above", "below"]]
    assert numbers["imports_in_circles"] == ["above -> below", "below -> above"]
    assert [(entry.importer, entry.imported, entry.line) for entry in imports] == [
        ("above", "below", 2),
        ("below", "above", 2),
        ("checked", "above", 1),
    ]
    assert {entry.name: entry.described for entry in described} == {
        "toy.above.one.bare": False,
        "toy.above.one.half": False,
        "toy.above.one.Whole.add": True,
    }
    assert numbers["lines_of_code"] == 13
