"""Real crystals and real force sets, against ASE and phonopy used by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import by_hand
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

import hpcbench
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError
from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def generated(reference_data: Path) -> list[Atoms]:
    """The first 12 small generated crystals, from all generators alike."""
    by_generator: dict[str, list[Atoms]] = {}
    for atoms in read(reference_data / "generated" / "mix-1000.extxyz", ":"):
        close = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        if 2 <= len(atoms) <= 4 and close.min() > 1.0:
            by_generator.setdefault(atoms.info["generator"], []).append(atoms)
    chosen = []
    for rank in range(6):
        chosen += [frames[rank] for frames in by_generator.values() if len(frames) > rank]
    return chosen[:12]


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, pytest.param(12, marks=pytest.mark.nightly)])
def test_generated_crystals_through_chgnet_as_by_hand(generated: list[Atoms], number: int) -> None:
    """The literal protocol, crystal by crystal: same cells, same bands, same verdicts."""
    pytest.importorskip("chgnet")
    generated = generated[:number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model import CHGNet
        from chgnet.model.dynamics import CHGNetCalculator

        model = CHGNet.load(verbose=False, use_device="cpu")
        calculator = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="ignore")
        potential = hpcbench.load_potential("chgnet")
        settings = {"protocol": "phononbench", "supercell": (1, 1, 2), "mesh": (4, 4, 4)}
        ours = hpcbench.run(generated, model=potential, max_steps=150, **settings)
        compared = 0
        for atoms, row in zip(generated, ours.table.to_dict("records"), strict=True):
            by_scripts = by_hand.relax(atoms, calculator, steps=150)
            if row["status"] != "done":
                assert by_scripts is None
                continue
            assert by_scripts is not None
            relaxed, steps = by_scripts
            assert steps == row["relaxation_steps"]
            phonon = by_hand.phonons(relaxed, calculator, (1, 1, 2))
            bands, _, _ = by_hand.get_band_qpoints_by_seekpath(phonon.primitive, 101, True)
            frequencies = phonon.run_qpoints(np.concatenate(bands)).frequencies
            # CHGNet computes in single precision: 1e-6 eV/A of noise over 0.01 A.
            assert row["min_frequency_path"] == pytest.approx(frequencies.min(), abs=5e-3)
            assert row["energy"] == pytest.approx(relaxed.get_potential_energy(), abs=1e-4)
            if abs(frequencies.min() + 0.001) > 5e-3:
                verdict = "stable" if frequencies.min() >= -0.001 else "unstable"
                assert row["verdict"] == verdict
            compared += 1
    print(ours.table[["name", "status", "reason", "relaxation_steps", "min_frequency_path"]])
    assert compared >= number - 2


def test_generated_lists_are_examined_without_an_accident(reference_data: Path) -> None:
    from hpcbench.curation.validation import examine
    from hpcbench.planning.costs import predict_work
    from hpcbench.sources import find_files, merge, read_file

    files = find_files([reference_data / "generated" / "mix-1000.extxyz"])
    crystals, unreadable = merge(record for file in files for record in read_file(file))
    kinds: dict[str, int] = {}
    for crystal in crystals:
        assert isinstance(crystal, Crystal)
        try:
            examine(crystal)
        except CrystalError as error:
            kinds[error.kind] = kinds.get(error.kind, 0) + 1
            continue
        assert predict_work(crystal, 2 * np.eye(3, dtype=int), 0.01).forces > 0
    assert len(crystals) + len(unreadable) >= 990
    assert kinds == {"overlap": 15, "no mass": 3}


@pytest.mark.parametrize("name", ["phonopy_params_Zr3N4.yaml", "phonopy_params_TiPN3.yaml.xz"])
def test_compact_force_constants_are_symmetrised_as_well_as_full_ones(
    name: str, reference_data: Path
) -> None:
    """One round of phonopy's symmetrisation leaves sums of 1e-3 eV/A^2 in compact ones."""
    import phonopy

    path = reference_data / "phonons" / "phonopy" / "test" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon = phonopy.load(path, is_nac=False, produce_fc=False, log_level=0)
    forces = np.array([entry["forces"] for entry in phonon.dataset["first_atoms"]])
    q = [[0.01, 0.02, 0.03], [0.3, 0.2, 0.1], [0.5, 0.0, 0.0]]
    without_drift, _ = subtract_drift(forces)
    phonon.forces = without_drift
    phonon.produce_force_constants(show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    expected = phonon.run_qpoints(q).frequencies
    change = np.abs(fit_force_constants(phonon, without_drift)).max()
    assert change > 1e-6
    assert len(phonon.force_constants) == len(phonon.primitive)
    assert np.abs(phonon.force_constants.sum(axis=1)).max() < 1e-10
    np.testing.assert_allclose(phonon.run_qpoints(q).frequencies, expected, atol=1e-8)
