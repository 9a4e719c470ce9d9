"""Differences between two stores: a table for the terminal, and a picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from hpcbench.counting import counted
from hpcbench.errors import SetupError, StoreError
from hpcbench.interop.spreadsheets import harmless
from hpcbench.maintenance.diff import Difference
from hpcbench.outputs import PICTURE, replacing
from hpcbench.report.drawings import number
from hpcbench.report.terminal import console, plain
from hpcbench.report.wording import text_of

_SHOWN = 30


def print_difference(difference: Difference) -> None:
    """Print differing settings, crystals that only one store has, and those that changed."""
    to = console()
    for name, (there, here) in difference.settings.items():
        to.print(plain(f"{name}: {there} | {here}"))
    for ids, which in ((difference.only_first, "first"), (difference.only_second, "second")):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            to.print(plain(f"only in the {which}: {counted(len(ids), 'crystal')} ({shown})"))
    both, changed = difference.both, difference.changed
    verdicts = changed[changed["verdict_a"] != changed["verdict_b"]]
    to.print(
        f"in both: {counted(len(both), 'crystal')}; {len(verdicts)} with another verdict, "
        f"{len(changed)} in all that differ (status, verdict, or a lowest frequency by more than "
        f"{difference.tolerance:g} THz)"
    )
    if not len(changed):
        return
    table = Table(box=None, pad_edge=False)
    for title in ("crystal", "verdict", "lowest, path", "commensurate", "mesh"):
        justify = "left" if title in ("crystal", "verdict") else "right"
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for key, row in changed.head(_SHOWN).iterrows():
        words = [text_of(row[f"verdict_{x}"]) or text_of(row[f"status_{x}"]) for x in "ab"]
        table.add_row(
            plain(f"{row['name']} ({key})"),
            plain(words[0] if words[0] == words[1] else f"{words[0]} -> {words[1]}"),
            *(
                " -> ".join(number(row[f"min_frequency_{place}_{x}"], 3) for x in "ab")
                for place in ("path", "commensurate", "mesh")
            ),
        )
    to.print(table)
    if len(changed) > _SHOWN:
        to.print(f"... and {len(changed) - _SHOWN} more (--csv FILE writes all)")


def write_difference(difference: Difference, path: Path, *, force: bool = False) -> None:
    """Write all crystals that differ, as CSV.

    Parameters
    ----------
    difference : Difference
        From :func:`hpcbench.maintenance.diff.diff`.
    path : Path
        The file.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    StoreError
        If the file cannot be written.
    """
    with replacing(path, force=force) as temporary:
        harmless(difference.changed).to_csv(temporary, index_label="id")


def draw_difference(
    difference: Difference, titles: tuple[str, str], path: Path, *, force: bool = False
) -> None:
    """Draw the lowest frequency on the band path of one store against that of the other.

    Parameters
    ----------
    difference : Difference
        From :func:`hpcbench.maintenance.diff.diff`.
    titles : tuple of str
        Names of the two stores.
    path : Path
        The file; its ending chooses the format, PNG without one.
    force : bool
        Whether to replace a file that hpcbench did not write.

    Raises
    ------
    UsageError
        If there is something that must not be replaced.
    SetupError
        If matplotlib is not installed.
    StoreError
        If the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError(f"{error}: pictures need the extra 'report'") from error

    both = difference.both
    same = both["verdict_a"] == both["verdict_b"]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        for rows, label, colour in (
            (both[same], "same verdict", "#4c72b0"),
            (both[~same], "another verdict", "#c44e52"),
        ):
            axes.scatter(
                rows["min_frequency_path_a"],
                rows["min_frequency_path_b"],
                s=12,
                color=colour,
                label=f"{label} ({len(rows)})",
            )
        limits = (*axes.get_xlim(), *axes.get_ylim())
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xlim(min(limits), max(limits))
        axes.set_ylim(min(limits), max(limits))
        axes.set_xlabel(f"lowest frequency on the band path (THz), {titles[0]}")
        axes.set_ylabel(f"the same, {titles[1]}")
        axes.legend(frameon=False)
        kind = path.suffix.lower().removeprefix(".") or "png"
        with replacing(path, force=force) as temporary:
            try:
                figure.savefig(temporary, format=kind, dpi=200, metadata=PICTURE.get(kind))
            except ValueError as error:
                raise StoreError(f"{path}: cannot be written: {error}") from error
