"""Files of PhononBench's scripts: writing and reading.

The layout is that of its repository (github.com/xqh19970407/PhononBench) in 2026.
phonon_multi_gpu_run.py writes, in folders ``gpu<i>_part<j>``, ``<name>.yaml`` with force constants
and ``1Top-summary.txt`` below its ``--dest``, ``<name>_relaxed.cif`` and ``Lable.txt`` (spelled so;
the published data has ``Label.txt``) below its ``--relaxedDest``. A label is a line
``<name> TAB Stable|unStable``, also for crystals that failed. phonon_from_cif_single.py writes
``<name>_phonopy_fc.yaml``, ``<name>_relaxed.cif`` and ``summary.txt``. export_phonon_summary.py
writes the CSV.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench.criteria import CRITERIA
from hpcbench.interop.export_files import each_its_own, safe_name
from hpcbench.interop.frames import write_cif
from hpcbench.outputs import written_whole
from hpcbench.store.physics import phonopy_of
from hpcbench.store.schema import DONE, SET_ASIDE

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

LABEL_FILES = ("Lable.txt", "Label.txt")
RUN_SUMMARY, SINGLE_SUMMARY = "1Top-summary.txt", "summary.txt"
RELAXED, SINGLE_FORCE_CONSTANTS = "_relaxed.cif", "_phonopy_fc"
STABLE, UNSTABLE = "Stable", "unStable"
THRESHOLD = next(c.threshold for c in CRITERIA if c.name == "phononbench")
"""In THz: a lower frequency on the band path makes a crystal unstable."""

_PHONONS, _RELAXED, _PART = "phonon-calculation-output", "relaxed", "gpu0_part0"
_COLUMNS = ("structure_name", "min_frequency", "is_stable", "yaml_path", "cif_path", "npz_path")


def write_folders(store: Store, folder: Path) -> int:
    """Write labels, relaxed CIFs, force constants and the summary; return the number of labels.

    Labels follow the criterion of the scripts, whatever the store's own is, for the final
    computation of each crystal. Crystals that failed are labelled unstable, as in the scripts.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the folders go.
    """
    outputs, relaxed = folder / _PHONONS / _PART, folder / _RELAXED / _PART
    for place in (outputs, relaxed):
        place.mkdir(parents=True, exist_ok=True)
    names = _names(store)
    labels = dict.fromkeys(names.values(), UNSTABLE)
    symprec = store.settings["symprec"]
    summary = folder / "phonon_summary.csv"
    with written_whole(summary) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in store.rows():
            if row["status"] == SET_ASIDE:
                continue
            name = names[row["id"]]
            line: dict[str, Any] = {"structure_name": name, "is_stable": False}
            if row["status"] == DONE:
                labels[name] = label_of(row)
                line |= {
                    "min_frequency": row["min_frequency_path"],
                    "is_stable": labels[name] == STABLE,
                    "yaml_path": outputs / f"{name}.yaml",
                    "cif_path": relaxed / f"{name}{RELAXED}",
                }
                _write_force_constants(row, symprec, line["yaml_path"])
                write_cif(row, line["cif_path"])
            writer.writerow(line)
    with written_whole(relaxed / LABEL_FILES[0]) as temporary:
        temporary.write_text("".join(f"{name}\t{labels[name]}\n" for name in sorted(labels)))
    return len(labels)


def _names(store: Store) -> dict[str, str]:
    """Return a name for each id, without characters at which the scripts cut names.

    Names that repeat are followed by ids. Names that differ in case only count as repeated, since
    they are one file on some file systems.
    """
    table = store.table
    table = table[table["status"] != SET_ASIDE]
    safe = [safe_name(name).replace(".", "_") for name in table["name"]]
    times = Counter(name.casefold() for name in safe)
    return each_its_own(
        {
            str(key): name if name and times[name.casefold()] == 1 else f"{name}-{safe_name(key)}"
            for key, name in zip(table["id"], safe, strict=True)
        }
    )


def _write_force_constants(row: Mapping[str, Any], symprec: float, path: Path) -> None:
    phonon = phonopy_of(row, symprec)
    with written_whole(path) as temporary:
        phonon.save(temporary, settings={"force_constants": True})


def label_of(row: Mapping[str, Any]) -> str:
    """Return the scripts' label of a crystal with phonons, by its frequencies alone.

    The scripts know no third answer: undetermined crystals get one of the two labels as well.
    """
    return STABLE if row["min_frequency_path"] >= THRESHOLD else UNSTABLE


def read_labels(path: Path) -> dict[str, str]:
    """Read the labels of a label file by crystal; other lines are ignored.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    labels = {}
    for line in path.read_text(errors="replace").splitlines():
        # Names may have spaces: the scripts write a tab, and read any space.
        name, _, label = line.strip().rpartition("\t" if "\t" in line else " ")
        if name and label.lower() in ("stable", "unstable"):
            labels[name.strip()] = label
    return labels


def read_single_summary(path: Path) -> dict[str, str]:
    """Read the label in the ``summary.txt`` of a single crystal; empty if it is another file.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    text = path.read_text(errors="replace")
    name = re.search(r"^Structure:\s*(.+?)\s*$", text, re.MULTILINE)
    status = re.search(r"^Status:\s*(Stable|Unstable)\s*$", text, re.MULTILINE)
    return {name[1]: status[1]} if name and status else {}


def read_failures(path: Path) -> dict[str, str]:
    """Read the reasons of failures by crystal from a ``1Top-summary.txt``.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    text = path.read_text(errors="replace")
    _, _, failed = text.partition("Failed structures and reasons:")
    lines = (line.partition(": ") for line in failed.splitlines())
    return {name: reason for name, colon, reason in lines if colon}
