"""Change stores as a stranger might: what is wrong is said, and nothing gets out."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harm_case import Case, CaseKind
from harm_judge import write_good
from harm_place import FORK, Limits, Place, snapshot

if TYPE_CHECKING:
    import h5py

SECRET = "TOP-SECRET-BYTES"
# The same as the first number of a column of integers.
SECRET_NUMBER = int.from_bytes(SECRET[:4].encode(), "little")
SCRIPT = "<script>alert(1)</script>"
_LOCK = threading.Lock()
_BASE: dict[Path, Path] = {}


def base_store(folder: Path, limits: Limits) -> Path:
    """Make a store of the good crystals and of a bad one, once.

    Parameters
    ----------
    folder : Path
        Where it lies.
    limits : Limits
        Of each command.
    """
    with _LOCK:
        if folder not in _BASE:
            place = Place(folder, limits)
            write_good(place.work / "good")
            (place.work / "good" / "bad.cif").write_text("no crystal\n")
            place.run("good", "--out", "base.h5", "--keep-forces")
            _BASE[folder] = place.work / "base.h5"
    return _BASE[folder]


Change = Callable[["h5py.File", Path], None]


def _replaced(path: str, make: Callable[[h5py.File, Any, Path], None]) -> Change:
    """Put another dataset in the place of one, with its attributes."""

    def change(file: h5py.File, outside: Path) -> None:
        old = file[path]
        attributes, dtype, shape = dict(old.attrs), old.dtype, old.shape
        del file[path]
        make(file, (path, dtype, shape), outside)
        if file.get(path, getlink=True).__class__.__name__ == "HardLink":
            file[path].attrs.update(attributes)

    return change


def _external(name: str) -> Change:
    def make(file: h5py.File, about: Any, outside: Path) -> None:
        import h5py

        path, dtype, shape = about
        place = [(str(outside / name).encode(), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(path, shape, dtype=dtype, external=place)

    return _replaced("crystals/natoms", make)


def _virtual(file: h5py.File, about: Any, outside: Path) -> None:
    import h5py

    path, _, shape = about
    layout = h5py.VirtualLayout(shape, dtype=h5py.string_dtype())
    layout[:] = h5py.VirtualSource(str(outside / "secret.hdf5"), "x", shape)
    file.create_virtual_dataset(path, layout)


def _link(file: h5py.File, about: Any, outside: Path) -> None:
    import h5py

    file[about[0]] = h5py.ExternalLink(str(outside / "secret.hdf5"), f"/{about[0]}")


def _values(path: str, *values: Any) -> Change:
    """Put other values into the first rows of a dataset."""

    def change(file: h5py.File, _: Path) -> None:
        data = file[path][:]
        for row, value in zip(range(len(data)), values, strict=False):
            data[row] = value
        file[path][:] = data

    return change


def _both(*changes: Change) -> Change:
    def change(file: h5py.File, outside: Path) -> None:
        for one in changes:
            one(file, outside)

    return change


def _settings(change: Callable[[dict[str, Any]], Any]) -> Change:
    def make(file: h5py.File, _: Path) -> None:
        settings = json.loads(file["settings"][()])
        attributes = dict(file["settings"].attrs)
        new = change(settings)
        del file["settings"]
        file["settings"] = new if isinstance(new, str) else json.dumps(settings)
        file["settings"].attrs.update(attributes)

    return make


def _all_codes(file: h5py.File, _: Path) -> None:
    for name in file["crystals"]:
        if f"{name}/codes" in file["crystals"]:
            file["crystals"][name]["codes"][0] = 99


def _longer(rows: int) -> Change:
    """Let all columns say that they have so many rows."""

    def change(file: h5py.File, _: Path) -> None:
        import h5py

        for item in file["crystals"].values():
            dataset = item["codes"] if isinstance(item, h5py.Group) else item
            if dataset.maxshape[0] is None:
                dataset.resize((rows,))

    return change


def _ragged(values: tuple[int, ...]) -> Change:
    def change(file: h5py.File, _: Path) -> None:
        for item in file["ragged"].values():
            pointers = item["indptr"][:]
            pointers[1 : 1 + len(values)] = values[: len(pointers) - 1]
            item["indptr"][:] = pointers

    return change


def _loop(file: h5py.File, _: Path) -> None:
    import h5py

    file["crystals/loop"] = h5py.SoftLink("/crystals")
    file["ragged/self"] = file["ragged"]


def _without(path: str) -> Change:
    def change(file: h5py.File, _: Path) -> None:
        del file[path]

    return change


def _typed(path: str, dtype: str) -> Change:
    def make(file: h5py.File, about: Any, _: Path) -> None:
        file.create_dataset(about[0], about[2], dtype=dtype)

    return _replaced(path, make)


def _nan(file: h5py.File, _: Path) -> None:
    file["ragged/force_constants/values"][:] = float("nan")


def _version(text: str) -> Change:
    def change(file: h5py.File, _: Path) -> None:
        file.attrs["encoding-version"] = text

    return change


# Changes of a store. The commands that read it may refuse it, or leave what is wrong out, but
# `hpcbench verify` must say it.
CHANGES: dict[str, list[Change]] = {
    "ids that lead outside": [
        _values("crystals/id", "../../../outside/MARKER", "../../outside/MARKER"),
        _values("crystals/id", "/nonexistent-harm/MARKER", "a/b"),
        _both(
            _values("crystals/name", "", "", ""),
            _values("crystals/id", "../../outside/MARKER", "../outside/MARKER", ".."),
        ),
        _both(_values("crystals/name", "..", "."), _values("crystals/id", "..", ".")),
    ],
    "ids that are odd": [
        _values("crystals/id", "", "x" * 70_000),
        _values("crystals/id", "same", "same", "same"),
        _values("crystals/id", "a\x1b[31mb\x1b]0;x\x07", SCRIPT),
    ],
    "names with control characters and HTML": [
        _values("crystals/name", "a\x1b]0;x\x07b\x1b[31m", SCRIPT, "x" * 1_000_000),
    ],
    "names that are formulas or paths": [
        _values("crystals/name", "=HYPERLINK(\"x\")", "@SUM(1)", "../../../outside/MARKER"),
    ],
    "reasons and texts that are odd": [
        _values("crystals/reason", *[SCRIPT + "\x1b]0;x\x07" + "long " * 300_000] * 3),
        _values("crystals/formula", SCRIPT, "=1+1\x1b]0;x\x07"),
    ],
    "origins that are none": [
        _values("crystals/origins", "not json", "[[1, 2]]", "[" * 100_000),
        _values("crystals/origins", "null", "{}", "[]"),
    ],
    "bytes of other files: external storage": [_external("secret"), _external("nothing")],
    "bytes of other files: a pipe": [_external("pipe")],
    "bytes of other files: virtual": [_replaced("crystals/name", _virtual)],
    "bytes of other files: a link": [_replaced("crystals/name", _link)],
    "columns that say they are huge": [_longer(10**9), _longer(10**13)],
    "arrays that lead nowhere": [_ragged((-5, 10**15)), _ragged((10**12,) * 9)],
    "codes beyond the categories": [_all_codes],
    "groups in a circle": [_loop],
    "columns missing": [_without("crystals/id"), _without("ragged"), _without("crystals/status")],
    "columns of another type": [
        _typed("crystals/natoms", "float32"), _typed("crystals/id", "int64"),
        _typed("arrays/supercell_matrix", "S3"),
    ],
    "settings that are none": [
        _settings(lambda s: "[" * 100_000), _settings(lambda s: "null"), _settings(lambda s: "{}"),
        _without("settings"),
    ],
    "settings with HTML and control characters": [
        _settings(lambda s: s.update(model=SCRIPT, protocol=SCRIPT)),
        _settings(lambda s: s.update({"model": "a\x1b]0;x\x07", SCRIPT: SCRIPT})),
    ],
    "numbers that are none": [_nan, _values("crystals/natoms", -5, 2**31 - 1)],
    "supercells that are huge": [_values("arrays/supercell_matrix", 100_000, 100_000)],
    "checksums missing or wrong": [_without("integrity"), _values("integrity/sha256", 0, 0)],
    "a version of the future": [_version("99.0"), _version("x" * 10_000)],
}  # fmt: skip


def _bytes(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(bytearray(path.read_bytes()))) and None


def _zeros(data: bytearray) -> bytearray:
    # Where least is zero already, as the ends of chunks are.
    place = min(range(0, len(data) - 5000, 1000), key=lambda p: data.count(0, p, p + 5000))
    data[place : place + 5000] = bytes(5000)
    return data


def _flipped(step: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        for place in range(step, len(data), step):
            data[place] ^= 0x55
        return data

    return change


# Files that are no store, or damaged ones.
DAMAGES: dict[str, list[Callable[[Path], None]]] = {
    "cut off": [
        _bytes(lambda d: d[:-20_000]), _bytes(lambda d: d[: len(d) // 2]), _bytes(lambda d: d[:3]),
    ],
    "empty": [_bytes(lambda d: b"")],
    "other bytes": [
        _bytes(lambda d: b"no store\n"), _bytes(lambda d: b"\x89HDF\r\n\x1a\n" + b"\xff" * 500),
    ],
    "zeros in the middle": [_bytes(_zeros)],
    "flipped bytes": [_bytes(_flipped(4099)), _bytes(_flipped(611)), _bytes(_flipped(97))],
}  # fmt: skip

READING: list[list[str]] = [
    ["show", "Cu", "--store", "STORE"],
    ["export", "STORE", "--format", "phonopy", "-o", "phonopy"],
    ["report", "STORE"],
    ["verify", "STORE"],
]
# To the first store of a kind only.
MORE: list[list[str]] = [
    ["status", "STORE"],
    ["export", "STORE", "--format", "csv", "-o", "csv/table.csv"],
    ["merge", "STORE", "base.h5", "-o", "merged.h5"],
    ["diff", "STORE", "base.h5"],
    ["reanalyse", "STORE", "--mesh", "3", "3", "3", "--workers", "0"],
    ["export", "STORE", "--format", "cif", "-o", "cif"],
]


def _read_all(case: Case, make: Callable[[Path, Path], None]) -> None:
    """Give all commands that read to a store that ``make`` has changed."""
    place, before = case.place, len(case.tally.faults)
    case.tally.tried += 1
    store = place.work / "s.h5"
    shutil.copy(base_store(place.folder.parent / "stores", place.limits), store)
    shutil.copy(store, place.work / "base.h5")
    (place.work / "csv").mkdir(exist_ok=True)
    make(store, place.outside)
    before_it = snapshot(place.outside) | snapshot(place.work)
    commands = READING + (MORE if case.tally.tried == 1 else [])
    told = False
    for words in commands:
        ended = case.check(place.hpcbench(*("s.h5" if w == "STORE" else w for w in words)))
        told |= ended.code != 0
        if has_secret(ended.text):
            case.fault("let in", f"{ended.command} prints bytes of another file")
        if words[0] == "verify" and ended.code == 0:
            case.fault("silent", f"{ended.command} says that all is well")
    after = snapshot(place.outside)
    after |= {path: kind for path, kind in snapshot(place.work).items() if path in before_it}
    for path in before_it.keys() ^ after.keys() | {
        p for p in after if after[p] != before_it.get(p)
    }:
        case.fault("changed", f"{Path(path).relative_to(place.folder)}")
    _check_outputs(case)
    if len(case.tally.faults) == before:
        case.tally.told += told
        case.tally.right += not told
    for path in place.work.iterdir():
        if path.name != "good":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def has_secret(text: str) -> bool:
    """Tell whether bytes of the other file are in a text."""
    return any(word in text for word in (SECRET, str(SECRET_NUMBER), f"{SECRET_NUMBER:,}"))


def _check_outputs(case: Case) -> None:
    for path in case.place.work.rglob("*"):
        if not path.is_file() or path.suffix == ".h5":
            continue
        text = path.read_text(errors="replace")
        name = path.relative_to(case.place.work)
        if has_secret(text):
            case.fault("let in", f"{name} has bytes of another file")
        if path.suffix == ".html" and SCRIPT in text:
            case.fault("let in", f"{name} has a script of the store's")
        if path.suffix == ".csv" and any(f"{q}{c}" in text for q in (",", ',"') for c in "=@"):
            case.fault("let in", f"{name} has cells that are formulas for spreadsheets")
        if "\x1b" in str(name) or "\n" in str(name):
            case.fault("let in", f"{str(name)!r} has control characters in its name")


def _secrets(outside: Path) -> None:
    import h5py

    if (outside / "secret").exists():
        return
    (outside / "secret").write_text(SECRET * 100)
    with FORK, h5py.File(outside / "secret.hdf5", "w") as file:
        file.create_dataset("x", data=[SECRET] * 3, dtype=h5py.string_dtype())
        file["crystals/name"] = file["x"]
        file["x"].attrs["encoding-type"] = "string-array"
        file["x"].attrs["encoding-version"] = "0.2.0"
    os.mkfifo(outside / "pipe")


def _changed(change: Change) -> Callable[[Path, Path], None]:
    def make(store: Path, outside: Path) -> None:
        import h5py

        _secrets(outside)
        with FORK, h5py.File(store, "r+") as file:
            change(file, outside)

    return make


def _kind(name: str, makes: list[Callable[[Path, Path], None]]) -> CaseKind:
    def do(case: Case) -> None:
        for make in makes:
            _read_all(case, make)

    return CaseKind("stores", f"store: {name}", do)


def _of_files(damage: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    return lambda store, _: damage(store)


STORES: list[CaseKind] = [
    *(_kind(name, [_changed(change) for change in all_of]) for name, all_of in CHANGES.items()),
    *(_kind(name, [_of_files(d) for d in all_of]) for name, all_of in DAMAGES.items()),
]
