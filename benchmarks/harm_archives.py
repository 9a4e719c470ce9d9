# ruff: noqa: E501  (a table: a line is a case)
"""Make archives and compressed files: cut off, hostile, or far larger than they look."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from harm_cif import cif
from harm_judge import LEFT_OUT, Bad, FileKind, kinds
from harm_texts import xyz

AL = ("Al",)
MEGABYTE = 2**20
# Wherever a member is unpacked, one of these is the folder that nothing may be written to.
OUTSIDE = [f"{'../' * levels}outside/" for levels in range(1, 7)]


def al() -> str:
    """Return the text of a CIF of one atom of aluminium; each has a cell of its own."""
    return cif(["Al1 Al 0 0 0"])


def gz(head: bytes, chunk: bytes, times: int) -> Callable[[Path], None]:
    """Return what writes a compressed file of many equal chunks.

    Parameters
    ----------
    head : bytes
        The beginning of the content.
    chunk : bytes
        What follows it.
    times : int
        How often.
    """

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=6) as file:
            file.write(head)
            for _ in range(times):
                file.write(chunk)

    return make


def zipped(members: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the bytes of a zip of these members.

    Parameters
    ----------
    members : dict
        Contents by name.
    method : int
        Compression, as ``zipfile`` numbers it.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(members: dict[str, str | bytes], mode: str = "w") -> bytes:
    """Return the bytes of a tar of these members.

    Parameters
    ----------
    members : dict
        Contents by name.
    mode : str
        Of ``tarfile.open``, for the compression.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _zip_link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.cif")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.cif", al())


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb.cif", "w", force_zip64=True) as member:
            for _ in range(1100):
                member.write(b" " * MEGABYTE)
        archive.writestr("good.cif", al())


def _zip_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"n/{number}.log", b"")
        archive.writestr("good.cif", al())


def _zip_twice(path: Path) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.cif", al())
        archive.writestr("a.cif", cif(["Ni1 Ni 0 0 0"], a=3.55))


def _encrypted() -> bytes:
    """Return a zip whose only member is marked as encrypted."""
    data = bytearray(zipped({"a.cif": al()}, zipfile.ZIP_STORED))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _method(number: int) -> bytes:
    """Return a zip with a compression that nobody knows."""
    data = bytearray(zipped({"a.cif": al()}, zipfile.ZIP_STORED))
    data[8] = number
    data[data.index(b"PK\x01\x02") + 10] = number
    return bytes(data)


def _wrong_sum() -> bytes:
    data = bytearray(zipped({"a.cif": al(), "good.cif": al()}, zipfile.ZIP_STORED))
    data[60] ^= 0xFF
    return bytes(data)


def _quine() -> bytes:
    """Return a zip with a directory entry that points to a member many times."""
    data = zipped({"a.cif": cif(["Al1 Al ? 0 0"]) + " " * MEGABYTE})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry, tail = data[start:end], bytearray(data[end:])
    number = 20_000
    tail[8:12] = number.to_bytes(2, "little") * 2
    tail[12:16] = (len(entry) * number).to_bytes(4, "little")
    return data[:start] + entry * number + bytes(tail)


def _tar_links(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        kinds_of = (("sym.cif", tarfile.SYMTYPE), ("hard.cif", tarfile.LNKTYPE),
                    ("fifo.cif", tarfile.FIFOTYPE), ("device.cif", tarfile.CHRTYPE))  # fmt: skip
        for name, kind in kinds_of:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        data = al().encode()
        good = tarfile.TarInfo("good.cif")
        good.size = len(data)
        archive.addfile(good, io.BytesIO(data))


def _sparse(name: str, size: int) -> bytes:
    """Return a tar of 1.5 kB whose member is ``size`` bytes long by its header (old GNU sparse)."""
    header = bytearray(512)

    def put(place: int, value: bytes) -> None:
        header[place : place + len(value)] = value

    def number(value: int) -> bytes:
        return b"\x80" + value.to_bytes(11, "big")

    put(0, name.encode())
    put(100, b"0000644\0" + b"0000000\0" * 2 + b"00000000000\0" * 2 + b" " * 8 + b"S")
    put(257, b"ustar  \0")
    put(386, number(size) + number(0))
    put(482, b"\0" + number(size))
    put(148, b"%06o\0 " % sum(header))
    return bytes(header) + b"\0" * 1024


def _pax(size: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.cif")
        member.pax_headers = {"comment": "x" * size}
        archive.addfile(member)
    return stream.getvalue()


def _nested(levels: int) -> bytes:
    data = zipped({"a.cif": al()})
    for _ in range(levels):
        data = zipped({"inner.zip": data})
    return data


_WHOLE = gzip.compress(al().encode() + b"# comment\n" * 500)
ARCHIVES: list[FileKind] = kinds(
    {
        "compressed: as it should be": [
            Bad("a.cif.gz", gzip.compress(al().encode()), must=AL, reason=False),
            Bad("a.cif.bz2", bz2.compress(al().encode()), must=AL, reason=False),
            Bad("a.cif.xz", lzma.compress(al().encode()), must=AL, reason=False),
            Bad("a.zip", zipped({"a.cif": al()}), must=AL, reason=False),
            Bad("a.tar.gz", tarred({"a.cif": al()}, "w:gz"), must=AL, reason=False),
        ],
        "compressed: cut off": [
            Bad("a.cif.gz", _WHOLE[: len(_WHOLE) // 2]),
            Bad("a.cif.bz2", bz2.compress(al().encode())[:-9]),
            Bad("a.cif.xz", lzma.compress(al().encode())[:-9]),
            Bad("a.extxyz.gz", gzip.compress((xyz() * 2000).encode())[:-30], must=AL),
        ],
        "compressed: not, or with a wrong sum": [
            Bad("plain.cif.bz2", al(), may=AL),
            Bad("plain.cif.xz", al(), may=AL),
            Bad("sum.cif.gz", _WHOLE[:-8] + b"\0" * 8),
        ],
        "compressed twice": [Bad("twice.cif.gz", gzip.compress(gzip.compress(al().encode())), may=AL)],
        "compressed: 1 GB and more": [
            Bad("spaces.cif.gz", gz(b"data_x\n", b" " * MEGABYTE, 1100)),
            Bad("zeros.vasp.gz", gz(b"", b"\0" * MEGABYTE, 1100)),
            Bad("zeros.db.gz", gz(b"", b"\0" * MEGABYTE, 1100), words=(LEFT_OUT["db"],)),
            Bad("line.extxyz.gz", gz(b"1\n", b"A" * MEGABYTE, 1100)),
            Bad("zeros.extxyz.gz", gz(b"", b"\0" * MEGABYTE, 1100)),
            Bad("lists.json.gz", gz(b"[", b"{}," * (MEGABYTE // 3), 150), words=(LEFT_OUT["json"],)),
        ],
        "compressed: a billion atoms announced": [
            Bad("many.extxyz.gz", gz(
                b'999999999\nLattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3\n',
                b"Al 0 0 0\n" * 100_000, 100)),
        ],
        "zip: none or cut off": [
            Bad("text.zip", "not a zip\n"),
            Bad("cut.zip", zipped({"a.cif": al()})[:-30]),
            Bad("nothing.zip", zipped({})),
            Bad("notes.zip", zipped({"notes.md": "no crystals here\n"})),
        ],
        "zip: encrypted": [Bad("secret.zip", _encrypted())],
        "zip: unknown compression": [Bad("method.zip", _method(99)), Bad("method2.zip", _method(77))],
        "zip: a damaged member beside a good one": [Bad("sum.zip", _wrong_sum(), must=AL)],
        "zip: members that lead outside": [
            Bad("outside.zip", zipped({out + "MARKER.cif": al() for out in OUTSIDE}), may=AL, reason=False),
            Bad("windows.zip", zipped({"..\\..\\c.cif": al()}), may=AL, reason=False),
            Bad("root.zip", zipped({"/etc/nonexistent/MARKER.cif": al()}), may=AL, reason=False),
        ],
        "zip: links": [Bad("links.zip", _zip_link, must=AL)],
        "zip: odd names of members": [
            Bad("names.zip", zipped({"a\x1b[31m.cif": al(), "-rf.cif": al(), "b\nc.cif": al(),
                                     "d" * 4000 + ".cif": al()}), must=AL, reason=False),
        ],
        "zip: one name twice": [Bad("twice.zip", _zip_twice, must=("Al", "Ni"), reason=False)],
        "zip: in a zip": [Bad("once.zip", _nested(1), may=AL), Bad("often.zip", _nested(40), may=AL)],
        "zip: a bomb": [Bad("bomb.zip", _zip_bomb, must=AL)],
        "zip: overlapping members": [Bad("quine.zip", _quine())],
        "zip: very many members": [Bad("members.zip", _zip_members, must=AL, reason=False)],
        "tar: none or cut off": [
            Bad("text.tar", "not a tar\n" * 200),
            Bad("cut.tar.gz", tarred({f"{i}.cif": al() + str(i) for i in range(30)}, "w:gz")[:-200], may=AL),
            Bad("nothing.tar", tarred({})),
        ],
        "tar: members that lead outside": [
            Bad("outside.tar", tarred({out + "MARKER.cif": al() for out in OUTSIDE}), may=AL, reason=False),
        ],
        "tar: links and devices": [Bad("links.tar", _tar_links, must=AL, words=("links and devices in archives",))],
        "tar: 4 TB in 1.5 kB": [
            Bad(f"sparse-{end}.tar", _sparse(f"a.{end}", 1 << 42))
            for end in ("extxyz", "cif", "vasp", "csv", "db", "json", "pt")
        ],
        "tar: a header of 20 MB": [Bad("pax.tar", _pax(20 * MEGABYTE))],
        "zlib by another name": [Bad("zlib.cif.gz", zlib.compress(al().encode()))],
    }
)  # fmt: skip
