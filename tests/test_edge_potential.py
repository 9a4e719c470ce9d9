"""Test potentials on edges with a toy model."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk

from hpcbench.errors import PotentialError
from hpcbench.potentials.edge_potential import EdgePotential
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.potentials.selftest import self_test

HYDROGEN, OXYGEN = 1, 8


class Springs:
    """Springs between atoms of hydrogen and oxygen, and of no other element."""

    cutoff = 3.0

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def __call__(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies of atoms and the gradient; one that differs by batch, with an error."""
        assert set(numbers.tolist()) <= {HYDROGEN, OXYGEN}
        energies = torch.zeros(len(numbers), dtype=torch.float64)
        energies.index_add_(0, edges[0], vectors.square().sum(1))
        return energies, 2 * vectors * (1 + self.error * len(numbers))


def of_springs(springs: Springs) -> EdgePotential:
    info = PotentialInfo(
        "springs", "", "", str(springs.error), "float64", "cpu", frozenset({HYDROGEN, OXYGEN})
    )
    return EdgePotential(springs, info, torch.device("cpu"), 1e3)


def test_a_potential_that_does_not_know_silicon_is_probed_and_tested() -> None:
    potential = of_springs(Springs())
    assert potential.capacity > 0
    assert self_test(potential) < 1e-10
    hydrogen = bulk("H", "fcc", a=2.0, cubic=True)
    hydrogen.positions[0, 0] += 0.05
    assert abs(potential.evaluate([hydrogen])[0].forces).max() > 0.01


def test_its_self_test_can_fail() -> None:
    with pytest.raises(PotentialError, match="in a batch"):
        self_test(of_springs(Springs(error=1e-3)))
