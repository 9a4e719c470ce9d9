"""Distribution of weights to all ranks of a run, after one of them has fetched them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hpcbench.errors import HpcbenchError, ModelError, PotentialError
from hpcbench.potentials.registry import spec_of
from hpcbench.potentials.weights import PublishedWeights, keep
from hpcbench.scheduler.world import World

T = TypeVar("T")

# Seconds after which a file that another host has just written has usually appeared (NFS). If it
# takes longer, it is written twice, with the same bytes.
PATIENCE = 3.0


def provide_weights(model: str, world: World, tell: Callable[[str], None]) -> None:
    """Make published weights available to every rank. Collective.

    If no rank has them, rank 0 fetches them while the others wait. Hosts that do not see them then,
    because they have their own home folders, get the file by MPI: they may have no network, and all
    must have the same file. One rank of each such host writes it.

    Parameters
    ----------
    model : str
        As for ``--model``. Nothing is done for a model without published weights.
    world : World
        The ranks.
    tell : callable
        Called on rank 0 with a message on what takes time.

    Raises
    ------
    PotentialError
        On every rank, if one has no weights in the end; the message says what to do.
    """
    # Rank 0's answer is everyone's: a package may be missing on some.
    weights = world.broadcast(_published(model))
    if weights is None:
        return

    def path() -> Path:  # not before errors are caught: there may be no home folder
        return weights.place()

    def fetch() -> None:
        tell(f"fetching the weights of {model}: they will be kept in {path().parent}")
        # This imports torch, which the waiting ranks do not need yet.
        from hpcbench.potentials.fetch import fetch_weights

        fetch_weights(model)

    if not any(_all_do(world, lambda: path().is_file())):
        _all_do(world, lambda: fetch() if world.rank == 0 else None)
    seen = _all_do(world, lambda: _appears(path()))
    if all(seen):
        return
    source = seen.index(True)
    contents = _all_do(world, lambda: path().read_bytes() if world.rank == source else b"")
    hosts = world.share(socket.gethostname())
    blind = [rank for rank in range(world.size) if not seen[rank]]
    writes = world.rank == next((r for r in blind if hosts[r] == hosts[world.rank]), None)
    _all_do(world, lambda: keep(path(), contents[source]) if writes else None)


def _published(model: str) -> PublishedWeights | None:
    try:
        weights = spec_of(model).weights
    except ModelError:  # is told by the checks that follow, of all ranks
        return None
    return weights if isinstance(weights, PublishedWeights) else None


def _appears(path: Path) -> bool:
    end = time.monotonic() + PATIENCE
    while not path.is_file():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
        # This makes NFS ask its server again.
        if path.parent.is_dir():
            os.listdir(path.parent)
    return True


def _all_do(world: World, action: Callable[[], T]) -> list[T]:
    """Return the results of an action on each rank; raise the errors of any on all. Collective."""
    value, problem = None, ""
    try:
        value = action()
    except HpcbenchError as error:
        problem = str(error)
    except Exception as error:  # any error: the other ranks are waiting
        problem = f"{type(error).__name__}: {error}"
    if problem and world.size > 1:
        problem = f"rank {world.rank} on {socket.gethostname()}: {problem}"
    everyone = world.share((value, problem))
    problems = [text for _, text in everyone if text]
    if problems:
        raise PotentialError("\n".join(problems))
    return [value for value, _ in everyone]
