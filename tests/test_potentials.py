"""Potentials by name, their weights, and the self-test that guards a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from hpcbench.errors import PotentialError
from hpcbench.potentials import fetch, weights
from hpcbench.potentials.protocol import Evaluation, Potential
from hpcbench.potentials.registry import check_name, listed_potentials, load_potential
from hpcbench.potentials.selftest import self_test

FOLDER = ".local/mattersim/pretrained_models"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_missing_weights_say_where_and_what_to_do(home: Path) -> None:
    with pytest.raises(PotentialError) as caught:
        load_potential("mattersim-v1.0.0-5M")
    text = str(caught.value)
    assert str(home / ".local/mattersim/pretrained_models/mattersim-v1.0.0-5M.pth") in text
    assert "hpcbench models fetch mattersim-v1.0.0-5M" in text
    assert "mattersim-demo" in text


def test_published_weights_are_found_where_mattersim_keeps_them(home: Path) -> None:
    folder = home / FOLDER
    folder.mkdir(parents=True)
    shutil.copy(weights.DEMO_WEIGHTS, folder / "mattersim-v1.0.0-1M.pth")
    potential = load_potential("mattersim-v1.0.0-1M")
    assert potential.info.name == "mattersim-v1.0.0-1M"
    assert potential.info.weights_sha256 == weights.sha256_of(weights.DEMO_WEIGHTS)


def test_fetch_leaves_nothing_half_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / FOLDER
    final = folder / "mattersim-v1.0.0-1M.pth"

    def torn(filename: str, target: Path) -> None:
        (target / filename).write_bytes(weights.DEMO_WEIGHTS.read_bytes()[:1000])
        assert not final.exists()

    monkeypatch.setattr(fetch, "download_mattersim", torn)
    with pytest.raises(PotentialError, match="not a readable checkpoint"):
        fetch.fetch_weights("mattersim-v1.0.0-1M")
    assert list(folder.iterdir()) == []

    def unreachable(filename: str, target: Path) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fetch, "download_mattersim", unreachable)
    with pytest.raises(PotentialError, match=r"could not be downloaded .* copy mattersim-v1"):
        fetch.fetch_weights("mattersim-v1.0.0-1M")

    def whole(filename: str, target: Path) -> None:
        shutil.copy(weights.DEMO_WEIGHTS, target / filename)

    monkeypatch.setattr(fetch, "download_mattersim", whole)
    assert fetch.fetch_weights("mattersim-v1.0.0-1M") == final
    assert [path.name for path in folder.iterdir()] == [final.name]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("chgnt", "did you mean chgnet"),
        ("nothing-like-it", "known are mattersim-v1"),
        ("missing.pth", "no such file"),
        ("no.such.module:thing", "no module no;"),
        ("ase.calculators.emt:Nothing", "has no Nothing"),
        ("math:pi", "cannot be called"),
        ("builtins:dict", "no ASE calculator"),
    ],
)
def test_a_wrong_model_is_one_clear_sentence(model: str, words: str) -> None:
    with pytest.raises(PotentialError, match=words):
        load_potential(model)


def test_demo_is_never_the_default() -> None:
    from hpcbench.config import RunConfig

    assert RunConfig().model == "mattersim-v1.0.0-5M"
    demo = next(line for line in listed_potentials() if line.name == "mattersim-demo")
    assert "stand-in" in demo.description


def test_packages_without_double_precision_refuse_it() -> None:
    with pytest.raises(PotentialError, match="float32 only"):
        load_potential("sevennet-l3i5", dtype="float64")
    check_name("sevennet-l3i5")


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # CHGNet's own
def test_chgnet_in_double_precision_is_the_same_potential_with_less_noise() -> None:
    pytest.importorskip("chgnet")
    atoms = bulk("NaCl", "rocksalt", a=5.7, cubic=True)
    atoms.rattle(0.05, seed=1)
    single, double = (load_potential("chgnet", dtype=d) for d in ("float32", "float64"))
    (one,), (other,) = (p.evaluate([atoms], stress=True) for p in (single, double))
    np.testing.assert_allclose(one.forces, other.forces, atol=1e-4)
    np.testing.assert_allclose(one.stress, other.stress, atol=1e-5)
    assert np.abs(other.forces.sum(axis=0)).max() < 1e-12
    # The forces are derivatives of the energy: to five digits, which float32 does not have.
    step = 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[3, 1] += sign * step
        energies.append(double.evaluate([moved])[0].energy)
    slope = (energies[1] - energies[0]) / (2 * step)
    assert slope == pytest.approx(other.forces[3, 1], rel=1e-5)


def test_any_ase_calculator_by_import_path() -> None:
    from ase.calculators.emt import EMT

    potential = load_potential("ase.calculators.emt:EMT", dtype="float64")
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    (result,) = potential.evaluate([atoms], stress=True)
    atoms.calc = EMT()
    np.testing.assert_array_equal(result.forces, atoms.get_forces())
    np.testing.assert_array_equal(result.stress, atoms.get_stress(voigt=False))
    assert self_test(potential) < 1e-8


class Broken:
    """A potential that goes wrong in a chosen way."""

    def __init__(self, sound: Potential, defect: str) -> None:
        self._sound = sound
        self._defect = defect
        self.info = replace(sound.info, name=f"broken ({defect})")

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        results = self._sound.evaluate(structures, stress=stress)
        if self._defect == "batch" and len(structures) > 1:
            results[1] = Evaluation(0.0, results[1].forces * 1.5)
        if self._defect == "far away" and abs(structures[0].positions).max() > 20:
            results[0] = Evaluation(0.0, results[0].forces + 0.1)
        if self._defect == "nan":
            results[0] = Evaluation(0.0, results[0].forces * np.nan)
        return results


@pytest.mark.parametrize(
    ("defect", "words"),
    [("batch", "in a batch"), ("far away", "translated"), ("nan", "not finite")],
)
def test_a_broken_potential_does_not_pass_its_self_test(demo32, defect: str, words: str) -> None:
    self_test(demo32)
    with pytest.raises(PotentialError, match=words):
        self_test(Broken(demo32, defect))
