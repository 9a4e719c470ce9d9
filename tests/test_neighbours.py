"""Neighbour lists of batches, and of displaced copies, against ASE, MatterSim and each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.neighborlist import neighbor_list
from mattersim_layers import require_mattersim, triplets

from hpcbench.errors import UnsuitableError
from hpcbench.potentials import neighbours as module
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.displaced import CopiesGraph, displaced_edges, share_list
from hpcbench.potentials.neighbours import (
    LENGTH_TOLERANCE,
    NeighbourList,
    edge_vectors,
    neighbour_list,
)
from hpcbench.potentials.structures import Structures

CUTOFF, THREEBODY = 5.0, 4.0
# Lengths that differ from the limit by less than this are not decidable: positions of tens of A
# are known to 1e-14 A, and each library rounds on its way.
UNDECIDABLE = 1e-11

Edges = dict[tuple[int, int, int, int, int], float]


def random_crystal(seed: int) -> Atoms:
    """One of several kinds, each of which is hard in its own way."""
    rng = np.random.default_rng(seed)
    natoms = int(rng.integers(1, 9))
    cell = np.diag(rng.uniform(3.0, 8.0, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
    outside = 0.0
    match seed % 8:
        case 0:  # many atoms
            natoms = int(rng.integers(15, 31))
            cell *= 1.4
        case 1:  # smaller than the cutoff
            natoms, cell = int(rng.integers(1, 3)), cell * 0.4
        case 2:  # skewed
            cell[1] += int(rng.integers(1, 4)) * cell[0]
            cell[2] += int(rng.integers(-3, 4)) * cell[1] - 2 * cell[0]
        case 3:  # left-handed
            if np.linalg.det(cell) > 0:
                cell[2] *= -1
        case 4:  # very long
            cell = np.diag([2.0, 2.0, 80.0]) + rng.uniform(-0.2, 0.2, (3, 3))
            natoms = int(rng.integers(1, 31))
            cell = cell[rng.permutation(3)]
        case 5:  # very flat
            cell = np.diag([14.0, 12.0, 1.3]) + rng.uniform(-0.2, 0.2, (3, 3))
        case 6:  # atoms outside the cell
            outside = 4.0
        case 7:  # atoms far outside the cell
            outside = 1000.0
    fractional = rng.uniform(-outside, 1 + outside, (natoms, 3))
    return Atoms(
        numbers=rng.integers(1, 80, natoms), cell=cell, scaled_positions=fractional, pbc=True
    )


NAMED = {
    "tiny": Atoms("He", cell=np.eye(3) * 1.1, pbc=True),
    "long": Atoms("HeNe", [(0, 0, 0), (0, 0, 20.0)], cell=[2.5, 2.5, 40.0], pbc=True),
    "left-handed": Atoms("NaCl", [(0, 0, 0), (2, 2, 2)], cell=np.diag([4, 4, -4]), pbc=True),
    "skewed": Atoms("Si", cell=[[3, 0, 0], [2.9, 1.5, 0], [8.0, 4.0, 3.0]], pbc=True),
    "at the cutoff": bulk("Po", "sc", a=5.0),
    "alone": Atoms("He", cell=np.eye(3) * 12.0, pbc=True),
    "at the same place": Atoms("HeNe", [(1, 1, 1), (1, 1, 1)], cell=np.eye(3) * 4.0, pbc=True),
    "the same, a cell away": Atoms("HeNe", [(1, 1, 1), (5, 1, 1)], cell=np.eye(3) * 4, pbc=True),
    "crowded corner": Atoms(
        "H40", np.random.default_rng(0).uniform(0, 4, (40, 3)), cell=np.eye(3) * 30, pbc=True
    ),
    "supercell": bulk("NaCl", "rocksalt", a=5.64).repeat(4),
}
RANDOM = [random_crystal(seed) for seed in range(320)]


def split(batch: Structures, found: NeighbourList) -> list[Edges]:
    """The edges of each structure as (i, j, S), with their lengths; none may come twice."""
    lengths = torch.linalg.vector_norm(edge_vectors(batch, found), dim=1).numpy()
    structure = batch.structure_of_atom[found.edges[0]].numpy()
    assert (batch.structure_of_atom[found.edges[1]].numpy() == structure).all()
    first = np.array(batch.first_atom)[structure]
    whole = np.column_stack([found.edges.numpy().T - first[:, None], found.offsets.numpy()])
    assert (whole == np.round(whole)).all()
    result: list[Edges] = [{} for _ in range(len(batch))]
    for s, key, length in zip(structure, map(tuple, whole.astype(int)), lengths, strict=True):
        assert key not in result[s]
        result[s][key] = length
    return result


def keyed(atoms: Atoms, i: np.ndarray, j: np.ndarray, offsets: np.ndarray) -> Edges:
    vectors = atoms.positions[j] - atoms.positions[i] + offsets @ atoms.cell[:]
    keys = map(tuple, np.column_stack([i, j, offsets]).astype(int))
    result = dict(zip(keys, np.linalg.norm(vectors, axis=1), strict=True))
    assert len(result) == len(i)
    return result


def of_ase(atoms: Atoms, cutoff: float = CUTOFF) -> Edges:
    # ASE leaves out what lies exactly at the cutoff, MatterSim keeps it.
    return keyed(atoms, *neighbor_list("ijS", atoms, cutoff + LENGTH_TOLERANCE))


def assert_same(got: Edges, expected: Edges, cutoff: float = CUTOFF) -> None:
    """Equal but for edges of which rounding decides."""
    different = {**got, **expected}.items() if got.keys() != expected.keys() else ()
    for key, length in different:
        if (key in got) != (key in expected):
            assert abs(length - cutoff - LENGTH_TOLERANCE) < UNDECIDABLE, (key, length)
    for key in got.keys() & expected.keys():
        # Lengths from positions far outside are the less precise ones.
        assert abs(got[key] - expected[key]) < 1e-8


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_DISTANCES, "cpu", 5_000)


@pytest.mark.parametrize("name", NAMED)
def test_edges_of_a_crystal_are_those_of_ase(name: str) -> None:
    batch = Structures.from_atoms([NAMED[name]])
    assert_same(split(batch, neighbour_list(batch, CUTOFF))[0], of_ase(NAMED[name]))


def test_edges_of_a_mixed_batch_are_those_of_ase() -> None:
    batch = Structures.from_atoms(RANDOM)
    for atoms, got in zip(RANDOM, split(batch, neighbour_list(batch, CUTOFF)), strict=True):
        assert_same(got, of_ase(atoms))


def test_edges_and_triplets_are_those_of_mattersim() -> None:
    require_mattersim()
    # Later releases have it in another module, and build its lists in another way.
    own = pytest.importorskip("mattersim.datasets.utils.convertor")

    # With atoms a thousand cells away its list fills the memory; the last kind is not for it.
    crystals = [*NAMED.values(), *(a for seed, a in enumerate(RANDOM) if seed % 8 != 7)]
    batch = Structures.from_atoms(crystals)
    found = neighbour_list(batch, CUTOFF)
    lengths = torch.linalg.vector_norm(edge_vectors(batch, found), dim=1)
    pairs = triplets(found.edges, lengths <= THREEBODY)
    ntriplets = torch.bincount(
        batch.structure_of_atom[found.edges[0, pairs[:, 0]]], minlength=len(batch)
    )
    converter = own.GraphConvertor("m3gnet", CUTOFF, True, THREEBODY)
    for atoms, got, n in zip(crystals, split(batch, found), ntriplets.tolist(), strict=True):
        i, j, offsets, _ = own.get_fixed_radius_bonding(atoms, CUTOFF)
        assert_same(got, keyed(atoms, i, j, offsets))
        assert converter.convert(atoms.copy()).num_three_body == n


@pytest.mark.reference
def test_edges_of_generated_crystals_are_those_of_ase(reference_data: Path) -> None:
    crystals = read(reference_data / "generated" / "mix-1000.extxyz", index="::4")
    crystals += [atoms.repeat(2) for atoms in crystals[::25]]
    batch = Structures.from_atoms(crystals)
    for atoms, got in zip(crystals, split(batch, neighbour_list(batch, CUTOFF)), strict=True):
        assert_same(got, of_ase(atoms))


@pytest.mark.parametrize("cutoff", [0.5, 2.0, 9.0])
def test_other_cutoffs(cutoff: float) -> None:
    crystals = [atoms for seed, atoms in enumerate(RANDOM[:24]) if seed % 8 != 1]
    batch = Structures.from_atoms(crystals)
    for atoms, got in zip(crystals, split(batch, neighbour_list(batch, cutoff)), strict=True):
        assert_same(got, of_ase(atoms, cutoff), cutoff)


def test_a_structure_has_the_same_list_alone_and_in_a_batch() -> None:
    crystals = [*NAMED.values(), *RANDOM[:40]]
    batch = Structures.from_atoms(crystals)
    together = neighbour_list(batch, CUTOFF)
    vectors = edge_vectors(batch, together)
    begin = 0
    for index in range(len(batch)):
        single = batch.part(index, index + 1)
        alone = neighbour_list(single, CUTOFF)
        part = slice(begin, begin + alone.nedges)
        assert torch.equal(together.edges[:, part] - batch.first_atom[index], alone.edges)
        assert torch.equal(together.offsets[part], alone.offsets)
        torch.testing.assert_close(vectors[part], edge_vectors(single, alone), rtol=0, atol=1e-13)
        begin = part.stop
    assert begin == together.nedges


@pytest.mark.usefixtures("small_chunks")
def test_chunks_change_nothing() -> None:
    batch = Structures.from_atoms([*NAMED.values(), *RANDOM[:40]])
    chunked = neighbour_list(batch, CUTOFF)
    module.CHUNK_DISTANCES["cpu"] = 2**20
    whole = neighbour_list(batch, CUTOFF)
    assert torch.equal(chunked.edges, whole.edges)
    assert torch.equal(chunked.offsets, whole.offsets)


def test_edges_are_sorted_by_centre_then_neighbour() -> None:
    centre, neighbour = neighbour_list(Structures.from_atoms(RANDOM[:40]), CUTOFF).edges
    key = centre * 10_000 + neighbour
    assert (key[1:] >= key[:-1]).all()


def test_every_edge_has_its_reverse() -> None:
    batch = Structures.from_atoms([*NAMED.values(), *RANDOM])
    for got in split(batch, neighbour_list(batch, CUTOFF)):
        assert {(j, i, -a, -b, -c) for i, j, a, b, c in got} == got.keys()


def test_whole_lattice_vectors_change_offsets_only() -> None:
    rng = np.random.default_rng(1)
    crystals = [*NAMED.values(), *RANDOM[:48]]
    batch = Structures.from_atoms(crystals)
    shifts = torch.from_numpy(rng.integers(-5, 6, batch.positions.shape).astype(float))
    moved = Structures(
        batch.numbers,
        batch.positions + torch.einsum("ai,aij->aj", shifts, batch.cells[batch.structure_of_atom]),
        batch.cells,
        batch.structure_of_atom,
        batch.first_atom,
    )
    before, after = neighbour_list(batch, CUTOFF), neighbour_list(moved, CUTOFF)
    back = after.offsets + shifts[after.edges[1]] - shifts[after.edges[0]]
    same = split(batch, NeighbourList(after.edges, back, after.counted))
    for got, expected in zip(same, split(batch, before), strict=True):
        assert_same(got, expected)


def test_a_common_translation_changes_no_vector() -> None:
    batch = Structures.from_atoms([*NAMED.values(), *RANDOM[:48]])
    moved = Structures(
        batch.numbers,
        batch.positions + torch.tensor([0.7, -3.1, 11.3], dtype=torch.float64),
        batch.cells,
        batch.structure_of_atom,
        batch.first_atom,
    )
    for got, expected in zip(
        split(moved, neighbour_list(moved, CUTOFF)),
        split(batch, neighbour_list(batch, CUTOFF)),
        strict=True,
    ):
        assert_same(got, expected)


def test_vectors_to_atoms_far_outside_agree_with_each_other() -> None:
    """The place of such an atom is only known to its rounding, but all its edges mean one place."""
    atoms = NAMED["skewed"] + Atoms("He", [(0.7, 0.3, 0.1)])
    atoms.positions[1] += np.array([100_003, -70_001, 30_011]) @ atoms.cell[:]
    rounding = np.spacing(np.abs(atoms.positions).max())
    batch = Structures.from_atoms([atoms])
    found = neighbour_list(batch, CUTOFF)
    between = (found.edges[0] == 0) & (found.edges[1] == 1)
    vectors = edge_vectors(batch, found)[between].numpy()
    offsets = found.offsets[between].numpy()
    steps = (offsets - offsets[0]) @ atoms.cell[:]
    np.testing.assert_allclose(vectors - vectors[0], steps, rtol=0, atol=1e-13)
    exact = atoms.positions.astype(np.longdouble)
    exact = exact[1] - exact[0] + offsets.astype(np.longdouble) @ atoms.cell[:]
    np.testing.assert_allclose(vectors, exact.astype(float), rtol=0, atol=4 * rounding)


def test_gradients_pass_through_vectors() -> None:
    batch = Structures.from_atoms(RANDOM[:8])
    found = neighbour_list(batch, 3.0)
    positions = batch.positions.clone().requires_grad_()
    cells = batch.cells.clone().requires_grad_()
    live = Structures(batch.numbers, positions, cells, batch.structure_of_atom, batch.first_atom)
    edge_vectors(live, found).square().sum().backward()
    vectors = edge_vectors(batch, found)
    by_atom = torch.zeros_like(batch.positions)
    by_atom.index_add_(0, found.edges[1], 2 * vectors).index_add_(0, found.edges[0], -2 * vectors)
    torch.testing.assert_close(positions.grad, by_atom, rtol=0, atol=1e-10)
    by_cell = torch.zeros_like(batch.cells)
    outer = 2 * found.offsets[:, :, None] * vectors[:, None]
    by_cell.index_add_(0, batch.structure_of_atom[found.edges[0]], outer)
    torch.testing.assert_close(cells.grad, by_cell, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("off", [-1e-7, -1e-9, 0.0, 1e-9, 9.9e-9, 1.01e-8, 2e-8, 1e-7])
def test_the_tolerance_at_the_cutoff(off: float) -> None:
    """Lengths of A are known to 1e-14 A: 1e-10 on either side of the limit is decidable."""
    batch = Structures.from_atoms([bulk("Po", "sc", a=CUTOFF + off), bulk("Po", "sc", a=4.0)])
    here = neighbour_list(batch, CUTOFF).edges[0] == 0
    assert int(here.sum()) == (6 if off < LENGTH_TOLERANCE else 0)


def test_nobody_has_neighbours() -> None:
    batch = Structures.from_atoms([NAMED["alone"], NAMED["alone"]])
    found = neighbour_list(batch, CUTOFF)
    assert found.edges.shape == (2, 0)
    assert found.offsets.shape == (0, 3)
    assert edge_vectors(batch, found).shape == (0, 3)
    assert triplets(found.edges, torch.zeros(0, dtype=torch.bool)).shape == (0, 2)


def broken_crystals() -> list[Atoms]:
    crystals = []
    for seed, number in ((0, np.nan), (0, np.inf), (0, -np.inf), (0, 1e300), (1, np.nan)):
        atoms = random_crystal(seed)
        atoms.positions[0, 1] = number
        crystals.append(atoms)
    flat, almost_flat, not_finite, nothing = (random_crystal(seed) for seed in (6, 8, 14, 16))
    flat.cell[2] = flat.cell[1]
    almost_flat.cell[2] = almost_flat.cell[0] + [0.0, 1e-9, 0.0]
    not_finite.cell[1, 1] = np.nan
    nothing.cell[:] = 0.0
    thin = Atoms("He", cell=np.diag([1e-4, 4.0, 4.0]), pbc=True)
    return [*crystals, flat, almost_flat, not_finite, nothing, thin]


def test_broken_structures_do_not_touch_the_others() -> None:
    good = [NAMED["skewed"], RANDOM[8], *RANDOM[:8]]
    mixed = [atoms for pair in zip(good, broken_crystals(), strict=True) for atoms in pair]
    batch = Structures.from_atoms(mixed)
    assert neighbour_list(batch, CUTOFF).counted.tolist() == [True, False] * len(good)
    alone = Structures.from_atoms(good)
    got = split(batch, neighbour_list(batch, CUTOFF))
    assert got[::2] == split(alone, neighbour_list(alone, CUTOFF))
    assert not any(got[1::2])
    for atoms in broken_crystals():
        single = Structures.from_atoms([atoms])
        assert neighbour_list(single, CUTOFF).nedges == 0
        assert not neighbour_list(single, CUTOFF).counted[0]


def test_all_ordinary_structures_are_countable() -> None:
    assert neighbour_list(Structures.from_atoms([*NAMED.values(), *RANDOM]), CUTOFF).counted.all()


@pytest.mark.parametrize("name", ["tiny", "skewed", "alone", "left-handed", "crowded corner"])
def test_triplets_are_all_pairs_of_short_edges_of_an_atom(name: str) -> None:
    batch = Structures.from_atoms([NAMED["long"], NAMED[name]])
    found = neighbour_list(batch, CUTOFF)
    short = torch.linalg.vector_norm(edge_vectors(batch, found), dim=1) <= 2.6
    expected = []
    for atom in range(batch.first_atom[-1]):
        edges = torch.nonzero((found.edges[0] == atom) & short).flatten()
        expected += list(itertools.permutations(edges.tolist(), 2))
    got = triplets(found.edges, short)
    assert sorted(map(tuple, got.tolist())) == sorted(expected)
    assert (torch.diff(got[:, 0]) >= 0).all()


def displaced(atoms: Atoms, ncopies: int, length: float, seed: int = 0) -> DisplacedCopies:
    """Copies with one atom displaced along a lattice vector or a random direction."""
    rng = np.random.default_rng(seed)
    directions = np.where(
        rng.random(ncopies)[:, None] < 0.5,
        rng.choice([-1.0, 1.0], (ncopies, 1)) * atoms.cell[:][rng.integers(0, 3, ncopies)],
        rng.normal(size=(ncopies, 3)),
    )
    directions *= length / np.linalg.norm(directions, axis=1)[:, None]
    return DisplacedCopies(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell[:],
        rng.integers(0, len(atoms), ncopies),
        directions,
    )


def structures_of(copies: DisplacedCopies, first: int, end: int) -> list[Atoms]:
    result = []
    for atom, displacement in zip(
        copies.atoms[first:end], copies.displacements[first:end], strict=True
    ):
        positions = copies.positions.copy()
        positions[atom] += displacement
        result.append(Atoms(copies.numbers, positions, cell=copies.cell, pbc=True))
    return result


def assert_same_as_fresh(graph: CopiesGraph, structures: list[Atoms]) -> None:
    """Edge for edge: the same pairs of atoms with the same vectors, counted."""
    batch = Structures.from_atoms(structures)
    assert torch.equal(graph.numbers, batch.numbers)
    assert (torch.diff(graph.edges[0]) >= 0).all()
    fresh = neighbour_list(batch, CUTOFF)
    assert graph.edges.shape == fresh.edges.shape
    got, expected = (
        np.column_stack([edges.T.numpy(), vectors.numpy()])
        for edges, vectors in (
            (graph.edges, graph.vectors),
            (fresh.edges, edge_vectors(batch, fresh)),
        )
    )
    # Vectors of one pair of atoms are lattice vectors apart: rounding cannot change their order.
    got, expected = (x[np.lexsort(np.round(x[:, ::-1], 6).T + 0.0)] for x in (got, expected))
    np.testing.assert_array_equal(got[:, :2], expected[:, :2])
    np.testing.assert_allclose(got[:, 2:], expected[:, 2:], rtol=0, atol=1e-12)


SUPERCELLS = {
    "NaCl": bulk("NaCl", "rocksalt", a=5.64).repeat(2),
    "Si": bulk("Si").repeat(2),
    "tiny": bulk("Po", "sc", a=2.1),
    "one image": bulk("Cu", a=3.7).repeat((1, 1, 2)),
    "outside": RANDOM[6].repeat((2, 1, 1)),
    "skewed": RANDOM[2],
    "long": RANDOM[4],
}


@pytest.mark.parametrize("length", [0.01, 0.4])
@pytest.mark.parametrize("name", SUPERCELLS)
def test_copies_have_the_edges_of_fresh_lists(name: str, length: float) -> None:
    copies = displaced(SUPERCELLS[name], 9, length)
    shared = share_list(copies, CUTOFF)
    graph = displaced_edges([(shared, copies, 0, 9)], CUTOFF)
    assert_same_as_fresh(graph, structures_of(copies, 0, 9))
    perfect = Structures.from_atoms([SUPERCELLS[name]])
    assert shared.cost == neighbour_list(perfect, CUTOFF).nedges


# Shells at a, sqrt(2) a and sqrt(3) a of a simple cubic crystal. The limit is at 1e-8 A beyond
# the cutoff: what lies nearer to it than 1e-11 A would be decided by rounding, and is not asked.
@pytest.mark.parametrize("off", [-1e-9, 0.0, 1e-9, 1e-8 - 1e-10, 1e-8 + 1e-10, 0.005, 0.01])
@pytest.mark.parametrize("shell", [1.0, 2.0, 3.0, 4.0])
def test_a_shell_at_the_cutoff_is_decided_as_by_fresh_lists(shell: float, off: float) -> None:
    atoms = bulk("Po", "sc", a=(CUTOFF + off) / np.sqrt(shell)).repeat(2)
    copies = displaced(atoms, 8, 0.01, seed=3)
    graph = displaced_edges([(share_list(copies, CUTOFF), copies, 0, 8)], CUTOFF)
    assert_same_as_fresh(graph, structures_of(copies, 0, 8))


def test_copies_of_several_crystals_follow_each_other() -> None:
    sets = [displaced(atoms, 6, 0.01, i) for i, atoms in enumerate(SUPERCELLS.values())]
    parts = [
        (share_list(copies, CUTOFF), copies, i % 3, 6 - i % 2) for i, copies in enumerate(sets)
    ]
    parts.append(parts[0])
    structures = [atoms for _, *where in parts for atoms in structures_of(*where)]
    assert_same_as_fresh(displaced_edges(parts, CUTOFF), structures)


def test_lists_may_be_used_again() -> None:
    copies = displaced(SUPERCELLS["NaCl"], 4, 0.01)
    shared = share_list(copies, CUTOFF)
    before = shared.edges.clone(), shared.vectors.clone()
    first, second = (displaced_edges([(shared, copies, 1, 4)] * 2, CUTOFF) for _ in range(2))
    assert torch.equal(first.edges, second.edges)
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(shared.edges, before[0])
    assert torch.equal(shared.vectors, before[1])


def test_a_supercell_too_flat_for_a_list_is_refused() -> None:
    """Without neighbours all its forces would be zero, and the crystal stable."""
    flat = Atoms("Si2", [(0, 0, 0), (1, 1, 1e-6)], cell=np.diag([3.0, 3.0, 1e-5]), pbc=True)
    with pytest.raises(UnsuitableError, match="too flat"):
        share_list(displaced(flat, 2, 0.01, 0), CUTOFF)
