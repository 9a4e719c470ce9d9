"""Potentials by what ``--model`` takes: a name, a file of weights, or module:callable.

What is known of those that have a name is in ``catalogue.py``. Importing this module loads no
torch.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcbench.errors import EvaluationError, ModelError, PotentialError, UsageError
from hpcbench.potentials.boundary import answering
from hpcbench.potentials.catalogue import (
    BUILT_IN,
    MACE_BYTES_PER_EDGE,
    MACE_LOADER,
    MATTERSIM_LOADER,
    known_names,
    known_potential,
    offered_potentials,
)
from hpcbench.potentials.protocol import Potential, PotentialInfo
from hpcbench.potentials.spec import DOUBLE, SINGLE, LoadRequest, PotentialSpec, how_to_install
from hpcbench.potentials.weights import GivenWeights, PackagedWeights, PublishedWeights
from hpcbench.protocols import DISPLACEMENT

WEIGHTS_FILES = (".pth", ".pt", ".nqx", ".model")
"""Endings of files of weights: checkpoints of MatterSim, weights of Nequix, models of MACE."""


@dataclass(frozen=True)
class ListedPotential:
    """A line of ``hpcbench models``.

    Attributes
    ----------
    name : str
        The potential's.
    description : str
        What it is.
    available : bool
        Whether it can be used here.
    state : str
        Where its weights are, or what to do to get them.
    abilities : str
        Precisions, batches, linear response, licence; empty where that is not known.
    """

    name: str
    description: str
    available: bool
    state: str
    abilities: str = ""


def listed_potentials() -> list[ListedPotential]:
    """Return all potentials that have a name, and where each one stands on this machine."""
    lines = [_listed(spec) for spec in BUILT_IN.values()]
    for name, spec in offered_potentials():
        if isinstance(spec, PotentialSpec):
            lines.append(_listed(spec))
        else:
            lines.append(ListedPotential(name, "offered by a package", False, str(spec)))
    return lines


def _listed(spec: PotentialSpec) -> ListedPotential:
    weights = spec.weights
    available, state = True, f"package {spec.distribution}"
    if isinstance(weights, PublishedWeights):
        available = weights.place().is_file()
        state = (
            str(weights.place())
            if available
            else f"weights missing: hpcbench models fetch {spec.name}"
        )
    elif isinstance(weights, PackagedWeights):
        if weights.package == "hpcbench":
            state = "comes with hpcbench"
        elif importlib.util.find_spec(weights.package) is None:
            available, state = False, f"./launch.sh setup {spec.extra}"
    abilities = [
        *spec.precisions,
        "in batches" if spec.batched else "one by one",
        *(["linear response"] if spec.response else []),
        f"licence {spec.licence}",
    ]
    return ListedPotential(spec.name, spec.description, available, state, ", ".join(abilities))


def spec_of(model: str) -> PotentialSpec:
    """Return what is known of a potential; it need not be there.

    Parameters
    ----------
    model : str
        As ``--model`` takes it.

    Raises
    ------
    ModelError
        For a name that nothing has; the message says which is near, and what is known.
    """
    if model in BUILT_IN:
        return BUILT_IN[model]
    if model.endswith(WEIGHTS_FILES):
        return _spec_of_file(model)
    if is_callable(model):
        return PotentialSpec(
            name=model,
            description="an ASE calculator",
            loader="hpcbench.potentials.ase_calculator:load_callable",
            distribution=model.partition(":")[0].partition(".")[0],
            licence="",
            # Whoever made it knows; it is not loaded in another one than was asked for.
            precisions=(),
        )
    if spec := known_potential(model):
        return spec
    names = known_names()
    near = difflib.get_close_matches(model, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelError(
        f"unknown model {model!r}: {hint}known are {', '.join(names)}, a MatterSim checkpoint "
        f"FILE.pth, weights of Nequix FILE.nqx, a model of MACE FILE.model, or module:callable "
        f"that makes an ASE calculator"
    )


def _spec_of_file(model: str) -> PotentialSpec:
    weights = GivenWeights(Path(model))
    spec = PotentialSpec(
        name=model,
        description="a MatterSim checkpoint",
        loader=MATTERSIM_LOADER,
        distribution="mattersim",
        licence="",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        response=True,
        weights=weights,
    )
    if weights.file.suffix == ".model":
        return replace(
            spec,
            description="a model of MACE",
            loader=MACE_LOADER,
            distribution="mace-torch",
            bytes_per_edge=MACE_BYTES_PER_EDGE,
        )
    if _is_nequix(weights.file):
        return replace(
            BUILT_IN["nequix-oam-1"],
            name=model,
            description="weights of Nequix",
            licence="",
            weights=weights,
        )
    return spec


def _is_nequix(path: Path) -> bool:
    """Tell weights of Nequix, which begin with a line of JSON, from checkpoints of MatterSim."""
    if path.suffix == ".nqx":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(1) == b"{"
    except OSError:  # that it is not there is said elsewhere
        return False


def is_callable(model: str) -> bool:
    """Tell whether a model is ``module:callable``, and no path with a colon."""
    return ":" in model and not Path(model).exists()


def is_published(model: str) -> bool:
    """Tell whether a model's weights can be fetched, so that they may be missing for now."""
    return isinstance(spec_of(model).weights, PublishedWeights)


def check_name(model: str) -> None:
    """Refuse a model that cannot exist, before anything heavy is loaded.

    Raises
    ------
    ModelError
        For an unknown name or a missing file; the message names what is near or known.
    PotentialError
        If published weights of a known one are missing.
    """
    spec = spec_of(model)
    if isinstance(spec.weights, PublishedWeights):
        spec.weights_path()
    elif isinstance(spec.weights, GivenWeights):
        if not spec.weights.file.is_file():
            raise ModelError(f"--model {model}: no such file")
    elif is_callable(model):
        find_module(model)


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
    _require_response(model, derivative, spec_of(model).response)


def require_response(info: PotentialInfo, derivative: str | None) -> None:
    """Refuse linear response of a loaded potential that has none.

    Parameters
    ----------
    info : PotentialInfo
        The potential's.
    derivative : str
        As ``--derivative`` takes it.

    Raises
    ------
    UsageError
        As :func:`check_derivative`.
    """
    _require_response(info.name, derivative, info.responds or info.differentiable)


def _require_response(name: str, derivative: str | None, has_it: bool) -> None:
    if derivative in (None, DISPLACEMENT) or has_it:
        return
    raise UsageError(
        f"--derivative {derivative}: {name} cannot compute linear response. Give --derivative "
        f"{DISPLACEMENT}, which {name} can; or a model with linear response: "
        f"{_names_with(lambda spec: spec.response)}, or a checkpoint FILE.pth of MatterSim v1"
    )


def _names_with(ability: Callable[[PotentialSpec], bool]) -> str:
    offered = [spec for _, spec in offered_potentials() if isinstance(spec, PotentialSpec)]
    return ", ".join(spec.name for spec in (*BUILT_IN.values(), *offered) if ability(spec))


def weights_sha256(model: str) -> str:
    """Return the SHA-256 of the weights of ``model``; empty where it has no file of weights.

    Raises
    ------
    ModelError
        For an unknown name.
    PotentialError
        If its weights are missing, or others than the table says.
    """
    return spec_of(model).weights_sha256()


def load_potential(
    model: str,
    *,
    dtype: str = SINGLE,
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
        Precision (``float32`` or ``float64``) and device (``cpu``, ``cuda`` or ``cuda:N``).
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
    return load(LoadRequest(spec_of(model), dtype, device, max_edges, ranks_on_host))


def load(request: LoadRequest) -> Potential:
    """Load the potential of an entry of the table.

    Raises
    ------
    PotentialError
        As :func:`load_potential`.
    """
    spec = request.spec
    if spec.precisions and request.dtype not in spec.precisions:
        others = _names_with(lambda other: request.dtype in other.precisions)
        raise PotentialError(
            f"{spec.name} computes in {' and '.join(spec.precisions)} only: give --dtype "
            f"{spec.precisions[0]} ({request.dtype} is there for {others})"
        )
    module, _, function = spec.loader.partition(":")
    # What goes wrong in our own loaders is to be seen as it is.
    ours = module.partition(".")[0] == "hpcbench"
    try:
        with contextlib.nullcontext() if ours else answering():
            loader: Callable[[LoadRequest], Any] = getattr(
                importlib.import_module(module), function
            )
            potential = loader(request)
    except ImportError as error:
        hint = how_to_install(spec.extra) if spec.extra else "is hpcbench installed as a whole?"
        raise PotentialError(f"{spec.name} needs its package ({error}): {hint}") from error
    except EvaluationError as error:
        raise PotentialError(f"{spec.name} could not be loaded: {error}") from error
    if not isinstance(getattr(potential, "info", None), PotentialInfo):
        raise PotentialError(f"{spec.name}: {spec.loader} made no potential but {potential!r}")
    spec.require_weights(potential.info.weights_sha256)
    return potential


def has_both_precisions(model: str) -> bool:
    """Tell whether a potential can be loaded in single as well as in double precision."""
    return {SINGLE, DOUBLE} <= set(spec_of(model).precisions)


def weights_file(model: str) -> Path | None:
    """Return the file of weights that ``model`` names; ``None`` if it has none of its own.

    Those that a package ships are with the package's code.

    Raises
    ------
    PotentialError
        If published weights are missing.
    """
    spec = spec_of(model)
    of_package = isinstance(spec.weights, PackagedWeights) and spec.weights.package != "hpcbench"
    return None if of_package else spec.weights_path()
