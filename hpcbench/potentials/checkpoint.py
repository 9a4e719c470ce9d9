"""Reading MatterSim's checkpoints, without its package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpcbench.errors import PotentialError
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_constants import BASES, DEFAULTS, constants
from hpcbench.potentials.m3gnet_weights import MissingWeightsError, UnknownArchitectureError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Hold the contents of a checkpoint's file.

    Attributes
    ----------
    path : Path
        The file.
    arguments : mapping
        Arguments of MatterSim's ``M3Gnet``, with its defaults for those that the file leaves out.
    weights : mapping of str to Tensor
        Its state, with the constants that the file leaves out.
    """

    path: Path
    arguments: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]


def read_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        The file, as MatterSim's ``Potential.save`` writes it.
    device : torch.device
        Where the weights are put.

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
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(part), dict) for part in ("model", "model_args")
    ):
        raise PotentialError(f"{path}: not a MatterSim checkpoint; {hint}")
    arguments, weights = {**DEFAULTS, **checkpoint["model_args"]}, checkpoint["model"]
    if not weights.keys() >= BASES:
        ours = constants(float(arguments["cutoff"]))
        weights = {name: tensor.to(device) for name, tensor in ours.items()} | dict(weights)
    return Checkpoint(path, arguments, weights)


def model_of(
    checkpoint: Checkpoint, device: torch.device, precision: torch.dtype
) -> RearrangedM3GNet:
    """Return the forward pass of a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        As it was read.
    device : torch.device
        Where to compute.
    precision : torch.dtype
        In which precision.

    Raises
    ------
    PotentialError
        If weights are missing, or it has another architecture; the message says how to use that
        all the same.
    """
    try:
        return RearrangedM3GNet(checkpoint.arguments, checkpoint.weights, device, precision)
    except MissingWeightsError as error:
        raise PotentialError(f"{checkpoint.path}: {error}") from error
    except UnknownArchitectureError as error:
        raise PotentialError(
            f"{checkpoint.path}: its architecture is not the M3GNet of MatterSim v1 ({error}). "
            f"MatterSim's own calculator may know it: write the two lines\n"
            f"    from mattersim.forcefield import MatterSimCalculator\n"
            f"    def load(device): return MatterSimCalculator(load_path="
            f"{str(checkpoint.path.absolute())!r}, device=device)\n"
            f"into a file own_mattersim.py in the folder that hpcbench is started in, and give "
            f"--model own_mattersim:load"
        ) from error


def bytes_per_edge(arguments: Mapping[str, Any], dtype: torch.dtype) -> float:
    """Return the peak memory of a re-arranged pass by edge, as benchmarks/memory.py finds it.

    Parameters
    ----------
    arguments : mapping
        Of the checkpoint.
    dtype : torch.dtype
        In which precision is computed.

    Notes
    -----
    A block keeps 8 arrays of the width of its features, and some more are in use at a time,
    besides the geometric part; the numbers are fitted to the sizes of the 1M and 5M models.
    """
    units, blocks = int(arguments["units"]), int(arguments["num_blocks"])
    return float(dtype.itemsize * (units * (11 * blocks + 9.5) + 400))
