"""The literal protocol against what PhononBench's and Loew's scripts, unmodified, gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import pytest
import spglib
from ase import Atoms

import hpcbench
from hpcbench.potentials.protocol import Potential
from hpcbench.protocols import PROTOCOLS
from hpcbench.relaxation.relax import Relaxation, relax

DATA = Path(__file__).parent / "data"
# The scripts ran with phonopy 2.43.1, and CHGNet computes in single precision (1e-5 eV/A over
# 0.01 A is 1e-3 eV/A^2). Measured: 3.9e-3 THz of 4.32 (GeMn3), at most 1.3e-3 for the others; by
# ASE and phonopy 4.8 by hand (tests/by_hand.py) at most 1.3e-3.
TOLERANCE = 5e-3
# Crystals for which symmetry that is found once and never refined gives another space group (0,
# 24), that and another label (32), or an answer where the scripts refuse one (30, 38, 40).
TELLING = (0, 24, 30, 32, 38, 40)


def scripts_answers() -> list[tuple[Atoms, dict[str, Any]]]:
    frames = ase.io.read(DATA / "literal-chgnet.extxyz", ":")
    answers = json.loads((DATA / "literal-chgnet.json").read_text())
    assert [atoms.info["n"] for atoms in frames] == [answer["n"] for answer in answers]
    return list(zip(frames, answers, strict=True))


@pytest.fixture(scope="module")
def chgnet() -> Potential:
    pytest.importorskip("chgnet", reason="the scripts' answers are those of CHGNet 0.4.2")
    return hpcbench.load_potential("chgnet")


def compare(chosen: list[tuple[Atoms, dict[str, Any]]], potential: Potential, out: Path) -> None:
    for atoms, answer in chosen:
        atoms.info["name"] = str(answer["n"])
    hpcbench.run(
        [atoms for atoms, _ in chosen],
        model=potential,
        protocol="phononbench",
        mesh=(1, 1, 1),
        workers=0,
        out=out,
    )
    store = hpcbench.open(out)
    for _, answer in chosen:
        row = store.row(store.find(str(answer["n"])))
        about = f"{answer['n']} {answer['formula']} {row['reason']}"
        assert row["status"] == answer["status"], about
        if answer["status"] == "failed":
            assert row["reason"].startswith("not converged: "), about
            assert "in the cell refined to its symmetry" in row["reason"], about
            continue
        assert row["spacegroup_number"] == answer["sg1e-5"], about
        assert row["spacegroup_numbers"][0] == answer["sg1e-5"], about
        assert row["displacements"] == answer["displacements"], about
        assert row["relaxation_steps"] == answer["steps"], about
        assert row["energy"] == pytest.approx(answer["energy"], abs=2e-5), about
        assert row["min_frequency_path"] == pytest.approx(answer["minpath"], abs=TOLERANCE), about
        assert row["verdict_phononbench"] == answer["label"], about
        assert row["verdict_phononbench_v3"] == answer["v3"], about


def test_answers_are_those_of_the_scripts(chgnet: Potential, tmp_path: Path) -> None:
    chosen = [one for one in scripts_answers() if one[1]["n"] in TELLING]
    assert len(chosen) == len(TELLING)
    compare(chosen, chgnet, tmp_path / "s.h5")


@pytest.mark.slow
@pytest.mark.nightly
def test_answers_are_those_of_the_scripts_for_all_crystals(
    chgnet: Potential, tmp_path: Path
) -> None:
    compare(scripts_answers(), chgnet, tmp_path / "s.h5")


# Relaxed to 0.001 eV/A from the symmetry that they begin with, these show more within 0.01 A.
@pytest.mark.parametrize("number", [0, 2, 6])
def test_robust_protocol_stores_the_space_group_of_the_cell_that_it_displaces(
    chgnet: Potential, number: int
) -> None:
    (atoms,) = (atoms for atoms, answer in scripts_answers() if answer["n"] == number)
    robust = PROTOCOLS["robust"]
    (result,) = relax(
        [atoms],
        chgnet,
        mode="full",
        stages=robust.stages(robust.fmax, robust.max_steps),
        symmetry_tolerance=0.01,
    )
    assert isinstance(result, Relaxation)
    relaxed = result.atoms
    cell = (relaxed.cell[:], relaxed.get_scaled_positions(), relaxed.numbers)
    for tolerance in (1e-5, 1e-3, 1e-2):
        found = spglib.get_symmetry_dataset(cell, symprec=tolerance).number
        assert found == result.space_group_after.number
    assert len(result.rounds) == 3
    assert result.complaints == ()
