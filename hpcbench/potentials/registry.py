"""Potentials by name. Importing this module loads no torch."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import ModelError, UsageError
from hpcbench.potentials.protocol import Potential, PotentialInfo
from hpcbench.potentials.weights import (
    DEMO_ELEMENTS,
    DEMO_WEIGHTS,
    MATTERSIM_FILES,
    find_mattersim,
    mattersim_folder,
    on_this_node,
    sha256_of,
)
from hpcbench.protocols import DISPLACEMENT

DEMO = "mattersim-demo"
CHGNET = "chgnet"
SEVENNET = ("sevennet-0", "sevennet-l3i5")
NAMES = (*MATTERSIM_FILES, DEMO, CHGNET, *SEVENNET)
WITH_RESPONSE = (*MATTERSIM_FILES, DEMO, *SEVENNET)
"""Potentials with linear response; MatterSim's checkpoints have it too."""


@dataclass(frozen=True)
class ListedCrystal:
    """A line of ``hpcbench models``: the name, what it is, and whether it can be used here."""

    name: str
    description: str
    available: bool
    state: str


def listed_potentials() -> list[ListedCrystal]:
    """All potentials that have a name, and where each one stands on this machine."""
    lines = []
    for name, filename in MATTERSIM_FILES.items():
        path = mattersim_folder() / filename
        state = str(path) if path.is_file() else f"weights missing: hpcbench models fetch {name}"
        lines.append(ListedCrystal(name, "MatterSim v1, Microsoft (MIT)", path.is_file(), state))
    lines.append(
        ListedCrystal(DEMO, "small stand-in for demos and tests only", True, "comes with hpcbench")
    )
    for name, package, extra in (
        (CHGNET, "chgnet", "chgnet"),
        *((name, "sevenn", "sevennet") for name in SEVENNET),
    ):
        found = importlib.util.find_spec(package) is not None
        state = f"package {package}" if found else f"./launch.sh setup {extra}"
        lines.append(ListedCrystal(name, f"pretrained weights in package {package}", found, state))
    return lines


def check_name(model: str) -> None:
    """Refuse a model that cannot exist, before anything heavy is loaded.

    Raises
    ------
    ModelError
        For an unknown name or a missing file; the message names what is near or known.
    PotentialError
        If the weights of a known one are missing.
    """
    if model in MATTERSIM_FILES:
        find_mattersim(model)
        return
    if model in NAMES:
        return
    if ":" in model and not Path(model).exists():
        find_module(model)
        return
    if model.endswith((".pth", ".pt")):
        if not Path(model).is_file():
            raise ModelError(f"--model {model}: no such file")
        return
    near = difflib.get_close_matches(model, NAMES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelError(
        f"unknown model {model!r}: {hint}known are {', '.join(NAMES)}, a MatterSim checkpoint "
        f"FILE.pth, or module:callable that makes an ASE calculator"
    )


def find_module(model: str) -> None:
    """Make sure that the module of ``module:callable`` can be imported.

    Modules are not looked for in the working folder (a data file of the name ``numpy.py`` would be
    run); the one that is named here may lie there, and is then looked for there last.

    Raises
    ------
    ModelError
        If there is none.
    """
    module, _, attribute = model.partition(":")
    if not (module and attribute):
        raise ModelError(f"--model {model}: give module:callable that makes an ASE calculator")
    name = module.partition(".")[0]
    # Modules are listed by folder: one that was made a moment ago is to be seen.
    importlib.invalidate_caches()
    if name in sys.modules or (name.isidentifier() and importlib.util.find_spec(name)):
        return
    here = Path.cwd()
    if not ((here / f"{name}.py").is_file() or (here / name).is_dir()):
        raise ModelError(f"--model {model}: no module {name}; is its package installed?")
    sys.path.append(str(here))


def check_derivative(model: str, derivative: str | None) -> None:
    """Refuse linear response of a model that has none, before anything heavy is loaded.

    What only a loaded checkpoint tells is left to :func:`require_response`.

    Parameters
    ----------
    model : str
        As ``--model`` takes it; it exists.
    derivative : str
        As ``--derivative`` takes it.

    Raises
    ------
    UsageError
        If it has none; the message names those that have it, and what to use instead.
    """
    may_respond = model in WITH_RESPONSE or (model not in NAMES and weights_file(model) is not None)
    _require_response(model, derivative, may_respond)


def require_response(info: PotentialInfo, derivative: str | None) -> None:
    """Refuse linear response of a loaded potential that has none; see :func:`check_derivative`."""
    _require_response(info.name, derivative, info.responds or info.differentiable)


def _require_response(name: str, derivative: str | None, has_it: bool) -> None:
    if derivative in (None, DISPLACEMENT) or has_it:
        return
    raise UsageError(
        f"--derivative {derivative}: {name} cannot compute linear response. Give --derivative "
        f"{DISPLACEMENT}, which {name} can; or a model with linear response: "
        f"{', '.join(WITH_RESPONSE)}, or a checkpoint FILE.pth of MatterSim v1"
    )


def weights_sha256(model: str) -> str:
    """SHA-256 of the weights file that ``model`` names; empty where there is none."""
    path = weights_file(model)
    return sha256_of(on_this_node(path)) if path else ""


def load_potential(
    model: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    max_edges: int = 0,
    ranks_on_host: int = 1,
) -> Potential:
    """Load a potential by name, by weights file, or by ``module:callable``.

    Parameters
    ----------
    model : str
        As ``--model`` takes it.
    dtype, device : str
        Precision and device.
    max_edges : int
        Most edges of one forward pass, for potentials that batch; 0: found on the device.
    ranks_on_host : int
        Processes that share the machine's memory.

    Raises
    ------
    ModelError
        If there is none of this name.
    PotentialError
        If its weights or package are missing, or it cannot be loaded.
    """
    check_name(model)
    path = weights_file(model)
    if path is not None:
        from hpcbench.potentials.mattersim import MatterSim

        elements = DEMO_ELEMENTS if model == DEMO else None
        return MatterSim(
            on_this_node(path), model, device, dtype, max_edges, elements, ranks_on_host
        )
    from hpcbench.potentials import ase_calculator

    if model == CHGNET:
        return ase_calculator.load_chgnet(dtype, device)
    if model in SEVENNET:
        return ase_calculator.load_sevennet(model, dtype, device)
    return ase_calculator.load_callable(model, dtype, device)


def has_both_precisions(model: str) -> bool:
    """Whether a potential can be loaded in single as well as in double precision.

    Raises
    ------
    PotentialError
        If published weights are missing.
    """
    return model == CHGNET or weights_file(model) is not None


def weights_file(model: str) -> Path | None:
    """The weights file that ``model`` names; None where its weights come with a package's code.

    Raises
    ------
    PotentialError
        If published weights are missing.
    """
    if model in MATTERSIM_FILES:
        return find_mattersim(model)
    if model == DEMO:
        return DEMO_WEIGHTS
    if model.endswith((".pth", ".pt")):
        return Path(model)
    return None
