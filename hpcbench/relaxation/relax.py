"""Relaxation of crystals to a minimum of the potential, with their symmetry kept."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, HpcbenchError
from hpcbench.potentials.protocol import Potential
from hpcbench.protocols import Stage
from hpcbench.relaxation.in_flight import InFlight
from hpcbench.relaxation.start import Minimum, Prepared, prepare
from hpcbench.relaxation.symmetry import SpaceGroup, find_space_group
from hpcbench.requests import Minimise, OnCpu, Request

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
        Optimiser steps, all stages together.
    force_calls : int
        Evaluations of the potential.
    space_group_before, space_group_after : SpaceGroup
        Found at the symmetry tolerance in the crystal as given and as relaxed.
    idealised : bool
        Whether the relaxed cell was brought to its exact symmetry and relaxed on from there.
    stages : tuple of Minimum
        Where each stage ended; the last one is the relaxed crystal.
    complaints : tuple of str
        Why a stage did not keep the symmetry that spglib sees; empty where all is well.
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
    stages: tuple[Minimum, ...] = ()
    complaints: tuple[str, ...] = ()


def relaxation_requests(
    atoms: Atoms,
    *,
    mode: str,
    stages: Sequence[Stage],
    symmetry_tolerance: float,
    pressure: float = 0.0,
) -> Generator[Request, Any, Relaxation]:
    """The way of one crystal to its minimum, as requests (see :mod:`hpcbench.requests`).

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
    now = atoms
    first_volume: float | None = None
    prepared: list[Prepared] = []
    minima: list[Minimum] = []
    for stage in stages if mode != "none" else (None,):
        ready = yield OnCpu(
            "symmetry",
            prepare,
            (now, stage, mode, symmetry_tolerance, pressure, first_volume),
        )
        first_volume = ready.start.first_volume
        minimum = yield Minimise(ready.start)
        prepared.append(ready)
        minima.append(minimum)
        now = minimum.atoms
    last = minima[-1]
    before = prepared[0].space_group
    after = before
    if mode != "none":
        after = yield OnCpu("symmetry", find_space_group, (last.atoms, symmetry_tolerance))
    return Relaxation(
        last.atoms,
        last.energy,
        last.fmax,
        last.stress,
        sum(minimum.steps for minimum in minima),
        sum(minimum.force_calls for minimum in minima),
        before,
        after,
        any(ready.idealised for ready in prepared),
        tuple(minima),
        tuple(
            f"stage {number}: symmetry was not kept: {ready.start.operations.complaint}"
            for number, ready in enumerate(prepared, 1)
            if ready.start.operations.complaint
        ),
    )


def continued(first: Relaxation, second: Relaxation) -> Relaxation:
    """Two relaxations, the second from where the first ended, as one."""
    return dataclasses.replace(
        second,
        steps=first.steps + second.steps,
        force_calls=first.force_calls + second.force_calls,
        space_group_before=first.space_group_before,
        stages=(*first.stages, *second.stages),
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
