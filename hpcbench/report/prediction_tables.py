"""Terminal tables with the predicted time, memory and disk space of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from hpcbench.counting import counted
from hpcbench.events import duration
from hpcbench.planning.costs import kind_of
from hpcbench.report.terminal import console

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from hpcbench.config import RunConfig
    from hpcbench.planning.prediction import Prediction

MOST_EXPENSIVE = 5


def print_prediction(prediction: Prediction, config: RunConfig) -> None:
    """Print the number of crystals, the predicted times, and the rates that they come from.

    Parameters
    ----------
    prediction : Prediction
        The prediction.
    config : RunConfig
        Resolved settings.
    """
    out = console()
    pending = len(prediction.names)
    aside = sum(prediction.aside.values())
    text = f"{counted(prediction.listed, 'crystal')}: {pending} to compute"
    if prediction.finished:
        text += f", {prediction.finished} in {config.out} already"
    if aside:
        reasons = ", ".join(f"{kind} {number}" for kind, number in prediction.aside.items())
        text += f", {aside} set aside ({reasons})"
    out.print(Text(text))
    if not pending:
        return
    out.print(Text(_rates(prediction, config)))
    _print_sizes(out, prediction)
    total, least, most = prediction.rank_seconds
    out.print(
        Text(
            f"\n{_hours(total)} rank-hours (between {_hours(least)} and {_hours(most)}); a single "
            f"crystal typically within a factor of {prediction.rates.spread:.1f}; store about "
            f"{size(float(prediction.store_bytes.sum()))}"
        )
    )
    _print_spans(out, prediction)
    _print_expensive(out, prediction)


def _rates(prediction: Prediction, config: RunConfig) -> str:
    rates = prediction.rates
    text = f"{config.model}, {config.dtype}, on {_words[kind_of(config.device)]}: "
    if rates.measured:
        return text + f"rates of {counted(rates.crystals, 'crystal')} ({rates.where})"
    return text + (
        f"nothing measured yet; rates guessed for {rates.where}. A short run of some crystals on "
        f"the device makes them real"
    )


_words = {"cpu": "a CPU (--device cuda for a GPU)", "cuda": "a GPU"}


def _print_sizes(out: Console, prediction: Prediction) -> None:
    works = prediction.works
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("of a crystal", "median", "largest", "all"):
        table.add_column(title, justify="left" if title == "of a crystal" else "right")

    def add(title: str, values: NDArray[np.float64], shown: str = "{:.0f}") -> None:
        middle, largest = float(np.median(values)), float(values.max())
        table.add_row(title, shown.format(middle), shown.format(largest), f"{values.sum():,.0f}")

    add("atoms", prediction.natoms.astype(float))
    add("displaced supercells", np.array([work.copies for work in works], dtype=float))
    add("atoms of a supercell", np.array([work.supercell_atoms for work in works], dtype=float))
    seconds, store = prediction.seconds, prediction.store_bytes
    table.add_row(
        "time of a rank",
        duration(float(np.median(seconds))),
        duration(float(seconds.max())),
        duration(float(seconds.sum())),
    )
    table.add_row(
        "in the store",
        size(float(np.median(store))),
        size(float(store.max())),
        size(float(store.sum())),
    )
    largest = prediction.largest
    memory = "" if prediction.pass_bytes is None else f", {size(prediction.pass_bytes)}"
    out.print(table)
    out.print(
        Text(f"a forward pass holds at least {largest.largest:,.0f} edges{memory}"),
    )


def _print_spans(out: Console, prediction: Prediction) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("ranks", "wall time", "with work", "ask for"):
        table.add_column(title, justify="right")
    for span in prediction.spans:
        table.add_row(
            f"{span.ranks:,}",
            duration(span.seconds),
            f"{100 * span.busy:.0f} %",
            _clock(span.walltime),
        )
    out.print(table)


def _print_expensive(out: Console, prediction: Prediction) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("most expensive", "atoms", "displaced supercells", "time of a rank"):
        table.add_column(title, justify="left" if title == "most expensive" else "right")
    for i in np.argsort(-prediction.seconds, kind="stable")[:MOST_EXPENSIVE]:
        table.add_row(
            Text(prediction.names[i]),
            f"{prediction.natoms[i]}",
            f"{prediction.works[i].copies} of {prediction.works[i].supercell_atoms} atoms",
            duration(float(prediction.seconds[i])),
        )
    out.print()
    out.print(table)


def size(number: float) -> str:
    """Format a number of bytes for people: ``640 kB``, ``1.5 GB``."""
    for limit, unit in ((1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if number < limit:
            value = number / limit * 1000
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{number / 1e12:.1f} TB"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _clock(seconds: float) -> str:
    """Format seconds as for ``sbatch --time``."""
    minutes = round(seconds / 60)
    days, minutes = divmod(minutes, 1440)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    return f"{days}-{text}" if days else text
