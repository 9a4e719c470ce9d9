"""No label, kind or shape hangs on rounding: the same crystal on another machine, in effect."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from test_known_answers import NAMES, load

import hpcbench
from hpcbench.phonons.calculate import analyse_force_constants
from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings

DEMO = Path(__file__).parents[1] / "jobs" / "demo"
SIZE = 1e-12
SETTINGS = PhononSettings("auto", 0.01, 1e-5, 101, (3, 3, 3), (300.0,), 0.1)


def perturbed(phonon: Phonopy, seed: int) -> Phonopy:
    """The same crystal with relative errors of ``SIZE`` in the cell and the force constants."""
    rng = np.random.default_rng(seed)

    def jolted(values: np.ndarray) -> np.ndarray:
        return values * (1.0 + SIZE * rng.standard_normal(values.shape))

    cell = phonon.unitcell
    found = Phonopy(
        PhonopyAtoms(
            numbers=cell.numbers,
            cell=jolted(cell.cell),
            scaled_positions=cell.scaled_positions,
            masses=cell.masses,
        ),
        supercell_matrix=phonon.supercell_matrix,
        primitive_matrix=phonon.primitive_matrix,
        symprec=phonon.symmetry.tolerance,
        log_level=0,
    )
    found.force_constants = jolted(phonon.force_constants)
    return found


def answers(result: PhononResult) -> dict[str, object]:
    return {
        "verdicts": result.verdicts,
        "kinds": result.character.kinds,
        "shapes": [s.frequencies.shape for s in result.spectra.values()],
        "segments": result.path.indptr.tolist(),
        "labels": result.path.labels,
        "lowest q": [s.lowest[1].round(9).tolist() for s in result.spectra.values()],
        "unstable modes": len(result.unstable_modes),
    }


def check(phonon: Phonopy) -> None:
    expected = answers(analyse_force_constants(phonon, SETTINGS))
    assert answers(analyse_force_constants(perturbed(phonon, 0), SETTINGS)) == expected


# Hexagonal, cubic with one atom and with two kinds, and one with soft modes.
EVERY_DAY = ("AlN_start_strained", "Cu_start_strained", "MgO_start_rattled", "Ti_bcc_start_rattled")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in EVERY_DAY else pytest.mark.nightly)
        for name in sorted(path.stem for path in DEMO.glob("*.cif"))
    ],
)
def test_demo_crystals(name: str, tmp_path: Path) -> None:
    atoms = read(DEMO / f"{name}.cif")
    atoms.info["name"] = name
    hpcbench.run(
        [atoms], model="mattersim-demo", mesh=(3, 3, 3), supercell=(2, 2, 2),
        out=tmp_path / "demo.h5", interpolation_error=0.0,
    )  # fmt: skip
    check(hpcbench.open(tmp_path / "demo.h5").phonopy(name))


# Takes as long as all others.
LARGE = "phonopy_fc444_JPCM2022"


@pytest.mark.reference
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name == LARGE else []) for name in NAMES],
)
def test_force_sets_of_dft(name: str, reference_data: Path) -> None:
    pytest.importorskip("symfc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy speaks of its own defaults
        phonon = load(reference_data / "phonons", name)
    if phonon.dataset is not None and "first_atoms" in phonon.dataset:
        forces, _ = subtract_drift(np.array(phonon.forces))
        fit_force_constants(phonon, forces)
    elif phonon.dataset is not None:
        phonon.produce_force_constants(
            calculate_full_force_constants=False, fc_calculator="symfc", show_drift=False
        )
    check(phonon)
