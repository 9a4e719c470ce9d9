"""One crystal of another program's calculation, as a row of a store."""

from __future__ import annotations

import json
import socket
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.born import of_cell
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError, PhononError, UnreadableError
from hpcbench.interop.calculation import Calculation, forces_in, read_calculation
from hpcbench.interop.finding import Job
from hpcbench.masses import named
from hpcbench.origin import Origin, origins_to_json
from hpcbench.package_versions import deciding_versions
from hpcbench.phonons.calculate import analyse, analyse_force_constants
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.relaxation.symmetry import find_space_group
from hpcbench.results.identity import identity
from hpcbench.results.phonon_columns import Keep, phonon_columns
from hpcbench.results.recompute import columns_without_nac
from hpcbench.results.rows import row_of
from hpcbench.sources import SourceFile, Unreadable, read_file
from hpcbench.store.schema import DONE, FAILED, UNREADABLE, WITHOUT_NAC

if TYPE_CHECKING:
    from phonopy import Phonopy

MODEL = "imported"
# In A: lattice lengths in a relaxed CIF are rounded.
_SAME_LENGTH = 1e-2
NOTHING = "no force constants"
"""The kind of failure of a crystal without phonons."""


@dataclass(frozen=True)
class How:
    """Settings of an import."""

    phonons: PhononSettings
    criterion: str
    symmetry_tolerance: float
    keep: Keep
    settings: Mapping[str, Any]


def import_one(job: Job, how: How) -> list[dict[str, Any]]:
    """Return the row of one crystal; any error becomes its reason.

    If the crystal has Born charges, a row without them follows.

    Parameters
    ----------
    job : Job
        The crystal and its files.
    how : How
        Settings of the import.
    """
    start = time.process_time()
    with warnings.catch_warnings():
        # phonopy warns that its defaults have changed.
        warnings.simplefilter("ignore")
        row = _import(job, how)
        row["imported_label"] = job.label.text if job.label else ""
        rows = [row]
        if row.get("nac_params"):
            keep = replace(how.keep, forces=False)
            try:
                columns = columns_without_nac(row, how.settings, keep)
                rows.append(row_of(row | columns, WITHOUT_NAC))
            except Exception as error:  # one strange file must not end the import
                note = f"not analysed without Born charges: {error}"
                row["notes"] = "; ".join(filter(None, (row.get("notes", ""), note)))
    row["seconds_analysis"] = time.process_time() - start
    return rows


def _import(job: Job, how: How) -> dict[str, Any]:
    origin = Origin(job.origin)
    crystal: Crystal | None = None
    try:
        if not job.candidates:
            return _row_without_phonons(job, origin)
        path, calculation = _best(job, how)
        origin = Origin(str(path))
        crystal = _crystal_of(calculation.phonon, job.name, origin)
        if job.cif is not None:
            _require_same_crystal(crystal, job.cif)
        result = analysed(calculation, how.phonons)
        row = imported_row(crystal, calculation, result, how)
    except UnreadableError as error:
        record = Unreadable(job.name, origin, error.kind, str(error))
        row = _unreadable_row(record)
    except CrystalError as error:
        row = _failed_row(crystal, job, origin, error)
    except Exception as error:  # one strange file must not end the import
        traceback.print_exc()
        problem = CrystalError("error", f"{type(error).__name__}: {error}")
        row = _failed_row(crystal, job, origin, problem)
    return row


def _best(job: Job, how: How) -> tuple[Path, Calculation]:
    """Return the first file of a crystal that has phonons, else the first that can be read.

    Raises
    ------
    CrystalError
        If none can be read.
    """
    problem: CrystalError | None = None
    without: tuple[Path, Calculation] | None = None
    assert isinstance(how.phonons.primitive_matrix, str), "a protocol has no matrix"
    for path in job.candidates:
        try:
            calculation = read_calculation(
                path,
                job.beside,
                how.phonons.primitive_matrix,
                how.phonons.symprec,
                with_forces=how.keep.forces,
            )
        except CrystalError as error:
            problem = problem or error
            continue
        if calculation.force_constants is not None or forces_in(calculation.dataset):
            return path, calculation
        without = without or (path, calculation)
    if problem is not None:
        raise problem
    assert without is not None, "a job has at least one candidate"
    return without


def _crystal_of(phonon: Phonopy, name: str, origin: Origin) -> Crystal:
    """Return the crystal; its id contains the supercell, as with ``--supercell source``."""
    cell, nac = phonon.unitcell, phonon.nac_params
    return Crystal.from_arrays(
        name,
        (origin,),
        cell.cell,
        cell.positions,
        np.array(cell.numbers, dtype=np.int32),
        np.array(phonon.supercell_matrix, dtype=np.int32),
        nac and of_cell(nac, phonon.primitive, phonon.supercell),
        named(cell.numbers, cell.masses)[0],
    )


def _require_same_crystal(crystal: Crystal, cif: Path) -> None:
    record = next(iter(read_file(SourceFile(str(cif), explicit=True))))
    if isinstance(record, Unreadable):
        return
    lengths = [np.linalg.norm(one.cell, axis=1) for one in (crystal, record)]
    if sorted(crystal.numbers) != sorted(record.numbers) or (
        np.abs(lengths[0] - lengths[1]).max() > _SAME_LENGTH
    ):
        raise CrystalError("relaxed CIF", f"{cif} is another crystal than that of the phonons")


def analysed(calculation: Calculation, settings: PhononSettings) -> PhononResult:
    """Compute the phonons of a calculation.

    Parameters
    ----------
    calculation : Calculation
        With force constants, or with forces.
    settings : PhononSettings
        Settings of spectra and thermal properties.

    Raises
    ------
    PhononError
        If there are neither force constants nor forces, or as :func:`analyse`.
    """
    phonon, dataset = calculation.phonon, calculation.dataset
    if calculation.force_constants is not None:
        phonon.dataset = dataset
        phonon.force_constants = calculation.force_constants
        return analyse_force_constants(phonon, settings)
    if dataset is None or not forces_in(dataset):
        raise PhononError(NOTHING, "neither they nor forces are in the file or beside it")
    phonon.dataset = dataset
    if "first_atoms" in dataset:
        forces = np.array([entry["forces"] for entry in dataset["first_atoms"]])
        return analyse(phonon, forces, settings)
    try:
        # All atoms are displaced at once: phonopy leaves such sets to symfc.
        phonon.produce_force_constants(
            calculate_full_force_constants=False, fc_calculator="symfc", show_drift=False
        )
    except ImportError as error:
        raise PhononError(
            "force constants", "random displacements need symfc: pip install symfc"
        ) from error
    except Exception as error:  # phonopy and symfc raise many kinds
        raise PhononError("force constants", f"symfc: {type(error).__name__}: {error}") from error
    return analyse_force_constants(phonon, settings)


def imported_row(
    crystal: Crystal, calculation: Calculation, result: PhononResult, how: How
) -> dict[str, Any]:
    """Return the row of a crystal whose phonons are of another program.

    Parameters
    ----------
    crystal : Crystal
        The crystal.
    calculation : Calculation
        The other program's calculation.
    result : PhononResult
        From :func:`analysed`.
    how : How
        Settings of the import.
    """
    group = find_space_group(crystal.to_ase(), how.symmetry_tolerance)
    columns = phonon_columns(result, how.criterion, how.keep)
    if how.keep.forces and forces_in(calculation.dataset):
        columns["forces"] = _forces(calculation.dataset or {})
    columns["displacements"] = calculation.displaced
    return {
        **identity(crystal),
        **_place(calculation.version),
        "status": DONE,
        "reason": "",
        "spacegroup": group.symbol,
        "spacegroup_number": group.number,
        "spacegroup_before": group.symbol,
        "spacegroup_number_before": group.number,
        "relaxed_cell": crystal.cell,
        "relaxed_positions": crystal.positions,
        **columns,
    }


def _forces(dataset: Mapping[str, Any]) -> Any:
    """Return forces of single displacements, without drift, as a store has them."""
    if "first_atoms" not in dataset:
        # A store has one displaced atom for each supercell.
        return np.zeros((0, 3))
    forces = np.array([entry["forces"] for entry in dataset["first_atoms"]])
    return (forces - forces.mean(axis=1, keepdims=True)).reshape(-1, 3)


def _row_without_phonons(job: Job, origin: Origin) -> dict[str, Any]:
    """Return the row of a crystal that has only a relaxed cell or a label."""
    if job.cif is not None:
        record = next(iter(read_file(SourceFile(str(job.cif), explicit=True))))
        if isinstance(record, Unreadable):
            return _unreadable_row(record)
        crystal = Crystal.from_arrays(
            job.name,
            (origin,),
            record.cell,
            record.positions,
            record.numbers,
            masses=record.masses,
        )
        why = job.reason or "there is only the relaxed crystal"
        return _failed_row(crystal, job, origin, CrystalError(NOTHING, why))
    why = job.reason or "there is only the label, which the scripts give to failed crystals too"
    return _failed_row(None, job, origin, CrystalError(NOTHING, why))


def _failed_row(
    crystal: Crystal | None, job: Job, origin: Origin, error: CrystalError
) -> dict[str, Any]:
    if crystal is None:
        return _unreadable_row(Unreadable(job.name, origin, error.kind, str(error)))
    return {**identity(crystal), **_place(""), "status": FAILED, "reason": error.reason}


def _unreadable_row(record: Unreadable) -> dict[str, Any]:
    row = {
        "name": record.name,
        "origins": origins_to_json((record.origin,)),
        "status": UNREADABLE,
        "reason": record.reason,
    }
    return {**row, "id": id_by_origin(row)}


def id_by_origin(row: Mapping[str, Any]) -> str:
    """Return the id of a row without a crystal of its own."""
    # Many labels share a file: the name distinguishes them.
    return Unreadable("", Origin(f"{row['origins']}\0{row['name']}"), "", "").id


def _place(version: str) -> dict[str, Any]:
    provenance = deciding_versions() | {"potential": MODEL, "device": "", "source_phonopy": version}
    return {
        "rank": 0,
        "host": socket.gethostname(),
        "finished": time.time(),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
