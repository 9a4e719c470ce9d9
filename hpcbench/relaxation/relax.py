"""Relaxation of crystals to a minimum of the potential, with their symmetry kept."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, HpcbenchError, RelaxationError
from hpcbench.potentials.protocol import Potential
from hpcbench.protocols import Stage
from hpcbench.relaxation.in_flight import InFlight
from hpcbench.relaxation.start import Minimum, Prepared, prepare
from hpcbench.relaxation.symmetry import EXACT, SpaceGroup, SymmetryOperations, find_space_group
from hpcbench.work_requests import Minimise, OnCpu, Request

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A relaxed crystal and how it got there.

    Attributes
    ----------
    atoms : Atoms
        The relaxed crystal: same axes, setting and order of atoms as given.
    energy : float
        Potential energy of the cell in eV, without an external pressure's part.
    fmax : float
        Largest force in eV/A, the Frechet filter's rows for the cell included when the cell
        was free, as in ASE.
    stress : ndarray, shape (3, 3)
        Residual stress in eV/A^3; NaN where the cell was not free.
    steps : int
        Optimiser steps, all rounds together.
    force_calls : int
        Evaluations of the potential.
    space_group_before : SpaceGroup
        Found at the symmetry tolerance in the crystal as given.
    space_group_after : SpaceGroup
        That of the relaxed crystal within ``EXACT``: the one that its displacements have.
    idealised : bool
        Whether a relaxed cell was brought to its exact symmetry, as the protocol asks.
    rounds : tuple of Minimum
        Where each round of each stage ended; the last one is the relaxed crystal.
    complaints : tuple of str
        Where the symmetry that spglib sees was not kept; empty where all is well.
    """

    atoms: Atoms
    energy: float
    fmax: float
    stress: NDArray[np.float64]
    steps: int
    force_calls: int
    space_group_before: SpaceGroup
    space_group_after: SpaceGroup
    idealised: bool
    rounds: tuple[Minimum, ...] = ()
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Round:
    """A run of the optimiser."""

    ready: Prepared
    minimum: Minimum


@dataclass(frozen=True)
class _How:
    """What all rounds have in common: parameters of :func:`relaxation_requests`."""

    mode: str
    symmetry_tolerance: float
    pressure: float


def relaxation_requests(
    atoms: Atoms,
    *,
    mode: str,
    stages: Sequence[Stage],
    symmetry_tolerance: float,
    pressure: float = 0.0,
) -> Generator[Request, Any, Relaxation]:
    """Relax one crystal to its minimum, by requests (see :mod:`hpcbench.work_requests`).

    Parameters
    ----------
    atoms : Atoms
        The crystal as given; it is not changed.
    mode : str
        ``none`` (evaluate only), ``positions`` (the cell changes only as far as bringing it to
        its symmetry within the tolerance asks), or ``full`` (positions and cell together, with
        ASE's Frechet cell filter).
    stages : sequence of Stage
        What the protocol does, one stage after the other.
    symmetry_tolerance : float
        Tolerance in A at which the symmetry that is kept is found.
    pressure : float
        External pressure in eV/A^3, for mode ``full``.

    Raises
    ------
    RelaxationError
        If the crystal cannot be relaxed.
    """
    how = _How(mode, symmetry_tolerance, pressure)
    rounds: list[_Round] = []
    complaints: list[str] = []
    if mode == "none":
        rounds.append((yield from _round(atoms, None, how, None)))
    for number, stage in enumerate(stages if mode != "none" else (), 1):
        now = rounds[-1].minimum.atoms if rounds else atoms
        first_volume = rounds[0].ready.start.first_volume if rounds else None
        if stage.symmetry == "refined":
            done = yield from _refined(now, stage, how, first_volume)
        elif stage.symmetry == "exact":
            done, complaint = yield from _exact(now, stage, how, first_volume)
            complaints += [f"stage {number}: {complaint}"] if complaint else []
        else:
            done = [(yield from _round(now, stage, how, first_volume))]
        rounds += done
        complaints += [
            f"stage {number}: symmetry was not kept: {one.ready.start.operations.complaint}"
            for one in done
            if one.ready.start.operations.complaint
        ]
    last = rounds[-1].minimum
    after = yield OnCpu("symmetry", find_space_group, (last.atoms, EXACT))
    return Relaxation(
        atoms=last.atoms,
        energy=last.energy,
        fmax=last.fmax,
        stress=last.stress,
        steps=sum(one.minimum.steps for one in rounds),
        force_calls=sum(one.minimum.force_calls for one in rounds),
        space_group_before=rounds[0].ready.found.space_group,
        space_group_after=after,
        idealised=any(one.ready.idealised for one in rounds),
        rounds=tuple(one.minimum for one in rounds),
        complaints=tuple(dict.fromkeys(complaints)),
    )


def _ready(
    now: Atoms,
    stage: Stage | None,
    how: _How,
    first_volume: float | None,
    before: SymmetryOperations | None = None,
) -> OnCpu:
    arguments = (now, stage, how.mode, how.symmetry_tolerance, how.pressure, first_volume, before)
    return OnCpu("symmetry", prepare, arguments)


def _round(
    now: Atoms,
    stage: Stage | None,
    how: _How,
    first_volume: float | None,
    before: SymmetryOperations | None = None,
) -> Generator[Request, Any, _Round]:
    ready = yield _ready(now, stage, how, first_volume, before)
    minimum = yield Minimise(ready.start)
    return _Round(ready, minimum)


def _refined(
    atoms: Atoms, stage: Stage, how: _How, first_volume: float | None
) -> Generator[Request, Any, list[_Round]]:
    """Relax as ``relax_structure`` of ``umlip.py`` does (see :mod:`hpcbench.protocols`).

    Each round builds ASE's ``FixSymmetry``, which refines the crystal; that of the round before
    is still there. After the last one it is built once more, and the forces are looked at again.
    """
    rounds: list[_Round] = []
    before = None
    a_round = dataclasses.replace(stage, fmax_accept=math.inf)
    while len(rounds) < stage.rounds:
        one = yield from _round(atoms, a_round, how, first_volume, before)
        rounds.append(one)
        atoms, before = one.minimum.atoms, one.ready.start.operations
        first_volume = one.ready.start.first_volume
        if one.minimum.fmax < stage.fmax_aim:
            break
    evaluated = dataclasses.replace(a_round, steps=0)
    rounds.append((yield from _round(atoms, evaluated, how, first_volume, before)))
    here, there = rounds[-1].minimum, rounds[-2].minimum
    if not here.fmax <= stage.fmax_accept:
        raise RelaxationError(
            "not converged",
            f"largest force {here.fmax:.4g} eV/A in the cell refined to its symmetry after "
            f"{sum(one.minimum.steps for one in rounds)} steps ({there.fmax:.4g} before that), "
            f"wanted {stage.fmax_accept:g}",
        )
    return rounds


def _exact(
    atoms: Atoms, stage: Stage, how: _How, first_volume: float | None
) -> Generator[Request, Any, tuple[list[_Round], str]]:
    """Idealise and relax, until the relaxed cell shows no more symmetry than it has exactly.

    Returns
    -------
    list of _Round, str
        The rounds, and a complaint where there is no such fixed point.
    """
    rounds: list[_Round] = []
    kept = 0
    while True:
        ready = yield _ready(atoms, stage, how, first_volume)
        if rounds and ready.found == ready.exact:
            return rounds, ""
        operations = len(ready.start.operations)
        if operations <= kept or len(rounds) == stage.rounds:
            break
        minimum = yield Minimise(ready.start)
        rounds.append(_Round(ready, minimum))
        atoms, kept, first_volume = minimum.atoms, operations, ready.start.first_volume
    return rounds, (
        f"its relaxed cell is {ready.exact.space_group} exactly and {ready.found.space_group} "
        f"within {how.symmetry_tolerance:g} A"
    )


def continued(first: Relaxation, second: Relaxation) -> Relaxation:
    """Two relaxations, the second from where the first ended, as one."""
    return dataclasses.replace(
        second,
        steps=first.steps + second.steps,
        force_calls=first.force_calls + second.force_calls,
        space_group_before=first.space_group_before,
        rounds=(*first.rounds, *second.rounds),
        complaints=(*first.complaints, *second.complaints),
    )


def relax(
    structures: Sequence[Atoms],
    potential: Potential,
    *,
    mode: str,
    stages: Sequence[Stage],
    symmetry_tolerance: float,
    pressure: float = 0.0,
) -> list[Relaxation | CrystalError]:
    """Relax crystals together in this process; one that fails gives its error in its place.

    Parameters are those of :func:`relaxation_requests`. Crystals are let in while those under
    way do not fill the potential's capacity.

    Raises
    ------
    EvaluationError
        If the potential failed.
    """
    in_flight = InFlight(potential)
    ways = [
        relaxation_requests(
            atoms,
            mode=mode,
            stages=stages,
            symmetry_tolerance=symmetry_tolerance,
            pressure=pressure,
        )
        for atoms in structures
    ]
    results: dict[int, Relaxation | CrystalError] = {}

    def proceed(index: int, answer: Any) -> None:
        """Answer a crystal's last request, and the next ones up to one for its minimum."""
        way = ways[index]
        try:
            while True:
                failed = isinstance(answer, HpcbenchError)
                request = way.throw(answer) if failed else way.send(answer)
                if isinstance(request, Minimise):
                    in_flight.add(index, request.start)
                    return
                assert isinstance(request, OnCpu), "a relaxation asks for nothing else"
                try:
                    answer = request.function(*request.arguments)
                except CrystalError as error:
                    answer = error
        except StopIteration as end:
            results[index] = end.value
        except CrystalError as error:
            results[index] = error

    waiting = deque(range(len(ways)))
    while waiting or len(in_flight):
        while waiting and (not len(in_flight) or in_flight.load < potential.capacity):
            proceed(waiting.popleft(), None)
        for index, outcome in in_flight.step():
            proceed(index, outcome)
    return [results[index] for index in range(len(ways))]
