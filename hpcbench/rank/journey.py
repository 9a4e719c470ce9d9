"""The way of one crystal through the program, from its cell to its row in the store."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from hpcbench.born import NAC_PARAMS
from hpcbench.config import RunConfig
from hpcbench.criteria import BETWEEN_Q, EXACT, LENGTH, LONG_WAVES, ROUNDING
from hpcbench.crystal import Crystal
from hpcbench.errors import (
    CrystalError,
    EvaluationError,
    HpcbenchError,
    PotentialError,
    RelaxationError,
    UnsuitableError,
)
from hpcbench.phonons.displacement_length import NOT_SMOOTH
from hpcbench.phonons.exact_q import AtQ
from hpcbench.phonons.supercells import CHECKS, half_again, next_larger, require_size
from hpcbench.planning.costs import supercell_of
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.protocols import BOTH, PROTOCOLS, RESPONSE, Protocol, Stage
from hpcbench.rank.displacement_tasks import (
    Displaced,
    analyse_at_q,
    analyse_forces,
    displace_at_q,
    displace_supercell,
)
from hpcbench.rank.phonon_columns import Analysed, Keep, decided_columns
from hpcbench.rank.response_tasks import (
    Checked,
    Planned,
    analyse_columns,
    checked_columns,
    compare,
    plan_check,
    plan_response,
    surely_below,
)
from hpcbench.rank.route import phonon_settings
from hpcbench.rank.rows import (
    Computation,
    done_row,
    failed_row,
    provenance_of,
    row_of,
    rows_of,
)
from hpcbench.relaxation.relax import Relaxation, continued, relaxation_requests
from hpcbench.relaxation.symmetry import space_group_numbers
from hpcbench.requests import ForcesOn, OnCpu, Request, ResponseTo
from hpcbench.store.schema import (
    BESIDE,
    BY_RESPONSE,
    DOUBLE,
    EXTRAPOLATED,
    FIRST,
    LARGER,
    REFINED,
    WITHOUT_NAC,
)
from hpcbench.store.schema import RESPONSE as RESPONDED
from hpcbench.upkeep.again import columns_without_nac

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.phonons.calculate import PhononSettings
    from hpcbench.potentials.columns import Response

DISPLACEMENTS, ANALYSIS = "displacements", "analysis"
"""Stages of the work on processor cores; that of the relaxation is ``symmetry``."""
NO_MINIMUM = 0.05
"""Largest force in eV/A at which a crystal counts as at its minimum: second derivatives elsewhere
are no phonons."""
MOST_ATOMS = 1000
"""Of a supercell that is made larger for that, where a run has no limit."""
MOST_REFINEMENTS = 3
"""How often a supercell becomes half as high again, until interpolated frequencies are right."""


@dataclass(frozen=True, eq=False)
class _Done:
    """A computation of a crystal's phonons, of a kind as in ``store.schema``."""

    kind: str
    phonon: bytes
    analysed: Analysed
    in_double: bool = False


@dataclass(eq=False)
class _Here:
    """How far a relaxed crystal has come.

    Attributes
    ----------
    atoms : Atoms
        Relaxed.
    supercell_matrix : ndarray, shape (3, 3)
        Of the last computation.
    done : _Done
        The last computation.
    computations : dict
        All of them by kind, as they stand in the rows.
    """

    atoms: Atoms
    supercell_matrix: NDArray[np.int64]
    done: _Done
    computations: dict[str, Computation]

    def take(self, done: _Done) -> None:
        """Take a computation for the last one."""
        self.done = done
        self.computations[done.kind] = _computation(done)


@dataclass(frozen=True)
class Route:
    """What all crystals of a rank have in common on their way.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    info : PotentialInfo
        Of the potential that computes them.
    rank : int
        Of this process.
    provenance : str
        As it is written into each row.
    has_double : bool
        Whether forces can be had in double precision, where the run is in single.
    """

    config: RunConfig
    info: PotentialInfo
    rank: int
    provenance: str
    has_double: bool = False

    @classmethod
    def of(
        cls, config: RunConfig, info: PotentialInfo, rank: int, *, has_double: bool = False
    ) -> Route:
        """The route of a rank."""
        return cls(config, info, rank, provenance_of(info), has_double)

    def journey(self, crystal: Crystal) -> Generator[Request, Any, list[dict[str, Any]]]:
        """Relax a crystal, displace it, ask for forces, and analyse them.

        Where the protocol has another one beside it, that is done first. Where noise decides the
        verdict, forces are computed again in double precision and for
        other displacements; where it is marginal, in the next larger supercell.

        Yields requests, is sent their answers, and returns the crystal's row, without the
        seconds that it took; behind it those of its history, of the protocol beside, and that
        without its Born charges where it has them.

        Raises
        ------
        CrystalError
            If the crystal cannot be computed, or an answer was an error.
        """
        config = self.config
        protocol = config.protocol_definition
        assert config.fmax is not None, "settings are resolved before a run"
        assert config.max_steps is not None, "settings are resolved before a run"
        _require_elements(crystal, self.info)
        stages = protocol.stages(config.fmax, config.max_steps)
        if not protocol.beside:
            relaxation = yield from self._relaxed(crystal.to_ase(), stages)
            return (yield from self._phonons(crystal, relaxation))
        beside = PROTOCOLS[protocol.beside]
        first = None
        try:
            first = yield from self._relaxed(
                crystal.to_ase(), beside.stages(beside.fmax, beside.max_steps)
            )
        except RelaxationError as error:
            # It refuses crystals that go on under this one: those whose refined cell has forces.
            literal = self._failed_beside(crystal, error)
        else:
            literal = yield from self._beside(crystal, first, beside)
        try:
            if first is None:
                relaxation = yield from self._relaxed(crystal.to_ase(), stages)
            else:
                second = yield from self._relaxed(first.atoms, stages[1:])
                relaxation = continued(first, second)
            rows = yield from self._phonons(crystal, relaxation)
        except CrystalError as error:
            # What the other protocol gave is not lost with it.
            rows = [failed_row(crystal, error, self.rank, self.provenance)]
        return [*rows, literal]

    def _relaxed(
        self, atoms: Atoms, stages: Sequence[Stage]
    ) -> Generator[Request, Any, Relaxation]:
        config = self.config
        relaxation = yield from relaxation_requests(
            atoms,
            mode=config.relax,
            stages=stages,
            symmetry_tolerance=config.symmetry_tolerance,
            pressure=config.pressure * GPa,
        )
        for complaint in relaxation.complaints:
            warnings.warn(complaint, stacklevel=1)
        return relaxation

    def _beside(
        self, crystal: Crystal, relaxation: Relaxation, protocol: Protocol
    ) -> Generator[Request, Any, dict[str, Any]]:
        """The row by the protocol beside the run's, which may be that of a failure."""
        try:
            supercell_matrix = supercell_of(crystal, protocol.supercell)
            require_size(crystal.natoms, supercell_matrix, self.config.largest_supercell)
            displaced = yield from self._displaced(relaxation.atoms, supercell_matrix, protocol)
            analysed = yield from self._analysed(displaced, in_double=False, protocol=protocol)
            columns = analysed.columns
            row = done_row(crystal, relaxation, columns, self.rank, self.provenance)
            row |= yield from self._symmetry(crystal, relaxation)
        except CrystalError as error:
            return self._failed_beside(crystal, error)
        return row_of(row, BESIDE)

    def _failed_beside(self, crystal: Crystal, error: CrystalError) -> dict[str, Any]:
        return row_of(failed_row(crystal, error, self.rank, self.provenance), BESIDE)

    def _phonons(
        self, crystal: Crystal, relaxation: Relaxation
    ) -> Generator[Request, Any, list[dict[str, Any]]]:
        """The rows of a relaxed crystal."""
        relaxed, supercell_matrix = relaxation.atoms, _supercell_matrix(crystal, self.config)
        by_response = self.config.derivative == RESPONSE
        done = yield from self._first(relaxed, supercell_matrix, by_response)
        here = _Here(relaxed, supercell_matrix, done, {FIRST: _computation(done)})
        common = done_row(crystal, relaxation, {}, self.rank, self.provenance)
        common |= yield from self._symmetry(crystal, relaxation)
        notes = [common["notes"]]
        if by_response and relaxation.fmax > NO_MINIMUM:
            notes.append(f"not at its minimum: forces of up to {relaxation.fmax:.2g} eV/A")
        for what, step in (
            ("more exactly", self._surer),
            (LARGER, self._larger),
            ("by linear response", self._responded),
            ("at more q", self._between),
        ):
            # What one of them cannot do keeps the next from nothing.
            try:
                yield from step(here)
            except HpcbenchError as error:
                notes.append(f"not computed again ({what}): {error}")
                warnings.warn(notes[-1], stacklevel=1)
        common["notes"] = "; ".join(filter(None, notes))
        rows = rows_of(common, list(here.computations.values()), self.provenance)
        if rows[0]["nac_params"]:
            try:
                rows.append((yield from self._without_nac(rows[0])))
            except HpcbenchError as error:
                note = f"not analysed without Born charges: {error}"
                rows[0]["notes"] = "; ".join(filter(None, (rows[0]["notes"], note)))
        return rows

    def _surer(self, here: _Here) -> Generator[Request, Any, None]:
        """Compute better where errors of the force constants could change the verdict."""
        by_response = self.config.derivative == RESPONSE
        for better in (
            yield from self._made_sure(here.atoms, here.supercell_matrix, here.done, by_response)
        ):
            here.take(better)

    def _larger(self, here: _Here) -> Generator[Request, Any, None]:
        """Compute a marginal crystal in the next larger supercell."""
        config, atoms = self.config, here.atoms
        if abs(here.done.analysed.columns["margin"]) >= config.check_margin:
            return
        larger = next_larger(atoms.cell[:], atoms.positions, here.supercell_matrix)
        require_size(len(atoms), larger, config.largest_supercell)
        by_response = config.derivative == RESPONSE
        done = yield from self._first(atoms, larger, by_response)
        for better in (yield from self._made_sure(atoms, larger, done, by_response)):
            done = better
        here.supercell_matrix = larger
        here.take(replace(done, kind=LARGER))

    def _responded(self, here: _Here) -> Generator[Request, Any, None]:
        """Compute by linear response what displacements gave."""
        if self.config.derivative == BOTH:
            here.take(
                (yield from self._sure_response(RESPONDED, here.atoms, here.supercell_matrix))
            )

    def _between(self, here: _Here) -> Generator[Request, Any, None]:
        """Compute q between those of the supercell, where interpolation does not do."""
        if self._compares(here.atoms):
            yield from self._checked(here)
        elif here.done.analysed.columns["cause"] == BETWEEN_Q and self.config.criterion == EXACT:
            kind, columns = here.done.kind, (yield from self._decided(here.done))
            here.computations[kind] = replace(here.computations[kind], columns=columns)

    def _first(
        self, atoms: Atoms, supercell_matrix: NDArray[np.int64], by_response: bool
    ) -> Generator[Request, Any, _Done]:
        if by_response:
            return (yield from self._by_response(FIRST, atoms, supercell_matrix))
        displaced = yield from self._displaced(atoms, supercell_matrix)
        analysed = yield from self._analysed(displaced, in_double=False)
        return _Done(FIRST, displaced.phonon, analysed)

    def _by_response(
        self,
        kind: str,
        atoms: Atoms,
        supercell_matrix: NDArray[np.int64],
        *,
        in_double: bool = False,
    ) -> Generator[Request, Any, _Done]:
        """Compute force constants by linear response at all q of a supercell.

        In the primitive cell where the potential responds at any q, else in the supercell.
        """
        if not self.info.responds:
            return (yield from self._by_linear_forces(kind, atoms, supercell_matrix, in_double))
        settings = phonon_settings(self.config)
        planned: Planned = yield OnCpu(
            DISPLACEMENTS, plan_response, (atoms, supercell_matrix, settings)
        )
        answers = yield from self._responses(planned, in_double=in_double)
        analysed = yield OnCpu(ANALYSIS, analyse_columns, (planned, *answers, *self._how()))
        return _Done(kind, planned.phonon, analysed, in_double)

    def _by_linear_forces(
        self, kind: str, atoms: Atoms, supercell_matrix: NDArray[np.int64], in_double: bool
    ) -> Generator[Request, Any, _Done]:
        settings, *rest = self._how()
        settings = replace(settings, linear=True)
        displaced: Displaced = yield OnCpu(
            DISPLACEMENTS, displace_supercell, (atoms, supercell_matrix, settings)
        )
        forces: NDArray[np.float64] = yield ForcesOn(displaced.copies, in_double, linear=True)
        analysed: Analysed = yield OnCpu(
            ANALYSIS, analyse_forces, (displaced.phonon, forces, settings, *rest)
        )
        return _Done(kind, displaced.phonon, analysed, in_double)

    def _responses(
        self, planned: Planned, *, in_double: bool
    ) -> Generator[Request, Any, tuple[Response, Response | None]]:
        """Ask for the response to a crystal's columns, the real and the complex ones."""
        real: Response = yield ResponseTo(planned.atoms, planned.real, in_double)
        complex_: Response | None = None
        if len(planned.complex):
            complex_ = yield ResponseTo(planned.atoms, planned.complex, in_double)
        return real, complex_

    def _compares(self, atoms: Atoms) -> bool:
        """Tell whether interpolated frequencies are compared with computed ones."""
        return bool(
            self.info.responds
            and self.config.interpolation_error
            and not self.config.protocol_definition.literal
            # A potential's response knows of no field.
            and NAC_PARAMS not in atoms.info
        )

    def _checked(self, here: _Here) -> Generator[Request, Any, None]:
        """Compare interpolated with computed frequencies; compute more q until they agree."""
        most_atoms = self.config.largest_supercell or MOST_ATOMS
        below: list[NDArray[np.float64]] = []
        for refinements in range(MOST_REFINEMENTS + 1):
            done, atoms = here.done, here.atoms
            columns, error = yield from self._compared(done, below)
            here.computations[done.kind] = Computation(done.kind, columns, done.in_double)
            is_open = columns["cause"] in (BETWEEN_Q, LONG_WAVES)
            if error <= self.config.interpolation_error and not is_open:
                return
            larger = half_again(atoms.cell[:], atoms.positions, here.supercell_matrix, most_atoms)
            if refinements == MOST_REFINEMENTS or (larger == here.supercell_matrix).all():
                return
            # What is surely below the threshold stays so, whatever the next supercell holds.
            below = surely_below(columns, phonon_settings(self.config))
            here.supercell_matrix = larger
            here.take(
                (yield from self._sure_response(REFINED, atoms, larger, in_double=done.in_double))
            )

    def _sure_response(
        self,
        kind: str,
        atoms: Atoms,
        supercell_matrix: NDArray[np.int64],
        *,
        in_double: bool = False,
    ) -> Generator[Request, Any, _Done]:
        """Compute by linear response, in double precision where rounding could matter."""
        done = yield from self._by_response(kind, atoms, supercell_matrix, in_double=in_double)
        if done.analysed.columns["cause"] == ROUNDING and self.has_double and not in_double:
            done = yield from self._by_response(kind, atoms, supercell_matrix, in_double=True)
        return done

    def _compared(
        self, done: _Done, below: Sequence[NDArray[np.float64]]
    ) -> Generator[Request, Any, tuple[dict[str, Any], float]]:
        """Return the columns of a computation with what a comparison says, and the error in THz.

        ``below`` are q that are computed besides.
        """
        settings, criterion = phonon_settings(self.config), str(self.config.criterion)
        columns, found = done.analysed.columns, done.analysed.suspicions
        planned, interpolated = yield OnCpu(
            DISPLACEMENTS, plan_check, (done.phonon, columns, found, below)
        )
        answers = yield from self._responses(planned, in_double=done.in_double)
        arguments = planned, interpolated, *answers, columns, settings
        checked: Checked = yield OnCpu(ANALYSIS, compare, arguments)
        if any(one.cause for one in checked.computed) and self.has_double and not done.in_double:
            # Without double precision it is what it is.
            with contextlib.suppress(EvaluationError, CrystalError, PotentialError):
                answers = yield from self._responses(planned, in_double=True)
                arguments = planned, interpolated, *answers, columns, settings
                checked = yield OnCpu(ANALYSIS, compare, arguments)
        return checked_columns(columns, done.analysed, checked, settings, criterion), checked.error

    def _made_sure(
        self,
        atoms: Atoms,
        supercell_matrix: NDArray[np.int64],
        done: _Done,
        by_response: bool,
    ) -> Generator[Request, Any, list[_Done]]:
        """Compute better where errors of the force constants could change the verdict.

        Extrapolate displacements where their length or rounding could; and in double precision,
        where that is not enough. Returns what was computed, in order.
        """
        better: list[_Done] = []
        if by_response:
            if done.analysed.columns["cause"] == ROUNDING and self.has_double:
                better.append(
                    (yield from self._by_response(DOUBLE, atoms, supercell_matrix, in_double=True))
                )
        elif done.analysed.columns["cause"] in (LENGTH, ROUNDING):
            displaced = yield from self._displaced(atoms, supercell_matrix, lengths=True)
            known = done.analysed.forces
            # A quarter of the first displacement tells whether the others are worth it.
            quarter = len(known) - 1 + (len(displaced.copies) - len(known) + 1) // 2
            one = displaced.copies.only(slice(quarter, quarter + 1))
            forces = np.concatenate([known, (yield ForcesOn(one))])
            analysed = yield OnCpu(
                ANALYSIS,
                analyse_forces,
                (done.phonon, forces, *self._how(), False, CHECKS + 1),
            )
            if analysed.columns["roughness"] >= NOT_SMOOTH:
                done = _Done(done.kind, done.phonon, analysed)
                better.append(done)
                if analysed.columns["cause"] != ROUNDING:
                    return better
            analysed = yield from self._analysed(
                displaced, in_double=False, lengths=True, known=known
            )
            better.append(_Done(EXTRAPOLATED, displaced.phonon, analysed))
            if analysed.columns["cause"] in (LENGTH, ROUNDING) and self.has_double:
                analysed = yield from self._analysed(displaced, in_double=True, lengths=True)
                better.append(_Done(DOUBLE, displaced.phonon, analysed, in_double=True))
        return better

    def _how(self, protocol: Protocol | None = None) -> tuple[PhononSettings, str, Keep]:
        """Return how forces are analysed, by the run's protocol or the one beside it."""
        config = self.config
        keep = Keep(config.keep_forces, config.band_dtype, config.keep_dos)
        criterion = str(config.criterion) if protocol is None else protocol.criterion
        return phonon_settings(config, protocol), criterion, keep

    def _decided(self, done: _Done) -> Generator[Request, Any, dict[str, Any]]:
        """Compute the q that decide whether negative interpolated frequencies are real."""
        analysed = done.analysed
        linear = self.info.differentiable and analysed.columns["derivative"] == BY_RESPONSE
        settings = replace(phonon_settings(self.config), linear=linear)
        computed: list[AtQ] = []
        for suspicion in analysed.suspicions.chosen:
            small = yield OnCpu(
                DISPLACEMENTS, displace_at_q, (done.phonon, suspicion.qpoint, settings)
            )
            one: AtQ | None = None
            for in_double in (False, True) if self.has_double else (False,):
                if one is None or one.cause:
                    forces = yield ForcesOn(small.copies, in_double, linear)
                    arguments = small.phonon, forces, suspicion.qpoint, settings
                    one = yield OnCpu(ANALYSIS, analyse_at_q, arguments)
            assert one is not None, "single precision is always asked for"
            computed.append(one)
            if one.is_below:
                break  # one is enough
        if not computed:
            return analysed.columns
        return decided_columns(analysed.columns, analysed.suspicions, computed, settings)

    def _without_nac(self, row: dict[str, Any]) -> Generator[Request, Any, dict[str, Any]]:
        """The row that says what a crystal with Born charges would be without them."""
        keep = Keep(False, self.config.band_dtype, self.config.keep_dos)
        how = self.config.deciding_settings(), keep
        columns = yield OnCpu(ANALYSIS, columns_without_nac, (row, *how))
        return row_of(row | columns, WITHOUT_NAC)

    def _symmetry(
        self, crystal: Crystal, relaxation: Relaxation
    ) -> Generator[Request, Any, dict[str, list[int]]]:
        # Not a stage that feeds the potential: a run that is stopped finishes these.
        given, relaxed = yield OnCpu(
            ANALYSIS, space_group_numbers, (crystal.to_ase(), relaxation.atoms)
        )
        return {"spacegroup_numbers_before": given, "spacegroup_numbers": relaxed}

    def _displaced(
        self,
        atoms: Atoms,
        supercell_matrix: NDArray[np.int64],
        protocol: Protocol | None = None,
        *,
        lengths: bool = False,
    ) -> Generator[Request, Any, Displaced]:
        settings = phonon_settings(self.config, protocol)
        displaced: Displaced = yield OnCpu(
            DISPLACEMENTS, displace_supercell, (atoms, supercell_matrix, settings, lengths)
        )
        return displaced

    def _analysed(
        self,
        displaced: Displaced,
        *,
        in_double: bool,
        protocol: Protocol | None = None,
        lengths: bool = False,
        known: NDArray[np.float64] | None = None,
    ) -> Generator[Request, Any, Analysed]:
        """Ask for the forces on displaced supercells, and what they come to.

        ``known`` are forces of the same displacements with those that tell the noise: then those
        of other lengths alone are asked for.
        """
        how = self._how(protocol)
        copies = displaced.copies
        if known is not None:
            # Its last one is the first displacement at half its length, which is among the others.
            copies = copies.only(slice(len(known) - 1, None))
        forces: NDArray[np.float64] = yield ForcesOn(copies, in_double)
        if known is not None:
            forces = np.concatenate([known[:-1], forces])
        analysed: Analysed = yield OnCpu(
            ANALYSIS, analyse_forces, (displaced.phonon, forces, *how, lengths)
        )
        return replace(analysed, forces=forces)


def _computation(done: _Done) -> Computation:
    return Computation(done.kind, done.analysed.columns, done.in_double)


def _require_elements(crystal: Crystal, info: PotentialInfo) -> None:
    if info.elements is None:
        return
    unknown = sorted({int(z) for z in crystal.numbers} - info.elements)
    if unknown:
        symbols = ", ".join(chemical_symbols[z] for z in unknown)
        raise UnsuitableError("unknown element", f"{info.name} does not know {symbols}")


def _supercell_matrix(crystal: Crystal, config: RunConfig) -> NDArray[np.int64]:
    assert config.supercell is not None, "settings are resolved before a run"
    if isinstance(config.supercell, str) and crystal.supercell_matrix is None:
        raise UnsuitableError(
            "no supercell", "its source names no supercell; give --supercell N N N"
        )
    return supercell_of(crystal, config.supercell, config.supercell_atoms, config.supercell_shape)
