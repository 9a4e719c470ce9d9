"""Use commands wrongly: settings, lists, manifests and options are refused with a sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harm_case import Case, CaseKind
from harm_outputs import run_words


@dataclass(frozen=True)
class Wrong:
    """Describe a command that is wrong.

    Attributes
    ----------
    words : tuple of str
        The command without ``hpcbench``.
    name, content : str, str or bytes or callable
        A file that is there.
    codes : tuple of int
        Exit codes that are right.
    leaves : tuple of str
        What may be there afterwards: where the potential or the device fails, the launch has begun,
        and the run folder holds its log. One where crystals were refused holds their reasons.
    """

    words: tuple[str, ...]
    name: str = ""
    content: str | bytes | Callable[[Path], None] = ""
    codes: tuple[int, ...] = (2,)
    leaves: tuple[str, ...] = ()


def _with(name: str, content: str | bytes | Callable[[Path], None], *words: str) -> Wrong:
    return Wrong(("run", name, "--model", "ase.calculators.emt:EMT", *words), name, content)


def _config(content: str | bytes) -> Wrong:
    return Wrong(tuple(run_words("--config", "c.toml")), "c.toml", content)


def _criteria(content: str | bytes) -> Wrong:
    return Wrong(tuple(run_words("--criteria", "c.toml")), "c.toml", content)


def _options(*words: str) -> Wrong:
    return Wrong(tuple(run_words(*words)))


LOG = ("store.h5.run",)
_ENTRY = "[[generators]]\nname = 'A'\n"
WRONG: dict[str, list[Wrong]] = {
    "lists": [
        _with("l.txt", ""),
        _with("l.txt", "# only a comment\n"),
        _with("l.txt", "l.txt\n"),
        _with("l.txt", "good/nowhere.cif\n"),
        _with("l.txt", b"\xff\xfe\x00g\x00o"),
        _with("l.txt", "good\0\n"),
        _with("l.txt", "/dev/zero\n"),
        _with("l.txt", os.mkfifo),
    ],
    "manifests: not TOML": [
        _with("m.toml", ""),
        _with("m.toml", "generators = ["),
        _with("m.toml", b"\xff\xfe"),
        _with("m.toml", "a = " + "[" * 100_000 + "]" * 100_000),
    ],
    "manifests: wrong keys": [
        _with("m.toml", "[[generator]]\nname = 'A'\nfiles = ['good']\n"),
        _with("m.toml", _ENTRY + "file = ['good']\n"),
        _with("m.toml", _ENTRY),
        _with("m.toml", _ENTRY + "files = 'good'\n" + "colour = 'red'\n"),
        _with("m.toml", "generators = 3\n"),
    ],
    "manifests: wrong values": [
        _with("m.toml", _ENTRY + "files = [3]\n"),
        _with("m.toml", _ENTRY + "files = []\n"),
        _with("m.toml", "[[generators]]\nname = 3\nfiles = ['good']\n"),
        _with("m.toml", "[[generators]]\nname = ''\nfiles = ['good']\n"),
        _with("m.toml", _ENTRY + "files = ['m.toml']\n"),
    ],
    "settings: not TOML": [_config("model ="), _config(b"\xff\xfe\x00"), _config("[" * 100_000)],
    "settings: wrong keys or values": [
        _config("colour = 'red'\n"), _config("fmax = 'small'\n"), _config("mesh = 4.5\n"),
        _config("mesh = [1, 2]\n"), _config("supercell = 0\n"), _config("model = 3\n"),
        _config("max_steps = -1\n"), _config("fmax = nan\n"),
    ],
    "criteria": [
        _criteria("[[criteria]]\nname = 'a'\n"),
        _criteria("[[criteria]]\nname = 'a'\nplace = 'moon'\nthreshold = 0\n"),
        _criteria("[[criteria]]\nname = 'a'\nplace = 'mesh'\nthreshold = 'low'\n"),
        _criteria("[[criteria]]\nname = '../a\\u001b[31m'\nplace = 'mesh'\nthreshold = nan\n"),
        _criteria("criteria = 1\n"),
    ],
    "files that are not there": [
        Wrong(("run", "nowhere", "--model", "ase.calculators.emt:EMT")),
        Wrong(("run", "*.nothing", "--model", "ase.calculators.emt:EMT")),
        Wrong(("status", "nowhere.h5")), Wrong(("show", "Cu", "--store", "nowhere.h5")),
        Wrong(("export", "nowhere.h5")), Wrong(("report", "nowhere.h5")),
        Wrong(("verify", "nowhere.h5")), Wrong(("repair", "nowhere.h5")),
        Wrong(("diff", "nowhere.h5", "nowhere.h5")), Wrong(("consolidate", "nowhere.h5")),
        Wrong(("merge", "nowhere.h5", "-o", "m.h5")), Wrong(("import", "nowhere", "--out", "i.h5")),
        Wrong(("reanalyse", "nowhere.h5", "--mesh", "3")), _options("--config", "nowhere.toml"),
        _options("--criteria", "nowhere.toml"), _options("--against", "nowhere.csv"),
    ],
    "sources that are no files": [
        Wrong(("run", "/dev/zero", "--model", "ase.calculators.emt:EMT")),
        Wrong(("run", "", "--model", "ase.calculators.emt:EMT")),
        _with("p.cif", os.mkfifo),
        _with("empty", lambda path: path.mkdir()),
        _with("locked", lambda path: (path.mkdir(), path.chmod(0))[1]),
    ],
    "options": [
        _options("--mesh", "0", "0", "0"), _options("--mesh", "a"), _options("--mesh", "nan"),
        _options("--supercell", "0", "0", "0"), _options("--supercell", "-1"),
        _options("--supercell", "nan"),
        # Larger than --largest-supercell: that is a reason of each crystal.
        Wrong(tuple(run_words("--supercell", *["1000000"] * 3)), codes=(1,),
              leaves=("store.h5", *LOG, "store.h5.html")),
        _options("--fmax", "-1"), _options("--fmax", "nan"), _options("--max-steps", "-5"),
        _options("--temperatures", "-3"), _options("--temperatures", "nan"),
        _options("--displacement", "0"), _options("--displacement", "inf"),
        _options("--time-limit", "tomorrow"), _options("--time-limit", "-1"),
        _options("--protocol", "best"), _options("--criterion", "best"),
        _options("--dtype", "float16"),
        Wrong(tuple(run_words("--device", "tpu")), leaves=LOG), _options("--workers", "-2"),
        _options("--sample", "-1"), _options("--pressure", "nan"),
        _options("--min-distance", "nan"), _options("--symprec", "-1"),
        _options("--colour", "red"), Wrong(("dance",)), Wrong((), codes=(0,)),
    ],
    "models that are none": [
        Wrong(("run", "good", "--model", model), codes=(2,), leaves=LOG)
        for model in ("nonsense", "", "nowhere.pth", "no.such:Calculator", "os:system", "math:pi",
                      "json:loads", ":", "ase.calculators.emt:", "good/Cu.vasp")
    ],
    "questions that are none": [
        Wrong(("show", "Nothing", "--store", "good"), codes=(2, 3)),
        Wrong(("export", "good/Cu.vasp"), codes=(2, 3)),
        Wrong(("status", "good/Cu.vasp"), codes=(2, 3)),
    ],
}  # fmt: skip
# What the machine lacks is 3: a device, a package.
ENVIRONMENT = {"tpu", "no.such:Calculator"}


def _kind(name: str, commands: list[Wrong]) -> CaseKind:
    def do(case: Case) -> None:
        for wrong in commands:
            path = case.place.work / wrong.name
            if callable(wrong.content):
                wrong.content(path)
            elif wrong.name:
                content = wrong.content
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            codes = (*wrong.codes, 3) if ENVIRONMENT.intersection(wrong.words) else wrong.codes
            case.refused(case.place.hpcbench(*wrong.words), codes)
            for left in case.place.work.iterdir():
                if left == path or left.name == "good":
                    continue
                if left.name not in wrong.leaves:
                    case.fault("left behind", f"{left.name} of {wrong.words}")
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if wrong.name:
                path.rename(case.place.folder / f"was-{case.tally.tried}")

    return CaseKind("usage", f"wrong use: {name}", do)


USAGE: list[CaseKind] = [_kind(name, commands) for name, commands in WRONG.items()]
