"""How weights get to their place."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from hpcbench.errors import ModelError, PotentialError
from hpcbench.potentials.mattersim import MatterSim
from hpcbench.potentials.weights import MATTERSIM_FILES, keep, make_folder, mattersim_folder

# MatterSim's downloader waits without an end where a firewall swallows what it sends, as on many
# compute nodes; in seconds.
LONGEST_DOWNLOAD = 300.0


def fetch_mattersim(name: str) -> Path:
    """Download published MatterSim weights through the package's own downloader.

    The file appears under its final name only once it is whole and loads, so that processes
    which start meanwhile never read half a file.

    Raises
    ------
    ModelError
        If there is nothing of this name to fetch.
    PotentialError
        If the download fails or brings no checkpoint, or its folder cannot be written.
    """
    if name not in MATTERSIM_FILES:
        raise ModelError(
            f"nothing to fetch for {name!r}: these can be fetched: {', '.join(MATTERSIM_FILES)}"
        )
    path = mattersim_folder() / MATTERSIM_FILES[name]
    if path.is_file():
        return path
    # First, and the download elsewhere: what is wrong with the folder is no failed download.
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix="hpcbench-fetch-") as temporary:
        part = Path(temporary) / path.name
        try:
            _in_time(path.name, Path(temporary))
        except Exception as error:  # requests and urllib3 raise many kinds without a network
            raise PotentialError(
                f"the weights of {name} are missing ({path}) and could not be downloaded here "
                f"({type(error).__name__}). Where there is a network (on a cluster: on the login "
                f"node) run `python -m hpcbench models fetch {name}`; or copy {path.name} from a "
                f"machine that has it to {path.parent}; or give other weights as --model "
                f"FILE.pth. --model mattersim-demo runs offline, but knows only a few simple "
                f"crystals."
            ) from error
        MatterSim(part, name)
        keep(path, part.read_bytes())
    return path


def _in_time(filename: str, folder: Path) -> None:
    """Download in a thread that is left to itself when it takes too long."""
    outcome: list[Exception] = []

    def download() -> None:
        try:
            _download(filename, folder)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(LONGEST_DOWNLOAD)
    if thread.is_alive():
        raise TimeoutError(f"no end after {LONGEST_DOWNLOAD:.0f} s")
    if outcome:
        raise outcome[0]


def _download(filename: str, folder: Path) -> None:
    from mattersim.utils.download_utils import download_checkpoint

    download_checkpoint(filename, save_folder=str(folder))
