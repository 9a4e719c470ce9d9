"""The page and the terminal tables of potentials against references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.accuracy.comparison import Comparison, compare
from hpcbench.analysis.accuracy.reading import read_compared
from hpcbench.errors import UsageError
from hpcbench.outputs import file_to_write, replacing
from hpcbench.report.accuracy.bands import drawn_worst
from hpcbench.report.accuracy.cells import ErrorTable
from hpcbench.report.accuracy.figures import further_figures, loew_figures, name_of
from hpcbench.report.accuracy.further_tables import by_group, left_out, side_by_side, softening
from hpcbench.report.accuracy.lee_xia_figures import lee_xia_figures
from hpcbench.report.accuracy.measured import GROUPS, Measured, measure
from hpcbench.report.accuracy.paper_tables import (
    SOURCES,
    lee_xia_errors,
    lee_xia_stability,
    loew_1,
    loew_2,
    loew_3,
)
from hpcbench.report.accuracy.polymorph_tables import polymorph_orders, polymorph_transitions
from hpcbench.report.benchmark import DrawnFigure
from hpcbench.report.figure import Figure, figure_svg
from hpcbench.report.terminal import console
from hpcbench.report.wording import settings_rows
from hpcbench.texts import printable

if TYPE_CHECKING:
    from hpcbench.store.reader import Store


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Stores of one or several potentials, measured.

    Attributes
    ----------
    stores : list of Store
        In the order given.
    measured : list of Measured
        The same.
    comparisons : list of Comparison
        Of each two of them.
    """

    stores: list[Store]
    measured: list[Measured]
    comparisons: list[Comparison]


def accuracy_of(
    stores: Sequence[Store],
    mesh: Sequence[float] = (),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracy:
    """Measure the potentials of stores against their references.

    Parameters
    ----------
    stores : sequence of Store
        One or several.
    mesh : sequence of float, optional
        As of :func:`hpcbench.analysis.accuracy.reading.read_compared`.
    tell : callable, optional
        The same.

    Raises
    ------
    UsageError
        If a store is given twice, or has no crystal with phonons.
    StoreError
        If a store cannot be read.
    """
    measured = []
    for store, label in zip(stores, _labels(stores), strict=True):
        measured.append(measure(read_compared(store, label, mesh, tell=tell)))
        found = measured[-1].compared
        if not found.phases:
            kinds = Counter(one.kind for one in found.left_out).most_common()
            why = ", ".join(f"{count} {kind}" for kind, count in kinds)
            raise UsageError(f"{store.path}: nothing to compare, no crystal has phonons ({why})")
    return Accuracy(
        list(stores),
        measured,
        [compare(a.compared, b.compared) for a, b in combinations(measured, 2)],
    )


def _labels(stores: Sequence[Store]) -> list[str]:
    """Return a name for each potential: that of the model, and of the store where that is needed.

    Raises
    ------
    UsageError
        If a store is given twice.
    """
    models = [str(store.settings.get("model", "")) for store in stores]
    names = [f"{m}, {store.path.name}" for m, store in zip(models, stores, strict=True)]
    paths = [f"{m}, {store.path}" for m, store in zip(models, stores, strict=True)]
    if len(set(paths)) < len(paths):
        raise UsageError("a store is given twice: errors of one store need no second")
    return [
        next(
            one
            for one, all_ in zip(some, (models, names, paths), strict=True)
            if all_.count(one) == 1
        )
        for some in zip(models, names, paths, strict=True)
    ]


def tables_of(found: Accuracy) -> list[ErrorTable]:
    """Return the tables that have rows of their own, in the order of the page."""
    several = found.measured
    tables: list[ErrorTable] = []
    if any(one.pairs for one in several):
        tables += [
            loew_1(several),
            loew_2(several),
            loew_3(several),
            lee_xia_errors(several),
            lee_xia_stability(several),
            softening(several),
        ]
        tables += [side_by_side(one) for one in found.comparisons]
    tables += [polymorph_transitions(several), polymorph_orders(several)]
    if any(one.pairs for one in several):
        tables += [by_group(several, kind) for kind in GROUPS]
    tables.append(left_out(several))
    return [table for table in tables if table.lines]


def figures_of(found: Accuracy) -> list[Figure]:
    """Return the figures that have something to show, in the order of the page."""
    several = [one for one in found.measured if one.pairs]
    figures = [*loew_figures(several)] if several else []
    for place, one in enumerate(found.measured):
        figures += lee_xia_figures(one, name_of(place, found.measured))
    return [*figures, *further_figures(several)]


def print_accuracy(found: Accuracy) -> None:
    """Print the tables."""
    out = console()
    for table in tables_of(found):
        shown = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), title_justify="left")
        for place, (title, unit) in enumerate(table.columns):
            justify: Any = "left" if place < table.texts else "right"
            shown.add_column(f"{title}\n{unit}".rstrip(), justify=justify, overflow="fold")
        for line in table.lines:
            style = "dim" if line.is_published else ""
            shown.add_row(
                *(Text(printable(f"{c.text}\n{c.below}".rstrip()), style) for c in line.cells)
            )
        out.print(Text(f"\n{table.title}", "bold"))
        out.print(shown)
        for note in table.notes:
            out.print(Text(printable(note)))
    out.print(Text(f"\n{SOURCES}"))


def write_accuracy(found: Accuracy, path: Path, *, force: bool = False) -> Path:
    """Write the page: the tables and the figures as one HTML file.

    Parameters
    ----------
    found : Accuracy
        From :func:`accuracy_of`.
    path : Path
        The file; it is replaced when the new one is complete.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    StoreError
        If the file cannot be written.
    """
    file_to_write(path, force=force)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = {
        "title": ", ".join(one.label for one in found.measured),
        "crystals": [len(one.pairs) for one in found.measured],
        "now": datetime.now(UTC),
        "tables": tables_of(found),
        "figures": [
            DrawnFigure(figure.title, figure.caption, Markup(figure_svg(figure)))
            for figure in figures_of(found)
        ],
        "worst": [
            worst
            for store, one in zip(found.stores, found.measured, strict=True)
            if (worst := drawn_worst(store, one)) is not None
        ],
        "sources": SOURCES,
        "settings": [
            (one.label, settings_rows(store.settings))
            for one, store in zip(found.measured, found.stores, strict=True)
        ],
    }
    page = environment.get_template("accuracy.html.j2").render(content)
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(printable(page).encode())
    return path
