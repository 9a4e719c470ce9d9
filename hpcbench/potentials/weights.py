"""Where weights lie."""

from __future__ import annotations

import hashlib
import os
import platform
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
    """The folder in which MatterSim keeps its weights, the same as the package's own.

    Raises
    ------
    PotentialError
        If there is no home folder.
    """
    try:
        home = Path.home()
    except RuntimeError:
        raise PotentialError(
            "weights are kept in the home folder, and this user has none: set HOME, or give "
            "--model FILE.pth"
        ) from None
    return home / ".local" / "mattersim" / "pretrained_models"


def on_this_node(path: Path) -> Path:
    """The copy of a weights file on the node's own disk, if there is one; else the file itself.

    ``launch.sh --stage`` makes it, below the folder ``$HPCBENCH_STAGED_WEIGHTS`` with the path of
    the original. A copy that is not as large or not as old as the original is none.
    """
    folder = os.environ.get("HPCBENCH_STAGED_WEIGHTS")
    if not folder:
        return path
    copy = Path(folder, *path.absolute().parts[1:])
    try:
        original, copied = path.stat(), copy.stat()
    except OSError:
        return path
    same = (original.st_size, int(original.st_mtime)) == (copied.st_size, int(copied.st_mtime))
    return copy if same else path


def keep(path: Path, content: bytes) -> None:
    """Write weights to their place; nobody ever sees half of them.

    Raises
    ------
    PotentialError
        If they cannot be written.
    """
    # Many hosts may do this at once: the last one wins, with the same content.
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    make_folder(path.parent)
    try:
        try:
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _unkept(path.parent, error) from error


def make_folder(folder: Path) -> None:
    """Make the folder of weights.

    Raises
    ------
    PotentialError
        If it is not there and cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unkept(folder, error) from error


def _unkept(folder: Path, error: OSError) -> PotentialError:
    return PotentialError(
        f"weights cannot be kept in {folder}: {error.strerror or error}. Make that possible, or "
        f"give --model FILE.pth on a file system that can be read everywhere"
    )


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
