"""Find files of weights. Loads no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import PotentialError

DEMO_WEIGHTS = Path(__file__).parent / "mattersim_demo" / "mattersim-demo.pth"
"""The small potential that comes with the package (see the README beside it)."""

# Of the crystals that it was made from: of any other element it knows nothing.
DEMO_ELEMENTS = frozenset({3, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 22, 29, 30, 31, 33, 38, 55})


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a Python package ships.

    Attributes
    ----------
    package : str
        Name by which the package is imported.
    file : str
        Path of the file below the package's folder.
    sha256 : str
        SHA-256 of the file, in hexadecimal digits; another file is refused. Empty: any file is
        taken.
    """

    package: str
    file: str
    sha256: str = ""

    def path(self, name: str) -> Path:
        """Find the file, without importing the package.

        Parameters
        ----------
        name : str
            The potential's, for the error.

        Raises
        ------
        PotentialError
            If the package is not installed, or has no such file.
        """
        found = importlib.util.find_spec(self.package)
        folders = (found.submodule_search_locations if found else None) or ()
        for folder in folders:
            if (path := Path(folder, self.file)).is_file():
                return path
        reason = f"has no file {self.file}" if found else "is not installed"
        raise PotentialError(f"{name} needs its package: {self.package} {reason}")


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that are downloaded once, into a folder below the home folder.

    Attributes
    ----------
    file : str
        Name of the file.
    folder : str
        The folder, below the home folder.
    download : str
        ``module:function`` that brings the file; it is called with the file's name and the folder
        (a ``Path``) that is to hold it.
    sha256 : str
        As in :class:`PackagedWeights`.
    also : tuple of str
        Other names, in the same folder, of files with the same weights in another format.
    beside : tuple of str
        Names of files that belong to it and lie in the same folder.
    """

    file: str
    folder: str
    download: str
    sha256: str = ""
    also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def place(self) -> Path:
        """Return where the file lies or is to lie; it need not be there.

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
        places = [home / self.folder / name for name in (self.file, *self.also)]
        return next((place for place in places if place.is_file()), places[0])

    def path(self, name: str) -> Path:
        """Return the file.

        Parameters
        ----------
        name : str
            The potential's, for the error.

        Raises
        ------
        PotentialError
            If it is not there; the message says what to do.
        """
        path = self.place()
        if not path.is_file():
            raise PotentialError(
                f"the weights of {name} are missing: looked for {path}. "
                f"With a network (on a cluster: on the login node) run "
                f"`python -m hpcbench models fetch {name}`; or copy the file there; or give other "
                f"weights as --model FILE. --model mattersim-demo runs offline, but knows only "
                f"a few simple crystals."
            )
        return path


@dataclass(frozen=True)
class GivenWeights:
    """Weights in a file that somebody named.

    Attributes
    ----------
    file : Path
        The file.
    sha256 : str
        As in :class:`PackagedWeights`.
    """

    file: Path
    sha256: str = ""

    def path(self, name: str) -> Path:
        """Return the file, whether it is there or not; ``name`` is not needed."""
        return self.file


Weights = PackagedWeights | PublishedWeights | GivenWeights


def on_this_node(path: Path) -> Path:
    """Return the copy of a weights file on the node's own disk, or the file if there is none.

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

    Parameters
    ----------
    path : Path
        The place; its folder is made.
    content : bytes
        The whole file.

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
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
