"""Phonons and stability verdicts of very many crystals, with machine-learned potentials.

import hpcbench

result = hpcbench.run(list_of_atoms, model="mattersim-v1.0.0-5M")
result.table[["name", "verdict", "min_frequency_path"]]

store = hpcbench.open("store.h5")
store.table
store.phonopy(store.ids[0]).auto_band_structure(plot=True).show()
"""

import os
import sys


def _leave_working_folder() -> None:
    """Take the working folder from the places of modules, if this is the program itself.

    ``python -m`` puts it first, so that a file ``numpy.py`` beside somebody's crystals would be
    run in place of numpy: before anything else is imported, that of ``__future__`` included.
    """
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program == "-m":
        # The package of a module that is to be run is imported before that has a name.
        module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m")
        program = module.partition(".")[0]
    if program != "hpcbench":
        return
    try:
        here = os.getcwd()
    except OSError:
        return
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if home == here:
        # Its own sources, and not installed.
        sys.path.append(home)
    # For the processes that libraries start.
    os.environ["PYTHONSAFEPATH"] = "1"
    if places := os.environ.get("PYTHONPATH"):
        kept = (place for place in places.split(os.pathsep) if place)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            place for place in kept if os.path.abspath(place) != here or home == here
        )


_leave_working_folder()

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from hpcbench.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from hpcbench.api import RunResult, run
    from hpcbench.config import RunConfig
    from hpcbench.config_loading import load_config
    from hpcbench.crystal import Crystal
    from hpcbench.errors import HpcbenchError
    from hpcbench.origin import Origin
    from hpcbench.phonons.at_q import dynamical_matrices_of as dynamical_matrices
    from hpcbench.potentials.registry import load_potential
    from hpcbench.store.reader import Store
    from hpcbench.store.reader import open_store as open

__all__ = [
    "Crystal",
    "HpcbenchError",
    "Origin",
    "RunConfig",
    "RunResult",
    "Store",
    "__version__",
    "dynamical_matrices",
    "load_config",
    "load_potential",
    "open",
    "run",
]

# Loaded at first use, so that `hpcbench --help` is instant.
_HOMES = {
    "Crystal": ("hpcbench.crystal", "Crystal"),
    "HpcbenchError": ("hpcbench.errors", "HpcbenchError"),
    "Origin": ("hpcbench.origin", "Origin"),
    "RunConfig": ("hpcbench.config", "RunConfig"),
    "RunResult": ("hpcbench.api", "RunResult"),
    "Store": ("hpcbench.store.reader", "Store"),
    "dynamical_matrices": ("hpcbench.phonons.at_q", "dynamical_matrices_of"),
    "load_config": ("hpcbench.config_loading", "load_config"),
    "load_potential": ("hpcbench.potentials.registry", "load_potential"),
    "open": ("hpcbench.store.reader", "open_store"),
    "run": ("hpcbench.api", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hpcbench' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
