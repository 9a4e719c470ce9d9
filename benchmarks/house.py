"""The state of the source code: sizes, described functions, import circles between rooms.

    python benchmarks/house.py [--source hpcbench] [--circles] [--undescribed]

A room is a package or a module directly in the source folder. A function is described if its
docstring has a numpydoc section ``Parameters`` that names each of its parameters. A circle is a
set of rooms that import each other, directly or through others; imports inside functions count,
imports for type checkers alone do not.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MODULE_LINES = 400

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Described(NamedTuple):
    """A public function with two or more parameters, and whether they are described."""

    name: str
    described: bool


class Import(NamedTuple):
    """An import of one room by a module of another."""

    importer: str
    imported: str
    module: str
    line: int


# Lines


def lines_of_code(text: str, tree: ast.Module) -> int:
    """Return how many lines hold code: no blank lines, comments or docstrings."""
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.ENCODING,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    for first, last in _docstring_lines(tree):
        lines.difference_update(range(first, last + 1))
    return len(lines)


def _docstring_lines(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Yield the first and last lines of docstrings, also of those that follow a constant."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.end_lineno or node.lineno


# Descriptions


def described_functions(tree: ast.Module, module: str) -> Iterator[Described]:
    """Yield the public functions and methods with two or more parameters.

    Parameters
    ----------
    tree : ast.Module
        The parsed module.
    module : str
        Its name, which the functions' names begin with.
    """
    for name, function in _public_functions(tree.body, module):
        names = _parameters(function, method=name.count(".") > module.count(".") + 1)
        if len(names) >= 2:
            yield Described(name, set(names) <= _named_parameters(function))


def _public_functions(body: list[ast.stmt], within: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from _public_functions(node.body, f"{within}.{node.name}")
        elif isinstance(node, Function) and "overload" not in map(_last_name, node.decorator_list):
            yield f"{within}.{node.name}", node


def _last_name(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0].rpartition(".")[2]


def _parameters(function: Function, method: bool) -> list[str]:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if method and "staticmethod" not in map(_last_name, function.decorator_list):
        names = names[1:]
    names += [argument.arg for argument in arguments.kwonlyargs]
    names += [argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [name for name in names if not name.startswith("_")]


def _named_parameters(function: Function) -> set[str]:
    docstring = ast.get_docstring(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", docstring, re.M | re.S)
    if not section:
        return set()
    heads = re.findall(r"^([*\w][\w, *]*?)(?: ?:.*)?$", section[1], re.M)
    return {name.strip(" *") for head in heads for name in head.split(",")}


# Imports


def imports_between_rooms(tree: ast.Module, module: str) -> Iterator[Import]:
    """Yield the imports that lead from the room of a module into another room.

    Parameters
    ----------
    tree : ast.Module
        The parsed module.
    module : str
        Its full name, ``hpcbench.store.reader``.
    """
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    checkers_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in checkers_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] != room:
                yield Import(room, parts[1], rest, node.lineno)


def circles(imports: list[Import]) -> list[list[str]]:
    """Return the sets of rooms that import each other, sorted."""
    reached: dict[str, set[str]] = defaultdict(set)
    for entry in imports:
        reached[entry.importer].add(entry.imported)
    grown = True
    while grown:
        grown = False
        for rooms in list(reached.values()):
            more = set().union(*(reached.get(room, set()) for room in rooms)) - rooms
            grown |= bool(more)
            rooms |= more
    found = {
        tuple(sorted(other for other in rooms if room in reached.get(other, ())))
        for room, rooms in reached.items()
        if room in rooms
    }
    return sorted(map(list, found))


# All of it


def measure(source: Path) -> tuple[dict[str, object], list[Described], list[Import]]:
    """Return the numbers of a source folder, its functions, and its imports between rooms."""
    lines = code = defined = 0
    long_modules: dict[str, int] = {}
    described: list[Described] = []
    imports: list[Import] = []
    for path in sorted(source.rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        module = ".".join(path.relative_to(source.parent).with_suffix("").parts)
        module = module.removesuffix(".__init__")
        count = len(text.splitlines())
        lines += count
        code += lines_of_code(text, tree)
        defined += sum(isinstance(node, Function) for node in ast.walk(tree))
        if count > MODULE_LINES:
            long_modules[module] = count
        described += described_functions(tree, module)
        # The package itself only names what its users may import.
        if module != source.name:
            imports += imports_between_rooms(tree, module)
    found = circles(imports)
    numbers = {
        "lines": lines,
        "lines_of_code": code,
        f"modules_over_{MODULE_LINES}_lines": long_modules,
        "functions": defined,
        "public_functions_with_parameters": len(described),
        "described": sum(entry.described for entry in described),
        "described_share": round(sum(entry.described for entry in described) / len(described), 3),
        "import_circles": found,
        "imports_in_circles": sorted(
            {
                f"{entry.importer} -> {entry.imported}"
                for entry in imports
                if any({entry.importer, entry.imported} <= set(circle) for circle in found)
            }
        ),
    }
    return numbers, described, imports


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT / "hpcbench")
    parser.add_argument("--circles", action="store_true", help="where imports in circles are")
    parser.add_argument("--undescribed", action="store_true", help="functions without description")
    options = parser.parse_args()
    numbers, described, imports = measure(options.source.resolve())
    print(json.dumps(numbers, indent=1))
    if options.circles:
        for entry in imports:
            if f"{entry.importer} -> {entry.imported}" in numbers["imports_in_circles"]:
                print(f"{entry.importer} -> {entry.imported}: {entry.module}, line {entry.line}")
    if options.undescribed:
        print("\n".join(entry.name for entry in described if not entry.described))


if __name__ == "__main__":
    main()
