"""Where weights lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hpcbench.errors import PotentialError

MATTERSIM_FILES = {
    "mattersim-v1.0.0-1M": "mattersim-v1.0.0-1M.pth",
    "mattersim-v1.0.0-5M": "mattersim-v1.0.0-5M.pth",
}
"""Published MatterSim weights: the name here, and the name of the file."""

DEMO_WEIGHTS = Path(__file__).parent / "mattersim_demo" / "mattersim-demo.pth"
"""The small potential that comes with the package (see the README beside it)."""


# Of the crystals that it was made from: of any other element it knows nothing.
DEMO_ELEMENTS = frozenset({3, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 22, 29, 30, 31, 33, 38, 55})


def mattersim_folder() -> Path:
    """The folder in which MatterSim keeps its weights, the same as the package's own."""
    return Path.home() / ".local" / "mattersim" / "pretrained_models"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_mattersim(name: str) -> Path:
    """The local file of published MatterSim weights.

    Raises
    ------
    PotentialError
        If the file is not there; the message says what to do.
    """
    path = mattersim_folder() / MATTERSIM_FILES[name]
    if not path.is_file():
        raise PotentialError(
            f"the weights of {name} are missing: looked for {path}. "
            f"With a network (on a cluster: on the login node) run "
            f"`python -m hpcbench models fetch {name}`; or copy the file there; or give other "
            f"weights as --model FILE.pth. --model mattersim-demo runs offline, but knows only "
            f"a few simple crystals."
        )
    return path
