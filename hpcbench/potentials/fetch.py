"""How weights get to their place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hpcbench.errors import PotentialError
from hpcbench.potentials.mattersim import MatterSim
from hpcbench.potentials.weights import MATTERSIM_FILES, mattersim_folder


def fetch_mattersim(name: str) -> Path:
    """Download published MatterSim weights through the package's own downloader.

    The file appears under its final name only once it is whole and loads, so that processes
    which start meanwhile never read half a file.

    Raises
    ------
    PotentialError
        If the download fails or brings no checkpoint.
    """
    if name not in MATTERSIM_FILES:
        raise PotentialError(
            f"nothing to fetch for {name!r}: these can be fetched: {', '.join(MATTERSIM_FILES)}"
        )
    folder = mattersim_folder()
    path = folder / MATTERSIM_FILES[name]
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        part = Path(temporary) / path.name
        try:
            _download(path.name, Path(temporary))
        except Exception as error:  # requests and urllib3 raise many kinds without a network
            raise PotentialError(
                f"{name} could not be downloaded ({type(error).__name__}). Without a network, "
                f"copy {path.name} from a machine that has it to {folder}."
            ) from error
        MatterSim(part, name)
        os.replace(part, path)
    return path


def _download(filename: str, folder: Path) -> None:
    from mattersim.utils.download_utils import download_checkpoint

    download_checkpoint(filename, save_folder=str(folder))
