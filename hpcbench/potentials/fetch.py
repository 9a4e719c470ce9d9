"""Fetch the weights of potentials."""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from hpcbench.errors import ModelError, PotentialError
from hpcbench.potentials.catalogue import BUILT_IN, known_potential, offered_potentials
from hpcbench.potentials.registry import load
from hpcbench.potentials.spec import LoadRequest, PotentialSpec
from hpcbench.potentials.weights import GivenWeights, PublishedWeights, keep, make_folder

# MatterSim's downloader waits without an end where a firewall swallows what it sends, as on many
# compute nodes; in seconds.
LONGEST_DOWNLOAD = 300.0
LONGEST_SILENCE = 30.0


def fetch_weights(name: str) -> Path:
    """Download the published weights of a potential, by the function that the table names.

    The file appears under its final name only once it is whole and loads, so that processes
    which start meanwhile never read half a file.

    Parameters
    ----------
    name : str
        The potential's.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelError
        If there is nothing of this name to fetch.
    PotentialError
        If the download fails or brings no checkpoint, or its folder cannot be written.
    """
    spec = known_potential(name)
    if spec is None or not isinstance(spec.weights, PublishedWeights):
        raise ModelError(
            f"nothing to fetch for {name!r}: these can be fetched: {', '.join(_published())}"
        )
    path = spec.weights.place()
    if path.is_file():
        return path
    # First, and the download elsewhere: what is wrong with the folder is no failed download.
    make_folder(path.parent)
    module, _, function = spec.weights.download.partition(":")
    with tempfile.TemporaryDirectory(prefix="hpcbench-fetch-") as temporary:
        part = Path(temporary) / path.name
        try:
            download = getattr(importlib.import_module(module), function)
            _in_time(lambda: download(path.name, Path(temporary)))
        except Exception as error:  # requests and urllib3 raise many kinds without a network
            raise PotentialError(
                f"the weights of {name} are missing ({path}) and could not be downloaded here "
                f"({type(error).__name__}). Where there is a network (on a cluster: on the login "
                f"node) run `python -m hpcbench models fetch {name}`; or copy {path.name} from a "
                f"machine that has it to {path.parent}; or give other weights as --model "
                f"FILE.pth. --model mattersim-demo runs offline, but knows only a few simple "
                f"crystals."
            ) from error
        given = GivenWeights(part, spec.weights.sha256)
        load(LoadRequest(dataclasses.replace(spec, weights=given)))
        for other in spec.weights.beside:
            keep(path.with_name(other), part.with_name(other).read_bytes())
        keep(path, part.read_bytes())
    return path


def _published() -> list[str]:
    offered = [spec for _, spec in offered_potentials() if isinstance(spec, PotentialSpec)]
    specs = (*BUILT_IN.values(), *offered)
    return [spec.name for spec in specs if isinstance(spec.weights, PublishedWeights)]


def _in_time(action: Callable[[], object]) -> None:
    """Download in a thread that is left to itself when it takes too long."""
    outcome: list[Exception] = []

    def download() -> None:
        try:
            action()
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(LONGEST_DOWNLOAD)
    if thread.is_alive():
        raise TimeoutError(f"no end after {LONGEST_DOWNLOAD:.0f} s")
    if outcome:
        raise outcome[0]


def download_mattersim(filename: str, folder: Path) -> None:
    """Download a checkpoint of MatterSim through its package's own downloader.

    Parameters
    ----------
    filename : str
        The checkpoint's name.
    folder : Path
        Where it is put.
    """
    from mattersim.utils.download_utils import download_checkpoint

    download_checkpoint(filename, save_folder=str(folder))


NEQUIX = "https://github.com/atomicarchitects/nequix/raw/{commit}/models/{file}"
"""Where Nequix's authors publish its weights."""

# The commits that Nequix's own calculator (0.4.5) takes them from.
NEQUIX_COMMITS = {
    "nequix-mp-1-pft.nqx": "7c2854de8e754b1a60274c7d9d2e014989ed632e",
    "nequix-oam-1.nqx": "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28",
    "nequix-oam-1-pft.nqx": "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28",
}


def download_nequix(filename: str, folder: Path) -> None:
    """Download weights of Nequix from its authors' repository.

    Parameters
    ----------
    filename : str
        Name of the file, in Nequix's own format.
    folder : Path
        Where it is put.
    """
    address = NEQUIX.format(commit=NEQUIX_COMMITS[filename], file=filename)
    with urllib.request.urlopen(address, timeout=LONGEST_SILENCE) as answer:
        (folder / filename).write_bytes(answer.read())


def download_m3gnet(filename: str, folder: Path) -> None:
    """Download M3GNet-MP from where matgl's authors publish it; parameters as above."""
    _download_matgl("M3GNet-MP-2021.2.8-PES", folder)


def download_tensornet(filename: str, folder: Path) -> None:
    """Download TensorNet-MatPES-PBE from where matgl's authors publish it; parameters as above."""
    _download_matgl("TensorNet-MatPES-PBE-v2025.1-PES", folder)


def _download_matgl(name: str, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    for file in ("state.pt", "model.pt", "model.json"):
        # Where matgl's own load_model takes a name from.
        hf_hub_download(f"materialyze/{name}", file, local_dir=folder)
