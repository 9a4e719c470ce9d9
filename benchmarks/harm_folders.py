# ruff: noqa: E501  (a table: a line is a case)
"""Make names, links, pipes and rights: all that folders hold besides plain files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from harm_cif import cif
from harm_judge import DEVICES, NO_FORMAT, Bad, FileKind, kinds

AL = ("Al",)


def _al() -> str:
    return cif(["Al1 Al 0 0 0"])


def _good(name: str | bytes) -> Bad:
    """Return a good crystal by this name, which must be computed."""
    return Bad(name, _al(), must=AL, reason=False)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inner.cif").write_text(_al())


def _folder_link(path: Path) -> None:
    """Make a link to a folder of crystals that is hidden from the search otherwise."""
    hidden = path.with_name(".hidden")
    hidden.mkdir()
    (hidden / "a.cif").write_text(_al())
    path.symlink_to(".hidden")


def _loop(path: Path) -> None:
    """Make a folder with a crystal and with a link to itself."""
    _folder(path)
    (path / "again").symlink_to(".")
    (path / "up").symlink_to("..")


def _file_link(path: Path) -> None:
    hidden = path.with_name(".hidden")
    hidden.mkdir()
    (hidden / "a.cif").write_text(_al())
    path.symlink_to(".hidden/a.cif")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _locked(path: Path) -> None:
    path.write_text(_al())
    path.chmod(0)


def _locked_folder(path: Path) -> None:
    _folder(path)
    path.chmod(0)


def _deep(path: Path) -> None:
    folder = path.joinpath(*["deep"] * 200)
    folder.mkdir(parents=True)
    (folder / "a.cif").write_text(_al())


def _crowded(path: Path) -> None:
    path.mkdir()
    for number in range(5000):
        (path / f"{number}.log").touch()
    (path / "a.cif").write_text(_al())


FOLDERS: list[FileKind] = kinds(
    {
        "names: as long as can be": [
            _good("n" * 251 + ".cif"),
            _good(("ü" * 124 + ".cif").encode()),
        ],
        "names: Unicode": [
            _good("смола.cif"), _good("水晶.cif"), _good("cafe\u0301.cif"), _good("\u202ecif.gnp.cif"),
            _good("zero\u200bwidth.cif"),
        ],
        "names: not UTF-8": [_good(b"latin-\xe4.cif"), _good(b"\xff\xfe.cif")],
        "names: line breaks and control characters": [
            _good("two\nlines.cif"), _good("red\x1b[31m.cif"), _good("title\x1b]0;x\x07.cif"),
            _good("back\x08\x08.cif"), _good("return\r.cif"), _good("tab\t.cif"),
        ],
        "names: that look like options or code": [
            _good("-rf.cif"), _good("--help.cif"), _good("$(touch MARKER).cif"), _good("; ls.cif"),
            _good("%s%n.cif"), _good("{0}.cif"), _good("<b>x.cif"), _good("=1+1.cif"),
        ],
        "names: patterns, quotes and spaces": [
            _good("[a-z]*?.cif"), _good("a 'b' \"c\".cif"), _good(" .cif"), _good("a::b.cif"),
            _good("a#b.cif"), _good("a\\b.cif"),
        ],
        "names: odd endings": [
            Bad("a.cif.", _al(), may=AL, words=NO_FORMAT),
            Bad("a.cif~", _al(), may=AL, words=NO_FORMAT),
            Bad("a.cif.bak", _al(), may=AL, words=(".bak files",)),
            Bad("a.cif.part", _al(), may=AL, words=(".part files",)),
        ],
        "names: that differ in case only": [
            Bad("a.cif", lambda path: (path.write_text(_al()),
                                       path.with_name("A.cif").write_text(_al()))[0],
                must=AL, reason=False),
        ],
        "folders: named like files": [
            Bad("a.cif", _folder, must=AL, reason=False),
            Bad("POSCAR", _folder, must=AL, reason=False),
            Bad("a.zip", _folder, must=AL, reason=False),
            Bad("a.h5", _folder, must=AL, reason=False),
        ],
        "folders: very deep": [Bad("deep", _deep, must=AL, reason=False)],
        "folders: thousands of other files": [Bad("crowd", _crowded, must=AL, reason=False)],
        "folders: unreadable": [Bad("locked", _locked_folder)],
        "files: unreadable": [Bad(f"locked.{end}", _locked) for end in ("cif", "vasp", "zip", "csv")],
        "links: broken": [
            Bad("gone.cif", _link("nowhere.cif")),
            Bad("folder", _link("/nonexistent/folder")),
        ],
        "links: to themselves": [Bad("loop.cif", _link("loop.cif")), Bad("loop", _loop, must=AL, reason=False)],
        "links: to folders": [Bad("linked", _folder_link, must=AL, reason=False)],
        "links: to files": [Bad("linked.cif", _file_link, must=AL, reason=False)],
        "links: to devices": [
            Bad("zero.cif", _link("/dev/zero"), words=DEVICES),
            Bad("null.extxyz", _link("/dev/null"), words=DEVICES),
            Bad("tty.vasp", _link("/dev/stdin"), words=DEVICES),
        ],
        "links: to the system's files": [
            Bad("passwd.cif", _link("/etc/passwd")),
            Bad("environ.cif", _link("/proc/self/environ")),
        ],
        "pipes and sockets": [
            *(Bad(f"pipe.{end}", os.mkfifo, words=DEVICES) for end in ("cif", "zip", "csv", "extxyz")),
            Bad("socket.cif", _socket, words=DEVICES),
        ],
    }
)  # fmt: skip
