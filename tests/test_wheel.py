"""Test that the wheel has all files of the package, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest
from conftest import DEMO
from launching import in_file

import hpcbench

ROOT = Path(__file__).parents[1]
DATA = (
    "py.typed",
    "analysis/published.toml",
    "analysis/published_potentials.toml",
    "potentials/mattersim_demo/mattersim-demo.pth",
    "report/accuracy.html.j2",
    "report/benchmark.html.j2",
    "report/report.html.j2",
    "report/style.css.j2",
)


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, which finds its dependencies in the tests' one.

    Editable installations there are out of its reach: they are ``.pth`` files, which Python reads
    in an environment's own folder only.
    """

    home: Path
    folder: Path

    def call(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder with nothing of ours."""
        leave = ("PYTHONPATH", "HPCBENCH_")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(leave)}
        return subprocess.run(
            [self.home / "bin" / program, *words],
            cwd=self.folder, env=variables, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built distribution. Nothing is fetched: the backend is the environment's own."""
    pytest.importorskip("hatchling", reason="builds the wheel; ./launch.sh setup dev installs it")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    pytest.importorskip("pip", reason="installs the wheel")
    home = tmp_path_factory.mktemp("environment")
    python = home / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", "--no-compile", wheel], check=True, timeout=300,
    )  # fmt: skip
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "more.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(home, tmp_path_factory.mktemp("elsewhere"))


def test_it_has_the_files_of_the_package_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "hpcbench"
    there = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there
    assert packed >= {f"hpcbench/{name}" for name in DATA}


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert metadata["Name"] == "hpcbench-phonons"
    assert metadata["Version"] == hpcbench.__version__
    assert metadata["License-Expression"] == "MIT"


def test_the_command_and_the_module_are_called_hpcbench(installed: Installed) -> None:
    assert "usage: hpcbench" in installed.call("hpcbench", "--help").stdout
    script = (
        "import hpcbench, importlib.metadata as m\n"
        "print(hpcbench.__file__, m.version('hpcbench-phonons'))"
    )
    place, version = installed.call("python", "-c", script).stdout.split()
    assert Path(place).is_relative_to(installed.home)
    assert version == hpcbench.__version__


def test_a_run_with_its_report_and_its_benchmark(installed: Installed) -> None:
    manifest = installed.folder / "manifest.toml"
    crystal = DEMO / "Si_start_strained.cif"
    manifest.write_text(f'[[generators]]\nname = "MatterGen"\nfiles = ["{crystal}"]\n')
    answer = installed.call(
        "python", "-m", "hpcbench", "run", manifest, "--model", "mattersim-demo", "--device", "cpu",
        "--out", "store.h5", "--mesh", "2", "2", "2", "--supercell", "2", "2", "2",
        "--workers", "0", *in_file(max_edges=4000),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "1 crystal: 1 done" in answer.stdout
    page = (installed.folder / "store.h5.html").read_text()
    assert "Si_start_strained" in page
    # From published.toml.
    assert "InvDesFlow" in page
