"""Reading MatterSim's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpcbench.errors import PotentialError

if TYPE_CHECKING:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint's file holds: the arguments of MatterSim's ``M3Gnet``, and its state."""

    path: Path
    arguments: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]


def read_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint as it is, without MatterSim's package.

    Raises
    ------
    PotentialError
        If the file is not a MatterSim checkpoint.
    """
    hint = "give a checkpoint as MatterSim's Potential.save writes it"
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise PotentialError(f"{path}: not a readable checkpoint ({error}); {hint}") from error
    if not isinstance(checkpoint, dict) or not {"model", "model_args"} <= checkpoint.keys():
        raise PotentialError(f"{path}: not a MatterSim checkpoint; {hint}")
    return Checkpoint(path, checkpoint["model_args"], checkpoint["model"])


def build_model(
    checkpoint: Checkpoint, device: torch.device
) -> tuple[M3Gnet, dict[str, Any], list[str]]:
    """MatterSim's own model, all its arguments, and the weights that it has no place for.

    Raises
    ------
    PotentialError
        If the weights are not those of a MatterSim model, or incomplete.
    """
    # Takes half of a rank's start, and most checkpoints do without.
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    try:
        model = M3Gnet(device=str(device), **checkpoint.arguments)
        result = model.load_state_dict(checkpoint.weights, strict=False)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise PotentialError(
            f"{checkpoint.path}: its weights do not fit MatterSim's M3GNet: {error}"
        ) from error
    # Buffers may be missing from older files, since they are constants; weights may not.
    missing = set(result.missing_keys) & {key for key, _ in model.named_parameters()}
    if missing:
        names = ", ".join(sorted(missing))
        raise PotentialError(f"{checkpoint.path}: weights are missing: {names}")
    arguments = {**model.model_args, **checkpoint.arguments}
    return model.to(device).eval(), arguments, sorted(result.unexpected_keys)
