"""Share fixtures between test files."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Before numpy and torch are imported: threads make small work slower.
from hpcbench.threads import cap_threads

cap_threads()

import pytest  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402

DEMO = Path(__file__).parents[1] / "jobs" / "demo"
# Files whose tests take longest come first, or at the end one process waits for the other.
LONGEST = (
    "test_chaos",
    "test_quarantine",
    "test_slurm",
    "test_disk",
    "test_launch",
    "test_scheduler",
    "test_integrity",
    "test_pipeline",
    "test_both",
    "test_response_runs",
    "test_recompute",
    "test_literal",
    "test_reference",
    "test_in_flight",
    "test_liars",
    "test_curation",
    "test_harm",
    "test_known_answers",
    "test_accuracy",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave the tests of each in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of other people's data, which is not part of the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HPCBENCH_REFERENCE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(
            f"no reference data at {folder}: other people's, not part of the repository; set "
            f"HPCBENCH_REFERENCE_DATA"
        )
    return folder


@pytest.fixture
def small_environment(tmp_path: Path) -> dict[str, str]:
    """Variables for ``launch.sh`` that lead to an environment which is copied fast.

    It finds everything but itself in the tests' own.
    """
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "more.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{Path(__file__).parents[1]}\n"
    )
    beside = Path(sys.executable).parent  # mpiexec
    variables = {
        "HPCBENCH_PYTHON": str(home / "bin" / "python"),
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
    }
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():
        variables["MPI4PY_LIBMPI"] = str(library)
    return variables


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the person who runs the tests must not change them."""
    from hpcbench.config_loading import RESERVED_VARIABLES

    for key in list(os.environ):
        if key.startswith("HPCBENCH_") and key not in RESERVED_VARIABLES:
            monkeypatch.delenv(key)
    # The width of a terminal; pytest-xdist says one.
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _signal_handlers_as_before() -> Iterator[None]:
    """A run installs handlers: the person at the keyboard must still be able to end the tests.

    Processes of pytest-xdist ignore Ctrl-C, and what they start would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _import_mattersim() -> None:
    """Import MatterSim once, with the warnings of its own dependencies silenced.

    Some of its releases do not load beside today's ASE: what compares with it is then skipped.
    """
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        importlib.import_module("mattersim.forcefield")


@pytest.fixture(scope="session")
def demo64():  # type: ignore[no-untyped-def]
    """The embedded potential in double precision."""
    from hpcbench.potentials.registry import load_potential

    return load_potential("mattersim-demo", dtype="float64")


@pytest.fixture(scope="session")
def demo32():  # type: ignore[no-untyped-def]
    """The embedded potential in single precision."""
    from hpcbench.potentials.registry import load_potential

    return load_potential("mattersim-demo", dtype="float32")


@pytest.fixture
def metals() -> list[Atoms]:
    """Crystals that ASE's EMT can compute in no time."""
    return [
        bulk("Cu", "fcc", a=3.7),
        bulk("Al", "fcc", a=4.1),
        bulk("Ni", "fcc", a=3.4),
        bulk("Cu", "bcc", a=2.9),
        Atoms("AuCu", [(0, 0, 0), (1.9, 1.9, 1.9)], cell=[3.8, 3.8, 3.8], pbc=True),
    ]
