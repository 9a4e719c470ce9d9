"""Layers, chains and molecules are known, and flagged."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule, mx2

import hpcbench
from hpcbench.phonons.dimensions import UNKNOWN, dimensionality, vacuum
from hpcbench.report.html import write_report


def slab() -> Atoms:
    atoms = mx2("MoS2", vacuum=7.5)
    atoms.pbc = True
    return atoms


def layered() -> Atoms:
    """Graphite: layers 3.35 A apart, without vacuum."""
    one = graphene(vacuum=3.35 / 2)
    atoms = Atoms(one.numbers, one.positions, cell=one.cell, pbc=True)
    return atoms * (1, 1, 2)


def chain() -> Atoms:
    return Atoms(
        "SeSeSe", [[0.95, 0, 0], [-0.475, 0.823, 1.65], [-0.475, -0.823, 3.3]],
        cell=[12, 12, 4.95], pbc=True,
    )  # fmt: skip


def boxed() -> Atoms:
    atoms = molecule("CH4")
    atoms.center(vacuum=4.0)
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize(
    ("atoms", "directions"),
    [
        (bulk("Cu"), 3),
        (bulk("NaCl", "rocksalt", a=5.64), 3),
        (bulk("Si"), 3),
        (slab(), 2),
        (layered(), 2),
        (chain(), 1),
        (boxed(), 0),
    ],
    ids=["copper", "salt", "silicon", "slab", "graphite", "chain", "methane"],
)
def test_dimensionality_of_what_is_known(atoms: Atoms, directions: int) -> None:
    assert dimensionality(atoms) == directions


@pytest.mark.parametrize("atoms", [slab(), chain(), boxed(), bulk("Cu")])
def test_room_makes_no_difference_and_takes_no_time(atoms: Atoms) -> None:
    """Five micrometres would take ASE minutes."""
    wide = atoms.copy()
    wide.positions += 7.0 * atoms.cell[2] / np.linalg.norm(atoms.cell[2])
    wide.cell[2] *= 5000.0 / np.linalg.norm(wide.cell[2])
    narrow = atoms.copy()
    narrow.cell[2] *= 40.0 / np.linalg.norm(narrow.cell[2])
    start = time.process_time()
    found = dimensionality(wide)
    assert time.process_time() - start < 20
    assert found == dimensionality(narrow)


def test_what_cannot_be_said_is_no_error() -> None:
    assert dimensionality(Atoms("He", cell=30 * np.eye(3), pbc=True)) in (UNKNOWN, 0)


def test_vacuum_is_the_widest_gap() -> None:
    assert vacuum(bulk("Cu", cubic=True)) == pytest.approx(3.61 / 2)
    assert vacuum(slab()) == pytest.approx(15.0)
    assert vacuum(layered()) == pytest.approx(3.35)
    shifted = slab()
    shifted.positions += [0.0, 0.0, 9.0]
    assert vacuum(shifted) == pytest.approx(15.0)


def test_layers_are_computed_and_flagged(tmp_path) -> None:  # type: ignore[no-untyped-def]
    gold = Atoms("Au", cell=[[2.7, 0, 0], [1.35, 2.338, 0], [0, 0, 14]], pbc=True)
    for atoms, name in ((gold, "sheet"), (crystal := bulk("Au"), "bulk")):
        atoms.info["name"] = name
    out = tmp_path / "s.h5"
    hpcbench.run(
        [gold, crystal], model="ase.calculators.emt:EMT", out=out, relax="positions",
        mesh=(3, 3, 3), band_points=7, supercell=(2, 2, 1),
    )  # fmt: skip
    store = hpcbench.open(out)
    table = store.table.set_index("name")
    assert table.loc["sheet", "status"] == "done"
    assert (table.loc["sheet", "dimensionality"], table.loc["bulk", "dimensionality"]) == (2, 3)
    assert table.loc["sheet", "vacuum"] == pytest.approx(14.0)
    page = " ".join(write_report(store, tmp_path / "r.html").read_text().split())
    assert "Not all are networks of bonds: 1 of layers." in page
