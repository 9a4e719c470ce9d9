"""Rules for writing results: targets, temporary files, and files that are never replaced.

One rule holds for every command. Links are followed: the target of a link is written, and the link
stays. A file is replaced only if hpcbench has written it, which its first or last bytes show, or
with ``--force``. A folder is written into if it is new, empty, or from an earlier export. No store
is ever replaced by anything else.

Files are written under a temporary name, with a lock that shows that their writer is at work. The
lock ends with the process: files without a lock are removed by the next command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcbench.errors import StoreError, UsageError

SETTINGS_FILE = "hpcbench.json"
"""Name of the file with the store's settings in the folder of an export. With these an import gives
the same verdicts, except that verdicts from rational q are undetermined there. The file also shows
that the other files in its folder may be replaced."""

TRAINING_FILE = "training.json"
"""Name of the file with recipe and counts in the folder of a training set. It is written last: with
it the set is whole."""

CIF_MARK = "# written by hpcbench\n"
"""The first line of a CIF."""
ATTRIBUTES = {"writer": "hpcbench"}
"""Attributes of a table, which pandas writes into Parquet's metadata."""
PICTURE = {
    "png": {"Software": "hpcbench"},
    "svg": {"Creator": "hpcbench", "Date": None},
    "pdf": {"Creator": "hpcbench"},
}
"""Metadata of pictures for matplotlib, by format."""

HDF5 = b"\x89HDF\r\n\x1a\n"
# Patterns at the beginning, or at the end, of files that hpcbench has written.
_BEGINNINGS = tuple(
    re.compile(text, re.DOTALL)
    for text in (
        # The page.
        rb'<meta name="generator" content="hpcbench">',
        # The benchmark of generators, and errors of potentials, as JSON.
        rb'\A\{\s*"format": "hpcbench-(benchmark|accuracy)"',
        # The table as CSV and JSON, the table of a comparison.
        rb"\Aid,name,origins,formula,natoms,status,reason,",
        rb'\A\[\s*\{\s*"id":"[^"\n]*",\s*"name":"[^\n]*",\s*"origins":"',
        rb"\Aid,name,formula,status_a,",
        # Relaxed crystals and displaced supercells as extended XYZ; CIF.
        rb"\A\d+\n[^\n]*\bverdict=[^\n]*\bspacegroup_number=",
        rb"\A\d+\n[^\n]*\bid=[^\n]*\bdisplaced_atom=",
        rb"\A" + re.escape(CIF_MARK.encode()),
        # Pictures.
        rb"\A\x89PNG\r\n\x1a\n.{0,200}tEXtSoftware\0hpcbench",
        rb"\A<\?xml.*<dc:title>hpcbench</dc:title>",
    )
)
_ENDS = (b'{"writer": "hpcbench"}', b"/Creator (hpcbench)")
_HEAD, _TAIL = 4096, 65536

_PART = re.compile(r"\..+\.(\d+)-([0-9a-f]{8})[0-9a-f]{8}\.part")
_WITHIN = re.compile(r"\..+\.\d+-[0-9a-f]{16}\.within\.part")
# Bytes of a name that are kept in a temporary one: file systems allow 255.
_KEPT = 200
# Seconds after which an unlocked file is abandoned, if its writer may be on another host.
_NOBODYS = 86400.0
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the file or folder of a path, after following links, also dead ones.

    Raises
    ------
    UsageError
        If the path names nothing, or links form a circle.
    """
    given = Path(path)
    if not given.name or "\0" in given.name:
        raise UsageError(f"{os.fspath(path)!r} is not a file name")
    try:
        if not given.is_symlink():
            return given
        target = Path(os.path.realpath(given))
        if target.is_symlink():
            raise UsageError(f"{given} is a link that leads in a circle")
    except OSError as error:
        raise UsageError(f"{given}: {error.strerror}") from error
    return target


def appended(store: Path, ending: str) -> Path:
    """Return the default name of a file made from a store: its whole name and an ending.

    Parameters
    ----------
    store : Path
        The store.
    ending : str
        The ending.
    """
    return store.with_name(store.name + ending)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the text of a :data:`SETTINGS_FILE`."""
    return json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"


def is_ours(path: Path) -> bool:
    """Tell whether hpcbench has written a file, or the file is empty; stores do not count.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = stream.read()
    return (
        not head
        or any(startup.search(head) for startup in _BEGINNINGS)
        or any(end in tail for end in _ENDS)
    )


def file_to_write(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Return the file to write for a path, after following links.

    Parameters
    ----------
    path : path
        As given.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    """
    target = target_of(path)
    if os.path.isdir(f"{target}.run/segments"):
        raise UsageError(f"{target} is the name of a store: give another name for what is written")
    try:
        mode = target.stat().st_mode
    except OSError:
        # There is no file; other errors will be reported when it is written.
        return target
    if not stat.S_ISREG(mode):
        raise UsageError(f"{target} is {_kind(mode)}: give the name of a file")
    try:
        with target.open("rb") as stream:
            is_hdf5 = stream.read(len(HDF5)) == HDF5
        may_be_replaced = force or is_ours(target)
    except OSError as error:
        raise UsageError(
            f"{target} exists and cannot be read ({error.strerror}): give another name"
        ) from error
    if is_hdf5:
        raise UsageError(f"{target} is an HDF5 file: give another name for what is written")
    if not may_be_replaced:
        raise UsageError(
            f"{target} exists, and hpcbench did not write it: give another name, or --force to "
            f"replace it"
        )
    return target


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "no ordinary file"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file, which replaces ``path`` on success and is removed otherwise.

    Parameters
    ----------
    path : path
        As given.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        As :func:`file_to_write`.
    StoreError
        If it cannot be written; nothing is left behind then.
    """
    target = file_to_write(path, force=force)
    remove_left_over(target.parent)
    try:
        with _temporary_file(target) as temporary:
            yield temporary
            # A file may have appeared in the meantime.
            file_to_write(target, force=force)
            os.replace(temporary, target)
    except OSError as error:
        # The errors of h5py and others have no strerror.
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def require_empty(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that has files in it, also those of an earlier export.

    Raises
    ------
    UsageError
        If it has, or cannot be read.
    """
    target = target_of(path)
    try:
        if not target.is_dir() or not any(target.iterdir()):
            return
    except OSError as error:
        raise UsageError(
            f"{target} cannot be read ({error.strerror}): give a new folder"
        ) from error
    raise UsageError(f"{target} has files in it: give a new folder, or --force to write there")


@contextlib.contextmanager
def folder_to_write(
    path: str | os.PathLike[str], settings: str, *, force: bool = False
) -> Iterator[Path]:
    """Yield a folder for files written with :func:`written_whole`; make it if needed.

    Parameters
    ----------
    path : path
        As given.
    settings : str
        The text of its :data:`SETTINGS_FILE`.
    force : bool
        Whether to write into a folder that is not hpcbench's, and to replace files there.

    Raises
    ------
    UsageError
        If it is no folder, or has files that are not from an earlier export.
    StoreError
        If it cannot be made, or another process is writing there.
    """
    target = target_of(path)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file: give the name of a folder")
    if (target / "segments").is_dir():
        raise UsageError(f"{target} is the run folder of a store: give another name")
    try:
        target.mkdir(parents=True, exist_ok=True)
        is_mine = (target / SETTINGS_FILE).is_file() or not any(target.iterdir())
        if not (force or is_mine):
            raise UsageError(
                f"{target} has files in it, and is no folder of an earlier export: give a new "
                f"folder, or --force to write there"
            )
        folder = os.open(target, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another process is writing into {target}: wait for it") from None
        except OSError:
            pass  # a file system without locks
        else:
            for place, _, names in os.walk(target):
                for name in filter(_WITHIN.fullmatch, names):
                    Path(place, name).unlink(missing_ok=True)
        with written_whole(target / SETTINGS_FILE) as temporary:
            temporary.write_text(settings)
        yield target
    finally:
        os.close(folder)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which is renamed to ``path`` on success and removed otherwise.

    For files within :func:`folder_to_write`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # It belongs to the process that has locked the folder, and needs no lock of its own.
    temporary = temporary_name(path.parent, path.name).with_suffix(".within.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def temporary_name(folder: Path, name: str) -> Path:
    """Return the name of a file that only this process writes, on any host.

    Parameters
    ----------
    folder : Path
        Its folder.
    name : str
        Name of the file that it replaces.
    """
    kept = os.fsdecode(os.fsencode(name)[:_KEPT])
    return folder / f".{kept}.{os.getpid()}-{_HOST}{secrets.token_hex(4)}.part"


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Yield a locked temporary file for ``path``; it is removed unless it was renamed."""
    while True:
        temporary = temporary_name(path.parent, path.name)
        with temporary.open("x+b") as stream:
            if not says_at_work(stream.fileno(), temporary):
                continue
            try:
                yield temporary
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
        return


def says_at_work(file: int, path: Path) -> bool:
    """Lock a temporary file while it is open; return false if it was removed before that.

    The lock is shared, because HDF5 locks files that it reads.

    Parameters
    ----------
    file : int
        Descriptor of the open file.
    path : Path
        Its path.
    """
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return path.exists()


def remove_left_over(folder: Path) -> None:
    """Remove temporary files of killed processes, not those of processes at work."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _PART.fullmatch(entry.name)
            if name and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_nobodys(Path(entry), int(name[1]), name[2])


def _remove_if_nobodys(path: Path, process: int, host: str) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        # Locks of other hosts are not seen on all file systems.
        is_gone = host == _HOST and not os.path.exists(f"/proc/{process}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            is_gone = False  # a file system without locks
        if not is_gone and os.fstat(file).st_mtime > time.time() - _NOBODYS:
            return
        # While it is locked: a process that makes such a file checks that it still exists.
        path.unlink()
    finally:
        os.close(file)
