"""Test that crystals whose parts nothing holds together have no verdict, and layers have one."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import hpcbench
from hpcbench.cli import main
from hpcbench.phonons.modes import Mode
from hpcbench.phonons.restoring import FREE, Part, holding, soft_branch
from hpcbench.report.html import write_report

DATA = Path(__file__).parent / "data"
QUICK = ["--mesh", "4", "4", "4", "--band-points", "11", "--workers", "0", "--no-report"]


def springs(atoms: Atoms, multiples: tuple[int, int, int], bonds: list) -> Phonopy:  # type: ignore[type-arg]
    """A crystal of isotropic springs.

    ``bonds``: (one element, other element, shortest, longest, eV/A^2) of those that have one.
    """
    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions)
    phonon = Phonopy(cell, supercell_matrix=np.diag(multiples), primitive_matrix=np.eye(3))
    supercell = phonon.supercell
    natoms = len(supercell)
    force_constants = np.zeros((natoms, natoms, 3, 3))
    for shift in itertools.product((-1, 0, 1), repeat=3):
        images = supercell.positions + np.array(shift) @ supercell.cell
        lengths = np.linalg.norm(images[None] - supercell.positions[:, None], axis=2)
        for one, other, shortest, longest, stiffness in bonds:
            pairs = {(one, other), (other, one)}
            for i, j in zip(*np.nonzero((lengths > shortest) & (lengths < longest)), strict=True):
                if (supercell.symbols[i], supercell.symbols[j]) in pairs:
                    force_constants[i, j] -= stiffness * np.eye(3)
                    force_constants[i, i] += stiffness * np.eye(3)
    phonon.force_constants = force_constants
    return phonon


MOLECULE = Atoms("CO", [(0, 0, 0), (0, 0, 1.1)], cell=np.diag([6.0, 6.0, 6.0]), pbc=True)
PAIR = MOLECULE + Atoms("Ar", [(3, 3, 3)])
BOXED = Atoms("CO", [(0, 0, 0), (0, 0, 1.1)], cell=np.diag([12.0, 12.0, 12.0]), pbc=True)
SQUARE = Atoms("CO", [(0, 0, 5), (1, 1, 5.5)], cell=np.diag([2.0, 2.0, 10.0]), pbc=True)
TWO_SHEETS = SQUARE + Atoms("Ar", [(0, 0, 0)])
CHAIN = Atoms("CO", [(0, 0, 0), (0, 0, 1.1)], cell=np.diag([9.0, 9.0, 2.2]), pbc=True)
NETS = Atoms("CO", [(0, 0, 0), (1.5, 1.5, 1.5)], cell=np.diag([3.0, 3.0, 3.0]), pbc=True)
IN_SQUARE = [("C", "O", 0.1, 1.6, 10.0)]
IN_NETS = [("C", "C", 0.1, 3.1, 5.0), ("O", "O", 0.1, 3.1, 5.0)]
BOND = [("C", "O", 0.1, 1.3, 80.0)]
# Springs, what is free in it, and in how many directions that goes on.
TOYS = {
    "a molecule": (MOLECULE, (2, 2, 2), BOND, {("CO", 0)}),
    "a molecule alone in its box": (BOXED, (1, 1, 1), BOND, {("CO", 0)}),
    "a molecule and an atom": (PAIR, (2, 2, 2), BOND, {("CO", 0), ("Ar", 0)}),
    "molecules that feel each other": (
        MOLECULE, (2, 2, 2), [*BOND, ("C", "O", 4.0, 6.2, 0.02)], {("CO", 3)},
    ),
    "a sheet": (SQUARE, (3, 3, 1), IN_SQUARE, {("CO", 2)}),
    "a sheet, repeated across the gap": (SQUARE, (3, 3, 2), IN_SQUARE, {("CO", 2)}),
    "two sheets": (
        TWO_SHEETS, (3, 3, 1), [*IN_SQUARE, ("Ar", "Ar", 0.1, 2.1, 3.0)], {("CO", 2), ("Ar", 2)},
    ),
    "two sheets that feel each other": (
        TWO_SHEETS, (3, 3, 1),
        [*IN_SQUARE, ("Ar", "Ar", 0.1, 2.1, 3.0), ("C", "Ar", 4.0, 5.1, 0.01)], {("CArO", 3)},
    ),
    "a chain": (CHAIN, (1, 1, 4), BOND, {("CO", 1)}),
    "a net": (NETS, (2, 2, 2), [("C", "O", 0.1, 2.7, 5.0)], {("CO", 3)}),
    "two nets within each other": (NETS, (3, 3, 3), IN_NETS, {("C", 3), ("O", 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", TOYS)
def test_parts_are_what_the_springs_make(name: str) -> None:
    atoms, multiples, bonds, parts = TOYS[name]
    phonon = springs(atoms, multiples, bonds)
    found = holding(phonon)
    assert {(part.formula, part.dimensions) for part in found.parts} == parts
    # What phonopy's own frequencies say: modes at no cost, beside the three at Gamma.
    q = [[0.0, 0.0, 0.0], [0.13, 0.27, 0.41], [0.31, 0.17, 0.23]]
    zeros = (np.abs(phonon.run_qpoints(q).frequencies) < 1e-4).sum(axis=1)
    assert bool(found.cause) == bool(zeros[0] > 3 or (zeros[1:] > 0).all())


@pytest.mark.parametrize("name", TOYS)
def test_rounding_changes_no_part(name: str) -> None:
    """Noise of forces in single precision, and what symmetrisation spreads over all pairs."""
    atoms, multiples, bonds, parts = TOYS[name]
    phonon = springs(atoms, multiples, bonds)
    rng = np.random.default_rng(5)
    noise = 1e-4 * rng.standard_normal(phonon.force_constants.shape)
    phonon.force_constants = phonon.force_constants + noise
    phonon.symmetrize_force_constants(show_drift=False)
    found = {(part.formula, part.dimensions) for part in holding(phonon).parts}
    assert found == parts


def test_errors_that_add_up_to_nothing_join_no_parts() -> None:
    """As of CHGNet: single force constants between far parts of 0.07 eV/A^2, all of them of 0."""
    phonon = springs(*TOYS["two sheets"][:3])
    labels = np.array([symbol == "Ar" for symbol in phonon.supercell.symbols])
    force_constants = np.array(phonon.force_constants)
    spoilt = np.random.default_rng(1).standard_normal((labels.sum(), (~labels).sum(), 3, 3))
    spoilt -= spoilt.mean(axis=(0, 1))
    spoilt *= 0.05 / np.abs(spoilt).max()
    force_constants[np.ix_(labels, ~labels)] = spoilt
    force_constants[np.ix_(~labels, labels)] = spoilt.transpose(1, 0, 3, 2)
    assert np.linalg.norm(spoilt, axis=(2, 3)).max() > 50 * FREE
    phonon.force_constants = force_constants
    assert "nothing holds 2 parts to each other" in holding(phonon).cause


def test_no_force_at_all_holds_nothing() -> None:
    for atoms, number in ((bulk("Cu"), 2), (NETS, 2), (NETS, 5)):
        phonon = springs(atoms, (number, number, number), [])
        assert holding(phonon).cause == "no restoring force: no atom is held by another"
        noise = 1e-4 * np.random.default_rng(2).standard_normal(phonon.force_constants.shape)
        phonon.force_constants = noise
        phonon.symmetrize_force_constants(show_drift=False)
        assert holding(phonon).is_loose


def test_compact_force_constants_say_the_same() -> None:
    atoms, multiples, bonds, parts = TOYS["a molecule and an atom"]
    phonon = springs(atoms, multiples, bonds)
    phonon.force_constants = phonon.force_constants[phonon.primitive.p2s_map]
    assert {(part.formula, part.dimensions) for part in holding(phonon).parts} == parts


def test_the_branch_across_the_gap_is_named() -> None:
    def mode(frequency: float, q: list[float]) -> Mode:
        return Mode(frequency, np.array(q), np.zeros((2, 3), dtype=complex), 1.0)

    held = springs(*TOYS["two sheets that feel each other"][:3])
    found = holding(held)
    across, along = mode(-0.09, [0, 0, 0.5]), mode(-0.09, [0.5, 0, 0])
    words = "lowest mode is the acoustic branch across the gap between its layers"
    assert soft_branch(held, found, 2, {"path": across}) == words
    assert soft_branch(held, found, 2, {"path": along}) == ""
    assert soft_branch(held, found, 2, {"path": mode(0.0, [0, 0, 0.5])}) == ""
    assert soft_branch(held, found, 3, {"path": across}) == ""
    free = springs(*TOYS["a chain"][:3])
    words = soft_branch(free, holding(free), 1, {"path": mode(0.0, [0, 0, 0])})
    assert words == "nothing between its chains: acoustic branches across the gap are zero"
    loose = springs(*TOYS["a molecule"][:3])
    assert soft_branch(loose, holding(loose), 0, {"path": across}) == ""


def slabs(gap: float, number: int) -> Atoms:
    """Slabs of three planes of aluminium, so far apart from each other."""
    one = fcc111("Al", (1, 1, 3), a=4.05)
    one.positions[:, 2] -= one.positions[:, 2].min()
    period = np.ptp(one.positions[:, 2]) + gap
    stack = Atoms(cell=one.cell, pbc=True)
    for level in range(number):
        # Beside each other too, else they would be images of one.
        shift = one.cell[0] / 3 * level
        stack += Atoms(one.numbers, one.positions + np.array([shift[0], shift[1], level * period]))
    stack.cell[2] = [0.0, 0.0, number * period]
    return stack


def test_slabs_of_a_real_potential(tmp_path: Path) -> None:
    crystals = {
        "apart": slabs(9.0, 2), "near": slabs(3.6, 2), "alone": slabs(9.0, 1),
    }  # fmt: skip
    for name, atoms in crystals.items():
        atoms.info["name"] = name
    store = hpcbench.run(
        list(crystals.values()), model="mattersim-demo", relax="none", supercell=(3, 3, 1),
        mesh=(4, 4, 2), band_points=11, workers=0, out=tmp_path / "s.h5",
    ).store  # fmt: skip
    assert store is not None
    rows = {name: store.row(store.find(name)) for name in crystals}
    assert rows["apart"]["verdict"] == "undetermined"
    assert rows["apart"]["cause"].startswith("no restoring force: nothing holds 2 parts")
    assert rows["near"]["cause"] != rows["apart"]["cause"]
    assert not rows["near"]["cause"].startswith("no restoring force")
    assert not rows["alone"]["cause"].startswith("no restoring force")
    assert "nothing between its layers" in rows["alone"]["notes"]
    assert holding(store.phonopy(rows["alone"]["id"])).parts == (Part("Al3", 2),)


@pytest.mark.parametrize("supercell", [[], ["--supercell", "2", "2", "2"]], ids=["default", "222"])
def test_atoms_out_of_reach_of_each_other_are_in_no_rate_as_stable(
    supercell: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NaCl-20.vasp", "Cu-30.vasp"):
        shutil.copy(DATA / name, tmp_path)
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path), "--model", "mattersim-demo", "--protocol", "both"]
    main([*command, *QUICK, *supercell, "--out", str(out)])
    said = capsys.readouterr().out
    store = hpcbench.open(out)
    table = store.table.set_index("name")
    assert table["cause"]["NaCl-20"] == "no restoring force: no atom is held by another"
    assert table["verdict"]["NaCl-20"] == "undetermined"
    if supercell:
        assert table["cause"]["Cu-30"] == table["cause"]["NaCl-20"]
    else:
        # It is alone, and is not multiplied: there is nothing to compute.
        assert table["status"]["Cu-30"] == "failed"
        assert table["reason"]["Cu-30"] == (
            "no restoring force: an atom alone in its box has no phonons"
        )
    literal = store.beside.table
    assert set(literal["cause"]) == {"no restoring force: no atom is held by another"}
    # Computing again for noise would give the same nothing.
    assert set(literal["again"]) == {"phononbench"}
    for rows in (table, literal):
        columns = [name for name in rows.columns if name.startswith("verdict")]
        assert "stable" not in set(rows[columns].to_numpy().ravel())
    assert "0 of them stable by criterion" in said
    assert "no restoring force" in said
    page = " ".join(write_report(store, tmp_path / "r.html").read_text().split())
    assert f"Undetermined: {2 if supercell else 1} no restoring force." in page
    from hpcbench.report.html import _content

    content = _content(store)
    assert content["stable"] == 0
    assert {row.stable for row in content["criteria"]} == {"0"}
    for shares in (*content["protocols"].criteria, *content["protocols"].places):
        assert (shares.here, shares.beside) == (0, 0), shares.name
    main(["show", "NaCl-20", str(out)])
    assert "undetermined: no restoring force: no atom is held by another" in " ".join(
        capsys.readouterr().out.split()
    )
