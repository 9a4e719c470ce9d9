"""hpcbench from Python, in one process and without MPI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcbench.config import load_config
from hpcbench.crystal import Crystal, Origin
from hpcbench.errors import UsageError

if TYPE_CHECKING:
    import pandas
    from ase import Atoms

    from hpcbench.potentials.protocol import Potential
    from hpcbench.store.reader import Store


@dataclass(frozen=True, eq=False)
class RunResult:
    """What :func:`run` returns.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each different crystal, in the order given; see ``Store.table``.
    store : Store or None
        The store, if ``out`` was given.
    """

    table: pandas.DataFrame
    store: Store | None


def run(
    crystals: Iterable[Atoms | Crystal],
    *,
    model: str | Potential = "mattersim-v1.0.0-5M",
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> RunResult:
    """Relax crystals, compute their phonons, and give verdicts.

    For use inside a program, such as the training loop of a generator: one process, no MPI, no
    files unless ``out`` is given, nothing printed. Crystals that fail have their reason in the
    table.

    Parameters
    ----------
    crystals : iterable of ase.Atoms or Crystal
        Periodic crystals. A name is taken from ``atoms.info["name"]``, else the formula.
    model : str or Potential
        As ``--model``; or a loaded potential (:func:`load_potential`), so that calls in a loop
        need not load the weights again.
    out : path, optional
        A store to write, or to go on with: crystals that are in it are not computed again.
    **settings
        Any setting of a run, e.g. ``supercell=(2, 2, 2)``, ``dtype="float64"``.

    Raises
    ------
    UsageError
        If there is no crystal, or a setting is wrong.
    SetupError
        If the potential or the device cannot be had.
    """
    from hpcbench.farm.launch import launch
    from hpcbench.farm.stopping import Stop
    from hpcbench.farm.world import SingleProcess
    from hpcbench.store.reader import Store

    records = [_record(index, crystal) for index, crystal in enumerate(crystals)]
    if not records:
        raise UsageError("no crystals were given")
    potential = None if isinstance(model, str) else model
    name = model if isinstance(model, str) else model.info.name
    if potential is not None:
        settings.setdefault("dtype", potential.info.dtype)
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as temporary:
        path = os.path.join(temporary, "store.h5") if out is None else os.fspath(out)
        # A program's own arguments decide: the environment is for the command line.
        config = load_config(
            {**settings, "model": name, "out": path, "report": False}, environment={}
        )
        launch(config, SingleProcess(), stop=Stop(), records=records, potential=potential)
        store = Store(path)
        order = list(dict.fromkeys(record.id for record in records))
        table = store.table.loc[order]
    return RunResult(table, None if out is None else store)


def _record(index: int, crystal: Atoms | Crystal) -> Crystal:
    if isinstance(crystal, Crystal):
        return crystal
    name = str(crystal.info.get("name", ""))
    return Crystal.from_ase(crystal, name, (Origin("python", index),))
