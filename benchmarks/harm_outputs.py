"""Name outputs like other things, take room and rights from places, and use commands wrongly."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from harm_case import Case, CaseKind, cases
from harm_cif import cif
from harm_place import FORK, LARGEST_FILE
from harm_stores import base_store

MINE = "this is mine, not hpcbench's\n"


def _mine(case: Case, name: str, text: str = MINE) -> Path:
    """Write a file of the user's that may not change from now on."""
    path = case.place.work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _kept(case: Case, *paths: Path) -> Callable[[], None]:
    """Remember files of the user's; the function that is returned notes what has changed."""
    before = {path: path.read_bytes() for path in paths}

    def check() -> None:
        for path, content in before.items():
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                case.fault("changed", f"{path.name}, the user's, was replaced")

    return check


def _store(case: Case, name: str = "s.h5") -> Path:
    """Make a store of hpcbench's."""
    path = case.place.work / name
    shutil.copy(base_store(case.place.folder.parent / "stores", case.place.limits), path)
    return path


def _refuses(case: Case, *words: str, codes: tuple[int, ...] = (2, 3), **options: object) -> None:
    """Give a command that must be refused and leave nothing behind."""
    before = set(case.place.work.rglob("*"))
    case.refused(case.place.hpcbench(*words, **options), codes)
    new = set(case.place.work.rglob("*")) - before
    for path in sorted(path for path in new if path.parent not in new):
        case.fault("left behind", f"{path.relative_to(case.place.work)} of a refused command")


def run_words(*words: str) -> list[str]:
    """Return the words of a run of the good crystals with EMT."""
    return ["run", "good", "--model", "ase.calculators.emt:EMT", "--device", "cpu", *words]


def out_is_an_input(case: Case) -> None:
    check = _kept(case, case.place.work / "good" / "Cu.vasp")
    _refuses(case, *run_words("--out", "good/Cu.vasp"))
    _refuses(case, *run_words("--out", "./good/../good/Cu.vasp"))
    check()


def out_is_another_file(case: Case) -> None:
    import h5py

    text, other = _mine(case, "notes.h5"), case.place.work / "data.h5"
    with FORK, h5py.File(other, "w") as file:
        file["measured"] = [1.0, 2.0]
    check = _kept(case, text, other)
    _refuses(case, *run_words("--out", "notes.h5"))
    _refuses(case, *run_words("--out", "data.h5"))
    check()


def out_is_a_link(case: Case) -> None:
    (case.place.work / "real").mkdir()
    _store(case, "real/store.h5")
    link = case.place.work / "link.h5"
    link.symlink_to("real/store.h5")
    case.whole(case.place.run("good", "--out", "link.h5", "--mesh", "4", "4", "4"), "link.h5")
    if not link.is_symlink():
        case.fault("changed", "the link --out was replaced by a file")


def out_is_a_broken_link(case: Case) -> None:
    link = case.place.work / "link.h5"
    link.symlink_to("new.h5")
    ended = case.place.run("good", "--out", "link.h5")
    case.tally.tried += 1
    case.check(ended, (0, 2, 3))
    case.tally.told += ended.code in (2, 3)
    case.tally.right += ended.code == 0
    if not link.is_symlink():
        case.fault("changed", "the link --out was replaced by a file")


def out_is_a_folder(case: Case) -> None:
    (case.place.work / "folder.h5").mkdir()
    _refuses(case, *run_words("--out", "folder.h5"))
    _refuses(case, *run_words("--out", "good"))
    _refuses(case, *run_words("--out", "/"))


def out_is_special(case: Case) -> None:
    os.mkfifo(case.place.work / "pipe.h5")
    _refuses(case, *run_words("--out", "pipe.h5"))
    _refuses(case, *run_words("--out", "/dev/null"))
    _refuses(case, *run_words("--out", ""))


def out_where_nothing_may_be_written(case: Case) -> None:
    folder = case.place.work / "readonly"
    folder.mkdir()
    folder.chmod(0o555)
    _refuses(case, *run_words("--out", "readonly/s.h5"))
    _refuses(case, *run_words("--out", "good/Cu.vasp/s.h5"))
    _refuses(case, *run_words("--out", "/proc/s.h5"))


def out_has_an_odd_name(case: Case) -> None:
    for name in ("ü€.h5", "a b'c\".h5", "-s.h5", "[a]*.h5", "%s{0}.h5", "n" * 240 + ".h5"):
        case.tally.tried += 1
        words = run_words(f"--out={name}", "--mesh", "4", "4", "4", "--supercell", "2", "2", "2")
        ended = case.check(case.place.hpcbench(*words, "--no-report", "--workers", "0"), (0, 2, 3))
        case.tally.told += ended.code in (2, 3)
        case.tally.right += ended.code == 0
        if ended.code == 0 and not (case.place.work / name).is_file():
            case.fault("lost", f"there is no {name!r}")


def out_ends_as_its_report(case: Case) -> None:
    ended = case.place.hpcbench(
        *run_words("--out", "s.html", "--mesh", "4", "4", "4", "--supercell", "2", "2", "2")
    )
    if ended.code == 0:
        case.whole(ended, "s.html")
    else:
        case.refused(ended)


def reports_of_like_names(case: Case) -> None:
    _store(case, "gen_v1.0")
    _store(case, "gen_v1.1")
    for name in ("gen_v1.0", "gen_v1.1"):
        case.tally.tried += 1
        ended = case.check(case.place.hpcbench("report", name), (0,))
        case.tally.right += ended.code == 0
    if len(list(case.place.work.glob("*.html"))) < 2:
        case.fault("lost", "gen_v1.0 and gen_v1.1 share one report")


def outputs_replace_files(case: Case) -> None:
    """Let each command that writes do so onto a file of the user's."""
    _store(case)
    _store(case, "b.h5")
    (case.place.work / "cif").mkdir()
    mine = [_mine(case, name) for name in ("s.csv", "s.html", "s.json", "s.extxyz", "mine.h5",
                                           "mine.png", "mine.csv", "cif/Cu.cif")]  # fmt: skip
    mine.append(_mine(case, "s.again.h5"))
    check = _kept(case, *mine)
    for words in (
        ["export", "s.h5"],
        ["export", "s.h5", "--format", "json"],
        ["export", "s.h5", "--format", "extxyz"],
        ["export", "s.h5", "-o", "mine.csv"],
        ["export", "s.h5", "--format", "cif", "-o", "cif"],
        ["report", "s.h5"],
        ["show", "Cu", "--store", "s.h5", "--png", "mine.png"],
        ["diff", "s.h5", "b.h5", "--csv", "mine.csv"],
        ["merge", "s.h5", "b.h5", "-o", "mine.h5"],
        ["import", "good", "--out", "mine.h5"],
        ["reanalyse", "s.h5", "--mesh", "3", "3", "3", "--workers", "0"],
    ):
        case.tally.tried += 1
        ended = case.check(case.place.hpcbench(*words), (0, 1, 2, 3))
        case.tally.told += ended.code in (2, 3)
        case.tally.right += ended.code in (0, 1)
    check()


def inputs_named_like_outputs(case: Case) -> None:
    text = cif(["Cu1 Cu 0 0 0"], cell=(2.56, 2.56, 2.56, 60, 60, 60))
    source = _mine(case, "generated.csv", f'cif,name\n"{text}",one\n')
    page = _mine(case, "generated.html")
    check = _kept(case, source, page)
    words = ["--model", "ase.calculators.emt:EMT", "--supercell", "2", "2", "2", "--mesh", "4", "4",
             "4", "--device", "cpu", "--workers", "0", "--out", "generated.h5"]  # fmt: skip
    case.tally.tried += 2
    ended = case.check(case.place.hpcbench("run", "generated.csv", *words), (0, 2, 3))
    case.tally.right += ended.code == 0
    ended = case.check(case.place.hpcbench("export", "generated.h5"), (0, 2, 3))
    case.tally.told += ended.code in (2, 3)
    case.tally.right += ended.code == 0
    check()


def merge_into_an_input(case: Case) -> None:
    check = _kept(case, _store(case), _store(case, "b.h5"))
    case.refused(case.place.hpcbench("merge", "s.h5", "b.h5", "-o", "s.h5"))
    (case.place.work / "same.h5").symlink_to("s.h5")
    case.refused(case.place.hpcbench("merge", "s.h5", "b.h5", "-o", "same.h5"))
    check()


def no_file_may_be_large(case: Case) -> None:
    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, LARGEST_FILE))

    ended = case.place.run("good", "--out", "s.h5", before=confine)
    case.refused(ended, (3,))
    case.whole(case.place.run("good", "--out", "s.h5"), "s.h5")


def _on_a_small_disk(size: str) -> Callable[[Case], None]:
    def do(case: Case) -> None:
        (case.place.work / "disk").mkdir()
        script = f'mount -t tmpfs -o size={size} none disk && exec "$@"'
        within = ("unshare", "--mount", "sh", "-c", script, "sh")
        case.refused(case.place.run("good", "--out", "disk/s.h5", within=within), (2, 3))

    return do


def _needs_mounting() -> str:
    return "" if os.geteuid() == 0 and shutil.which("unshare") else "needs root and unshare"


def the_output_is_full(case: Case) -> None:
    _store(case)
    for words in (["export", "s.h5", "-o", "/dev/full"], ["report", "s.h5"]):
        if words[0] == "report":
            (case.place.work / "s.h5.html").symlink_to("/dev/full")
            (case.place.work / "s.html").symlink_to("/dev/full")
        case.tally.tried += 1
        ended = case.check(case.place.hpcbench(*words), (0, 2, 3))
        case.tally.told += ended.code in (2, 3)
        case.tally.right += ended.code == 0


OUTPUTS: list[CaseKind] = [
    *cases(
        "outputs",
        {
            "--out is an input": out_is_an_input,
            "--out is another file": out_is_another_file,
            "--out is a link": out_is_a_link,
            "--out is a broken link": out_is_a_broken_link,
            "--out is a folder": out_is_a_folder,
            "--out is a pipe or nothing": out_is_special,
            "--out where nothing may be written": out_where_nothing_may_be_written,
            "--out has an odd name": out_has_an_odd_name,
            "--out ends as its report": out_ends_as_its_report,
            "stores whose names differ after a dot": reports_of_like_names,
            "outputs named like files of the user": outputs_replace_files,
            "inputs named like outputs": inputs_named_like_outputs,
            "merging into an input": merge_into_an_input,
            "no file may be large": no_file_may_be_large,
            "the output is full": the_output_is_full,
        },
    ),
    *(
        CaseKind("outputs", f"a disk of {size}", _on_a_small_disk(size), _needs_mounting)
        for size in ("16k", "200k")
    ),
]
