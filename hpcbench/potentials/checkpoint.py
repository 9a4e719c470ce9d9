"""Reading MatterSim's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

from hpcbench.errors import PotentialError


def load_checkpoint(path: Path, device: torch.device) -> tuple[M3Gnet, dict[str, Any], list[str]]:
    """A checkpoint's model, its arguments, and the weights that MatterSim has no place for.

    Raises
    ------
    PotentialError
        If the file is not a MatterSim checkpoint, or is incomplete.
    """
    hint = "give a checkpoint as MatterSim's Potential.save writes it"
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise PotentialError(f"{path}: not a readable checkpoint ({error}); {hint}") from error
    if not isinstance(checkpoint, dict) or not {"model", "model_args"} <= checkpoint.keys():
        raise PotentialError(f"{path}: not a MatterSim checkpoint; {hint}")
    try:
        model = M3Gnet(device=str(device), **checkpoint["model_args"])
        result = model.load_state_dict(checkpoint["model"], strict=False)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise PotentialError(
            f"{path}: its weights do not fit MatterSim's M3GNet: {error}"
        ) from error
    # Buffers may be missing from older files, since they are constants; weights may not.
    missing = set(result.missing_keys) & {key for key, _ in model.named_parameters()}
    if missing:
        raise PotentialError(f"{path}: weights are missing: {', '.join(sorted(missing))}")
    arguments = {**model.model_args, **checkpoint["model_args"]}
    return model.to(device).eval(), arguments, sorted(result.unexpected_keys)
