"""Results in the terminal: tables, and bands drawn with Braille dots."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.rates import stable_rate
from hpcbench.born import METHODS, from_json
from hpcbench.criteria import PLACES
from hpcbench.masses import listed
from hpcbench.origin import Origin, origins_from_json
from hpcbench.report.history import History, computation_words, history_of
from hpcbench.report.wording import causes_of, earlier_words, in_low_supercells, text_of
from hpcbench.store.row_checks import as_stored
from hpcbench.store.schema import (
    BY_RESPONSE,
    DIMENSIONS,
    DONE,
    EARLIER_LIST,
    SET_ASIDE,
    UNDETERMINED,
)
from hpcbench.texts import printable, shown_reason

if TYPE_CHECKING:
    import pandas

    from hpcbench.store.reader import Store
    from hpcbench.store.stored_bands import Bands
from hpcbench.counting import counted

# Longer tables belong into a file.
MOST_ROWS = 60
WIDTH_OF_A_FILE = 140
# Largest number of lines of one fact: a crystal may have very many origins.
_MOST_LINES = 100
STYLES = {"stable": "green", "unstable": "red", UNDETERMINED: "yellow"}


def console() -> Console:
    """Return a console as wide as the terminal, or of fixed width in a file."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    return Console(width=WIDTH_OF_A_FILE)


def plain(text: Any, style: str = "") -> Text:
    """Return a foreign text as one short line without control characters.

    Parameters
    ----------
    text : Any
        The text.
    style : str
        A style of ``rich``.
    """
    return Text(shown_reason(str(text)), style)


def print_results(store: Store) -> None:
    """Print the table of results, the counts, and the path of the store."""
    out = console()
    table = store.table
    shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for title, justify in (
        ("crystal", "left"),
        ("space group", "left"),
        ("atoms", "right"),
        ("steps", "right"),
        ("lowest\nTHz", "right"),
        ("highest\nTHz", "right"),
        ("verdict", "left"),
        ("reason", "left"),
    ):
        shown.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in table.head(MOST_ROWS).to_dict("records"):
        shown.add_row(*_cells(row))
    out.print(shown)
    if len(table) > MOST_ROWS:
        out.print(f"... and {len(table) - MOST_ROWS} more: hpcbench export {store.path}")
    done = int((table["status"] == DONE).sum())
    rate = stable_rate(table.get("verdict", ()))
    undetermined = done - rate.of
    history = history_of(store)
    unfinished = len(store.unfinished_ids())
    low = in_low_supercells(table)
    aside = int((table["status"] == SET_ASIDE).sum())
    # Undetermined crystals are neither stable nor unstable.
    of = f" of {rate.of} with a verdict" if undetermined else ""
    share = f" ({100 * rate.share:.1f} %{of})" if rate.of else ""
    words = (
        f"\n{counted(len(table), 'crystal')}: {done} done, {rate.count} of them stable{share} "
        f"by criterion {store.settings['criterion']}, "
        + (f"{undetermined} undetermined{_causes(table)}, " if undetermined else "")
        + (_history_words(history) if history else "")
        + (f"{aside} set aside, " if aside else "")
        + f"{len(table) - done - aside} not computed"
        + (f", {low} in supercells lower than 10 A" if low else "")
        + (f", {unfinished} still to compute" if unfinished else "")
    )
    out.print(Text(printable(words)))
    if note := earlier_words(len(store.earlier)):
        out.print(Text(note))
    out.print(Text(f"store: {store.path}"), soft_wrap=True)


def _causes(table: pandas.DataFrame) -> str:
    causes = [f"{count} {kind}" for kind, count in causes_of(table)]
    return f" ({', '.join(causes)})" if causes else ""


def _history_words(history: History) -> str:
    changed = len(history.changed)
    verdicts = "1 verdict" if changed == 1 else f"{changed or 'no'} verdicts"
    return f"{history.count} computed more than once, which changed {verdicts}, "


def _cells(row: Mapping[Any, Any]) -> list[Text]:
    name = plain(row["name"])
    if row["status"] != DONE:
        return [
            name,
            *(Text("") for _ in range(5)),
            plain(row["status"], "yellow"),
            plain(row["reason"]),
        ]
    group = f"{row['spacegroup']} ({row['spacegroup_number']:.0f})"
    return [
        name,
        plain(group),
        Text(f"{row['natoms']:.0f}"),
        Text(f"{row['relaxation_steps']:.0f}"),
        Text(f"{row['min_frequency_path']:z.3f}"),
        Text(f"{row['max_frequency']:.2f}"),
        plain(row["verdict"], STYLES.get(str(row["verdict"]), "")),
        plain(text_of(row.get("cause"))),
    ]


def print_crystal(
    row: Mapping[str, Any],
    temperatures: Sequence[float] = (),
    others: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print the stored results of one crystal, or of one computation of it.

    Parameters
    ----------
    row : mapping
        A crystal's row of a store.
    temperatures : sequence of float
        Those of the run, in K.
    others : sequence of mapping
        The other rows of the same crystal.
    """
    out = console()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    with as_stored(row):
        told = [*_facts(row, temperatures), *_history_facts(row, others)]
    for title, text in told:
        lines = map(shown_reason, text.splitlines()[:_MOST_LINES])
        facts.add_row(plain(title), Text("\n".join(lines)))
    out.print(facts)


def _facts(row: Mapping[str, Any], temperatures: Sequence[float]) -> list[tuple[str, str]]:
    origins = [_origin_words(origin) for origin in origins_from_json(row["origins"])]
    facts = [("crystal", str(row["name"])), ("id", str(row["id"])), ("from", "\n".join(origins))]
    if row.get(EARLIER_LIST):
        facts.append(("list", "an earlier one: the run's latest does not have it; in no count"))
    if row["status"] != DONE:
        return [*facts, ("status", str(row["status"])), ("reason", str(row["reason"]))]
    before = f"{row['spacegroup_before']} ({row['spacegroup_number_before']})"
    after = f"{row['spacegroup']} ({row['spacegroup_number']})"
    lengths = np.linalg.norm(row["relaxed_cell"], axis=1)
    facts += [
        ("formula", f"{row['formula']}, {counted(row['natoms'], 'atom')}"),
        ("space group", f"{before} as given, {after} relaxed"),
        ("cell", " x ".join(f"{x:.4f}" for x in lengths) + " A, relaxed"),
        _derivative_words(row),
    ]
    if np.isfinite(row["energy"]):
        # Imported crystals have neither.
        facts[-1:-1] = [
            ("energy", f"{row['energy'] / row['natoms']:.6f} eV/atom"),
            ("relaxation", f"{counted(row['relaxation_steps'], 'step')} to {row['fmax']:.2e} eV/A"),
        ]
    if row.get("imported_label"):
        facts.append(("label", f"{row['imported_label']}, as it came with the import"))
    if row.get("nac_params"):
        facts.append(("Born charges", _nac_words(row["nac_params"])))
    if len(row.get("masses", ())):
        facts.append(("masses", f"{listed(row['numbers'], row['masses'])} u, of its source"))
    for place in PLACES:
        q = ", ".join(f"{x:.3f}" for x in row[f"min_q_{place}"])
        lowest, noise = row[f"min_frequency_{place}"], row.get(f"noise_{place}", math.nan)
        floor = f", noise floor {noise:.4f} THz" if np.isfinite(noise) else ""
        facts.append((f"lowest, {place}", f"{lowest:.4f} THz at ({q}){floor}"))
    if len(qpoints := row.get("computed_qpoints", ())):
        lowest = np.reshape(row["computed_frequencies"], (len(qpoints), -1)).min(axis=1)
        q = ", ".join(f"{x:.3f}" for x in qpoints[int(lowest.argmin())])
        facts.append(("lowest, computed q", f"{lowest.min():.4f} THz at ({q})"))
    if np.isfinite(error := row.get("interpolation_error", math.nan)):
        facts.append(
            ("interpolation", f"off by {error:.3f} THz at most, at {len(qpoints)} computed q")
        )
    if np.isfinite(lowest := row.get("lowest_stiffness", math.nan)):
        c11, c12, c44 = row["elastic_constants"][[0, 0, 3], [0, 1, 3]]
        facts.append(
            (
                "elastic constants",
                f"C11 {c11:.1f}, C12 {c12:.1f}, C44 {c44:.1f} GPa; lowest eigenvalue {lowest:.1f}; "
                f"slowest sound {row['slowest_sound']:.0f} m/s",
            )
        )
    if row.get("character"):
        facts.append(("negative frequencies", str(row["character"])))
    if row.get("dimensionality", 3) in DIMENSIONS and row["dimensionality"] != 3:
        words = f"{DIMENSIONS[row['dimensionality']]}: soft modes are in their nature"
        facts.append(("bonds make", f"{words}; widest gap {row['vacuum']:.1f} A"))
    facts.append(("highest", f"{row['max_frequency']:.4f} THz"))
    if temperatures:
        capacities = ", ".join(
            f"{c:.2f} at {t:g} K" for t, c in zip(temperatures, row["heat_capacity"], strict=True)
        )
        facts.append(("heat capacity", f"{capacities} (J/K/mol, primitive cell)"))
    if row.get("notes"):
        facts.append(("notes", str(row["notes"])))
    cause = f": {row['cause']}" if row.get("cause") else ""
    facts.append(("verdict", f"{row['verdict']}{cause}"))
    for key in row:
        if key.startswith("verdict_"):
            facts.append((f"  {key.removeprefix('verdict_').replace('_', '-')}", str(row[key])))
    return facts


def _nac_words(text: str) -> str:
    params = from_json(text)
    if params is None:
        return "kept by an older version, not applied: import again"
    return f"applied: non-analytic correction by {METHODS[params['method']]}"


def _derivative_words(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the method of the force constants, in words."""
    if row.get("derivative") == BY_RESPONSE and row["displacements"]:
        return "linear response", f"{counted(row['displacements'], 'atom')} moved{_height(row)}"
    if row.get("derivative") == BY_RESPONSE:
        matrix = row["supercell_matrix"]
        multiples = " x ".join(str(n) for n in np.diag(matrix))
        is_diagonal = np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
        of = multiples if is_diagonal else "its supercell"
        return "linear response", f"{row['response_columns']} columns, q of {of}"
    return "displacements", f"{counted(row['displacements'], 'supercell')}{_height(row)}"


def _height(row: Mapping[str, Any]) -> str:
    """Return the supercell's height; older stores and molecules have none."""
    height = row.get("supercell_height", math.nan)
    return f", {height:.1f} A high" if np.isfinite(height) else ""


def _history_facts(
    row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return the kind of this computation, and the ids by which others are shown."""
    if not others:
        return []
    lines = [f"{other['id']}  {_computation(other)}: {_outcome(other)}" for other in others]
    return [("this is", _computation(row)), ("also stored", "\n".join(lines))]


def _computation(row: Mapping[str, Any]) -> str:
    kind = computation_words(row.get("again", ""))
    if row.get("parent"):
        return kind
    return f"final computation ({kind})" if kind else "final computation"


def _outcome(row: Mapping[str, Any]) -> str:
    if row["status"] != DONE:
        return str(row["status"])
    return f"{row['verdict']}, lowest on the path {row['min_frequency_path']:z.4f} THz"


def _origin_words(origin: Origin) -> str:
    said = [f"{name}: {value}" for name, value in origin.columns]
    words = "; ".join(filter(None, (origin.generator, origin.set_aside, *said)))
    return f"{origin} ({words})" if words else str(origin)


def draw_bands(bands: Bands) -> None:
    """Draw a band structure into the terminal (frequencies in THz)."""
    from uniplot import plot_to_string

    width = max(40, min(shutil.get_terminal_size((100, 30)).columns - 14, 110))
    xs, ys = [], []
    for distances, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        for branch in frequencies.T:
            xs.append(distances)
            ys.append(branch)
    start, end = bands.distances[0][0], bands.distances[-1][-1]
    picture = plot_to_string(
        xs=xs,
        ys=ys,
        lines=True,
        width=width,
        height=22,
        color=False,
        character_set="braille",
        x_min=start,
        x_max=end,
        x_gridlines=[float(d[0]) for d in bands.distances[1:]],
        y_unit=" THz",
    )
    lines = picture if isinstance(picture, list) else picture.splitlines()
    # The names of the points replace uniplot's axis, which is in 1/A.
    print(printable("\n".join(lines[:-1])))
    print(_axis(bands, width, start, end))


def _axis(bands: Bands, width: int, start: float, end: float) -> str:
    """Return a line with the names of the path's points at their places."""
    points = [(bands.distances[0][0], bands.labels[0][0])]
    for i, (distances, (_, last)) in enumerate(zip(bands.distances, bands.labels, strict=True)):
        after = bands.labels[i + 1][0] if i + 1 < len(bands.labels) else last
        points.append((distances[-1], last if after == last else f"{last}|{after}"))
    line = [" "] * (width + 12)
    free = 0
    for position, name in points:
        text = name.replace("GAMMA", "Γ").replace("_", "")
        column = 1 + round((position - start) / (end - start) * (width - 1))
        column = max(column - len(text) // 2, free)
        line[column : column + len(text)] = text
        free = column + len(text) + 1
    return "".join(line).rstrip()
