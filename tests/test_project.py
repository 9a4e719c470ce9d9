"""What is said about the project in several files is the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import hpcbench

ROOT = Path(__file__).parents[1]
# Of these it does not matter how old they may be: no test's outcome hangs on them.
TOOLS = {"codespell", "hatchling", "mypy", "pandas-stubs", "ruff", "types-pyyaml"}
# What MatterSim lists without a need: they must fit torch.
FOR_TORCH = {"torchaudio", "torchvision"}


@pytest.fixture
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def pinned(name: str) -> dict[str, Version]:
    """Versions by package in a constraints file."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {package: Version(version) for package, version in pairs}


def requirements(project: dict[str, Any]) -> dict[str, Requirement]:
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    found = [Requirement(text) for text in texts]
    return {requirement.name.lower(): requirement for requirement in found}


def test_the_lowest_versions_are_those_that_are_tested(project: dict[str, Any]) -> None:
    bounds = {}
    for name, requirement in requirements(project).items():
        (specifier,) = requirement.specifier
        assert specifier.operator in (">=", "=="), requirement
        bounds[name] = Version(specifier.version)
    lowest = pinned("constraints-lowest.txt")
    assert {name: bounds[name] for name in bounds.keys() - TOOLS} == {
        name: lowest[name] for name in lowest.keys() - FOR_TORCH
    }


def test_the_versions_of_launch_sh_are_allowed(project: dict[str, Any]) -> None:
    versions = pinned("constraints.txt")
    for name, requirement in requirements(project).items():
        if name in versions:
            assert versions[name] in requirement.specifier, requirement


def test_hooks_have_the_versions_of_the_tests() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    packages = [text for hook in hooks for text in hook.get("additional_dependencies", ())]
    versions = pinned("constraints.txt")
    assert len(packages) == 3
    for text in packages:
        name, _, version = text.partition("==")
        assert versions[name] == Version(version)


def test_citation(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hpcbench.__version__
    assert citation["license"] == project["license"]
    assert f"## {hpcbench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pythons(project: dict[str, Any]) -> None:
    """Those of the workflow are those of the classifiers."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]["tests"]["strategy"]["matrix"]["include"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert {job["python"] for job in jobs} == set(named)
    assert project["requires-python"] == f">={named[0]}"
    oldest = next(job for job in jobs if job["versions"] == "constraints-lowest.txt")
    assert oldest["python"] == named[0]
