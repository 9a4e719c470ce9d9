"""Edges and triplets against ASE and against a count by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from hpcbench.potentials.graphs import Graph, build_graph, concatenate, split_by_limits

CUTOFF, THREEBODY = 5.0, 4.0


def graph_of(atoms: Atoms) -> Graph:
    return build_graph(atoms.numbers, atoms.positions, atoms.cell[:], CUTOFF, THREEBODY)


def random_triclinic(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.0, 7.0, 3)) + rng.uniform(-2.5, 2.5, (3, 3))
    if abs(np.linalg.det(cell)) < 8:
        cell = np.diag(rng.uniform(2.5, 6.0, 3))
    natoms = int(rng.integers(1, 6))
    # Up to three cells outside on either side.
    fractional = rng.uniform(-3, 3, (natoms, 3))
    return Atoms(
        numbers=rng.integers(1, 80, natoms), cell=cell, scaled_positions=fractional, pbc=True
    )


CRYSTALS = {
    "tiny": Atoms("He", cell=np.eye(3) * 1.1, pbc=True),
    "long": Atoms("HeNe", [(0, 0, 0), (0, 0, 20.0)], cell=[2.5, 2.5, 40.0], pbc=True),
    "left-handed": Atoms("NaCl", [(0, 0, 0), (2, 2, 2)], cell=np.diag([4, 4, -4]), pbc=True),
    "skewed": Atoms("Si", cell=[[3, 0, 0], [2.9, 1.5, 0], [8.0, 4.0, 3.0]], pbc=True),
    "at the cutoff": bulk("Po", "sc", a=5.0),
    "alone": Atoms("He", cell=np.eye(3) * 12.0, pbc=True),
    **{f"triclinic {seed}": random_triclinic(seed) for seed in range(40)},
}


def edge_set(graph: Graph) -> list[tuple[float, ...]]:
    """Edges as (centre, neighbour, vector), independent of wrapping and order."""
    centre, neighbour = graph.edges
    vectors = graph.positions[neighbour] + graph.offsets @ graph.cells[0] - graph.positions[centre]
    return sorted(
        (int(i), int(j), *np.round(v, 6) + 0.0)
        for i, j, v in zip(centre, neighbour, vectors, strict=True)
    )


@pytest.mark.parametrize("name", CRYSTALS)
def test_edges_are_those_of_ase(name: str) -> None:
    atoms = CRYSTALS[name]
    graph = graph_of(atoms)
    # ASE leaves out what lies exactly at the cutoff, MatterSim keeps it.
    i, j, vectors = neighbor_list("ijD", atoms, CUTOFF + 1e-8)
    expected = sorted(
        (int(a), int(b), *np.round(v, 6) + 0.0) for a, b, v in zip(i, j, vectors, strict=True)
    )
    got = edge_set(graph)
    assert len(got) == len(expected)
    np.testing.assert_allclose(np.array(got), np.array(expected), atol=2e-6)


@pytest.mark.parametrize("name", ["tiny", "skewed", "alone", "triclinic 3", "triclinic 17"])
def test_triplets_are_all_pairs_of_short_edges_of_an_atom(name: str) -> None:
    graph = graph_of(CRYSTALS[name])
    centre, neighbour = graph.edges
    vectors = graph.positions[neighbour] + graph.offsets @ graph.cells[0] - graph.positions[centre]
    short = np.linalg.norm(vectors, axis=1) <= THREEBODY
    expected = []
    for atom in range(len(graph.numbers)):
        edges = np.flatnonzero((centre == atom) & short)
        expected += list(itertools.permutations(edges.tolist(), 2))
    assert sorted(map(tuple, graph.triplets.tolist())) == sorted(expected)
    assert (np.diff(graph.triplets[:, 0]) >= 0).all()


def test_graphs_are_those_of_mattersim() -> None:
    from mattersim.datasets.utils.convertor import GraphConvertor

    converter = GraphConvertor("m3gnet", CUTOFF, True, THREEBODY)
    for name, atoms in CRYSTALS.items():
        theirs, ours = converter.convert(atoms.copy()), graph_of(atoms)
        assert theirs.num_bonds == ours.nedges, name
        assert theirs.num_three_body == ours.ntriplets, name


def test_concatenation_offsets_atoms_edges_and_structures() -> None:
    graphs = [graph_of(CRYSTALS[name]) for name in ("skewed", "triclinic 1", "tiny")]
    together = concatenate(graphs)
    first_atom = first_edge = 0
    for index, graph in enumerate(graphs):
        of_structure = together.structure_of_atom == index
        np.testing.assert_array_equal(together.numbers[of_structure], graph.numbers)
        edges = together.edges[:, first_edge : first_edge + graph.nedges]
        np.testing.assert_array_equal(edges - first_atom, graph.edges)
        first_atom += len(graph.numbers)
        first_edge += graph.nedges
    assert together.triplets.max() < together.nedges
    # No edge joins two structures, no triplet two centres.
    a, b = together.edges
    np.testing.assert_array_equal(together.structure_of_atom[a], together.structure_of_atom[b])
    first, second = together.triplets.T
    np.testing.assert_array_equal(a[first], a[second])


def test_split_respects_limits_and_order() -> None:
    graphs = [graph_of(CRYSTALS[f"triclinic {seed}"]) for seed in range(12)]
    groups = split_by_limits(graphs, max_edges=600, max_triplets=20_000)
    assert [i for group in groups for i in group] == list(range(12))
    assert len(groups) > 1
    for group in groups:
        if len(group) > 1:
            assert sum(graphs[i].nedges for i in group) <= 600
            assert sum(graphs[i].ntriplets for i in group) <= 20_000
