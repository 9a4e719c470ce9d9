"""The texts of the repository: links, commands, options and names that they give are true."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import hpcbench
from hpcbench.cli.parser import Parser, build_parser
from hpcbench.config import settings
from hpcbench.criteria import own_criteria
from hpcbench.sources.manifest import read_manifest

ROOT = Path(__file__).parents[1]
README, DESIGN = ROOT / "README.md", ROOT / "DESIGN.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [
    README,
    DESIGN,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "jobs" / "README.md",
    *PAGES,
]
COMMANDS = [README, *(page for page in PAGES if page.parent.name in ("docs", "howto", "results"))]

# Options of other programs that the texts name.
FOREIGN = {
    "srun": {"--mpi", "--wait", "--kill-on-bad-exit", "--cpu-bind"},
    "sbatch": {
        "--nodes", "--no-kill", "--signal", "--cpus-per-task", "--gpus-per-node", "--name",
        "--exclusive",
    },
    "apptainer": {"--nv", "--bind", "--rocm", "--writable-tmpfs"},
    "docker": {"--build-arg", "--gpus", "--rm", "--user"},
    "sphinx-build": {"--keep-going"},
    "pip": {"--no-deps"},
    "mypy": {"--strict"},
    "mace_run_train": {
        "--name", "--foundation_model", "--multiheads_finetuning", "--train_file", "--valid_file",
        "--test_file", "--E0s", "--energy_weight", "--forces_weight", "--batch_size", "--lr",
        "--max_num_epochs", "--seed", "--default_dtype", "--device",
    },
    "torchrun": {
        "--nproc_per_node", "--load_model_path", "--train_data_path", "--valid_data_path",
        "--include_forces", "--include_stresses", "--epochs", "--save_path", "--save_checkpoint",
    },
}  # fmt: skip

FENCE = re.compile(r"^( *)(```+)(\S*)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
# Not what lies in a folder of the reader's own.
PATH = re.compile(r"(?<![\w$~./-])[\w-]+(?:/[\w.-]+)*\.(?:py|sh|toml|json|md)\b")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> Iterator[str]:
    """The fenced blocks of a language, without the indent of a list that they may stand in."""
    for indent, _, found, text in FENCE.findall(path.read_text()):
        if found == language:
            yield re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def without_blocks(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def spans(path: Path) -> list[str]:
    return SPAN.findall(without_blocks(path))


@functools.cache
def anchors(path: Path) -> set[str]:
    """The headings of a page as a link names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_blocks(path), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        while slug in found:
            slug += "-1"
        found.add(slug)
    return found


def test_the_first_pages_are_short() -> None:
    assert README.stat().st_size < 8_000
    assert DESIGN.stat().st_size < 12_000


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(SPAN.sub("", without_blocks(path))) if ":" not in link]
    for link in links:
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name_of(path)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(path)} links to {link}"


def test_every_page_is_in_the_contents() -> None:
    """The build complains of it as well, but only where Sphinx is installed."""
    for index in (path for path in PAGES if path.name == "index.md"):
        listed = {
            line for block in blocks(index, "{toctree}") for line in block.splitlines() if line
        }
        for page in index.parent.glob("*.md"):
            assert page == index or page.stem in listed, f"{name_of(index)} lacks {page.stem}"


def commands_of(path: Path) -> Iterator[str]:
    for block in blocks(path, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    # On the pages of reference these are outlines and names.
    if path.parent.name == "howto" or path.stem in ("README", "quickstart"):
        yield from (span for span in spans(path) if re.match(r"(\./launch\.sh|hpcbench) \w", span))


def words_for_hpcbench(line: str) -> list[str] | None:
    """Return the words that a line of shell gives the program; None where it is not started."""
    words = shlex.split(line, comments=True)
    if not words:
        return None
    if words[0] == "./launch.sh":
        words = words[1:]
        while words and words[0].startswith("-"):
            assert words[0] in ("--stage", "--dry-run"), line
            words = words[1:]
        return None if words[0] in ("demo", "test", "setup") else words
    if words[0] == "hpcbench":
        return words[1:]
    if words[0] in ("docker", "apptainer") and words[1] != "run":
        return None
    # What follows an image is for the program that it runs.
    images = [n for n, word in enumerate(words) if word.endswith(".sif")]
    if "apptainer" in words and words[words.index("apptainer") + 1] == "run":
        return words[images[0] + 1 :]
    if words[0] == "docker":
        return words[words.index("hpcbench") + 1 :]
    if "-m" in words and words[words.index("-m") + 1] == "hpcbench":
        return words[words.index("-m") + 2 :]
    scripts = [n for n, word in enumerate(words) if re.fullmatch(r"jobs/[\w-]+\.sh", word)]
    if scripts:
        assert (ROOT / words[scripts[0]]).exists(), line
        return ["run", *words[scripts[0] + 1 :]]
    if re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        return None
    others = ("export", "pip", "source", "sphinx-build", "mace_run_train", "torchrun")
    assert words[0] in others, f"an unknown program: {line}"
    return None


@functools.cache
def parser_of_all() -> Parser:
    return build_parser()


def check_command(line: str) -> None:
    words = words_for_hpcbench(line)
    if words is None or words[0] == "COMMAND":
        return
    parser = parser_of_all()
    if len(words) == 1:
        # In the text it may be a name and no whole command.
        assert words[0] in parser._commands.choices, line
        return
    if "--help" in words:
        assert words[0] in parser._commands.choices, line
        return
    try:
        options = parser.parse_words(words)
    except SystemExit:
        pytest.fail(f"not understood: {line}")
    for setting in settings():
        value = getattr(options, setting.name, None)
        # A file of criteria is of the reader's own.
        if value is None or setting.name == "criteria":
            continue
        if options.command in ("run", "plan", "import", "reanalyse") and value not in ("N", ["N"]):
            setting.metadata["parse"](value)


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_commands_are_understood(path: Path) -> None:
    lines = [line for line in commands_of(path) if "..." not in shlex.split(line, comments=True)]
    assert lines or (path.parent.name != "howto" and path != README)
    for line in lines:
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "hpcbench runs crystals/",
        "hpcbench run crystals/ --supercel 12",
        "./launch.sh --stag run list.txt",
        "srun -n 2 python -m hpcbench diff a.h5",
        "hpcbench run crystals/ --protocol exactly",
        "hpcbench run crystals/ --time-limit 4h",
        "sbatch jobs/slurm-none.sh list.txt",
        "hpcbanch run crystals/",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check_command(line)


def known_options() -> set[str]:
    parser = parser_of_all()
    fetch = parser._commands.choices["models"]
    parsers = [parser, fetch, *parser._commands.choices.values()]
    ours = {flag for one in parsers for action in one._actions for flag in action.option_strings}
    scripts = [ROOT / "launch.sh", *(ROOT / "jobs").rglob("*.sh"), *ROOT.glob("benchmarks/*.py")]
    named = {flag for script in scripts for flag in OPTION.findall(script.read_text())}
    return ours | named | set().union(*FOREIGN.values())


@pytest.mark.parametrize("path", [p for p in TEXTS if p.name != "CHANGELOG.md"], ids=name_of)
def test_options_exist(path: Path) -> None:
    texts = [*spans(path), *(text for _, _, _, text in FENCE.findall(path.read_text()))]
    found = {flag for text in texts for flag in OPTION.findall(text)}
    assert not found - known_options(), name_of(path)


@functools.cache
def files() -> set[str]:
    tracked = {
        path.relative_to(ROOT).as_posix()
        for folder in ("hpcbench", "tests", "benchmarks", "jobs", "docs")
        for path in (ROOT / folder).rglob("*")
        if "__pycache__" not in path.parts
    }
    return tracked | {path.name for path in ROOT.iterdir()}


# Of other programs, of the reader's own, and one that stands for a danger.
OTHERS = {"phonon_multi_gpu_run.py", "export_phonon_summary.py", "mine.py", "numpy.py"}


@pytest.mark.parametrize("path", [DESIGN, README, *PAGES], ids=name_of)
def test_files_exist(path: Path) -> None:
    """Modules, tests and results that a page names; modules without ``hpcbench/`` before them."""
    known = files()
    names = {Path(name).name for name in known}
    for name in {name for span in spans(path) for name in PATH.findall(span)}:
        if "/" in name:
            here = (path.parent / name).exists()
            assert here or {name, f"hpcbench/{name}"} & known, f"{name_of(path)} names {name}"
        elif name.endswith(".py"):
            assert name in names | OTHERS, f"{name_of(path)} names {name}"


def rooms(text: str) -> set[str]:
    """Names in the first column of the list of folders."""
    house = text.partition("    hpcbench/\n")[2].partition("    jobs/")[0]
    lines = [re.match(r" {6}(\S.*?)(?: {2,}|$)", line) for line in house.splitlines()]
    return {name for line in lines if line for name in line[1].split(", ")}


def test_the_house_is_as_the_design_says() -> None:
    package = ROOT / "hpcbench"
    there = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    there |= {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert rooms(DESIGN.read_text()) == there


def test_every_command_has_its_help_on_the_page() -> None:
    page = ROOT / "docs" / "commands.md"
    shown = re.findall(r"^```\{command-help\} (\S+)$", page.read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(parser_of_all()._commands.choices)


@pytest.mark.parametrize("path", [README, *PAGES], ids=name_of)
def test_examples_in_python_can_be_compiled_and_name_what_there_is(path: Path) -> None:
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "hpcbench":
                    assert node.attr in hpcbench.__all__, block
                if node.value.id == "store":
                    assert hasattr(hpcbench.Store, node.attr), block
                if node.value.id == "result" and "hpcbench.run" in block:
                    assert node.attr in ("table", "store"), block


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_examples_in_toml_are_read(path: Path, tmp_path: Path) -> None:
    for block in blocks(path, "toml"):
        file = tmp_path / "example.toml"
        file.write_text(block)
        tables = tomllib.loads(block)
        assert tables.keys() <= {"criteria", "generators"}
        if "criteria" in tables:
            assert len(own_criteria(str(file))) == len(tables["criteria"])
        if "generators" in tables:
            assert len(read_manifest(str(file))) == len(tables["generators"])


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / "pages"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "pages" / "api.html").read_text()
    for name in set(hpcbench.__all__) - {"__version__", "HpcbenchError"}:
        assert f'id="hpcbench.{name}"' in api, f"the API lacks {name}"
