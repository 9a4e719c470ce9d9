"""The Python interface: hpcbench in one process and without MPI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.errors import UsageError
from hpcbench.origin import Origin

if TYPE_CHECKING:
    import pandas
    from ase import Atoms

    from hpcbench.potentials.protocol import Potential
    from hpcbench.store.reader import Store


@dataclass(frozen=True, eq=False)
class RunResult:
    """The result of :func:`run`.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each different crystal, in the given order; see ``Store.table``. Crystals for
        which a time limit did not suffice are missing.
    store : Store or None
        The store, if ``out`` was given.
    """

    table: pandas.DataFrame
    store: Store | None


def run(
    crystals: Iterable[Atoms | Crystal],
    *,
    model: str | Potential | Any = "mattersim-v1.0.0-5M",
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> RunResult:
    """Relax crystals, compute their phonons, and return verdicts.

    This is for use inside a program, such as the training loop of a generator: one process, no MPI,
    no files unless ``out`` is given, nothing printed. Crystals that fail have their reason in the
    table.

    Parameters
    ----------
    crystals : iterable of ase.Atoms or Crystal
        Periodic crystals. The name is ``atoms.info["name"]``, else the formula.
    model : str, Potential or ASE calculator
        As for ``--model``; or a loaded potential (:func:`load_potential`), so that calls in a loop
        need not load the weights again; or an ASE calculator.
    out : path, optional
        A store to write, or to continue: crystals in it are not computed again. Its table has the
        crystals of the last call; the others are in ``store.earlier``.
    **settings
        Any setting of a run, e.g. ``supercell=(2, 2, 2)``, ``dtype="float64"``.

    Returns
    -------
    RunResult
        The table of results, and the store.

    Raises
    ------
    UsageError
        If there is no crystal, or a setting is wrong.
    SetupError
        If the potential or the device is not available.
    """
    from hpcbench.curation.primitive import primitive_of
    from hpcbench.engine.stopping import Stop
    from hpcbench.scheduler.launch import launch
    from hpcbench.scheduler.world import SingleProcess
    from hpcbench.store.reader import Store

    if hasattr(crystals, "get_positions"):
        raise UsageError("crystals is one Atoms object: give a list of them")
    if isinstance(crystals, str | os.PathLike):
        raise UsageError(f"crystals is {crystals!r}: read it first, e.g. with ase.io.read")
    records = [_record(index, crystal) for index, crystal in enumerate(crystals)]
    if not records:
        raise UsageError("no crystals were given")
    potential = None if isinstance(model, str) else _potential(model)
    name = model if isinstance(model, str) else _potential(model).info.name
    if potential is not None:
        dtype = settings.setdefault("dtype", potential.info.dtype)
        if dtype != potential.info.dtype:
            raise UsageError(f"dtype is {dtype}, but {name} was loaded in {potential.info.dtype}")
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as temporary:
        path = os.path.join(temporary, "store.h5") if out is None else os.fspath(out)
        # Only the arguments count: environment variables are for the command line.
        config = load_config(
            {**settings, "model": name, "out": path, "report": False},
            environment={},
            where="hpcbench.run",
        )
        if config.primitive:
            records = [primitive_of(record, config.symmetry_tolerance) for record in records]
        outcome = launch(
            config,
            SingleProcess(),
            stop=Stop(),
            records=records,
            potential=potential,
            environment={},
        )
        if outcome.problem is not None:
            raise outcome.problem
        store = Store(path)
        order = list(dict.fromkeys(record.id for record in records))
        table = store.table
        # With a time limit some may not have been computed.
        table = table.loc[[key for key in order if key in table.index]]
    return RunResult(table, None if out is None else store)


def _potential(model: Any) -> Potential:
    """Return a potential, also for an ASE calculator."""
    if hasattr(model, "get_potential_energy") and not isinstance(model, type):
        from hpcbench.potentials.ase_calculator import from_calculator

        return from_calculator(model)
    if not hasattr(model, "evaluate") or isinstance(model, type):
        raise UsageError(
            f"model is {model!r}: give a name, a loaded potential, or an ASE calculator"
        )
    return cast("Potential", model)


def _record(index: int, crystal: Atoms | Crystal) -> Crystal:
    if isinstance(crystal, Crystal):
        return crystal
    if not hasattr(crystal, "info"):
        raise UsageError(f"crystal {index} is {crystal!r}: give ASE Atoms")
    name = str(crystal.info.get("name", ""))
    return Crystal.from_ase(crystal, name, (Origin("python", index),))
