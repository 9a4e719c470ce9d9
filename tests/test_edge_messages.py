"""Messages along edges: against e3nn's tensor product, and their derivatives."""

from __future__ import annotations

import pytest
import torch

from hpcbench.potentials import edge_messages
from hpcbench.potentials.edge_messages import Branch, make_branch, summed_messages

pytestmark = pytest.mark.filterwarnings("ignore")  # e3nn's own

DEGREE, CHANNELS, LMAX = 1, 3, 2
# Degree of the harmonics, of the output, and its place; odd and even ones.
PATHS = [(0, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 3), (1, 2, 4)]
NATOMS, NEDGES = 4, 9


@pytest.fixture
def branch() -> Branch:
    pytest.importorskip("e3nn", reason="e3nn is not installed")
    cpu = torch.device("cpu")
    return make_branch(DEGREE, CHANNELS, PATHS, LMAX, cpu, torch.float64)


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(NATOMS, 2 * DEGREE + 1, CHANNELS, dtype=torch.float64)
    harmonics = torch.randn(NEDGES, (LMAX + 1) ** 2, dtype=torch.float64)
    factors = torch.randn(NEDGES, len(PATHS) * CHANNELS, dtype=torch.float64)
    centre = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3])
    neighbour = torch.tensor([1, 2, 0, 3, 3, 0, 1, 2, 3])
    return x, harmonics, factors, centre, neighbour


def test_messages_are_those_of_e3nn(branch: Branch) -> None:
    from e3nn import o3

    x, harmonics, factors, centre, neighbour = inputs()
    features = o3.Irreps([(CHANNELS, (DEGREE, 1))])
    kinds = o3.Irreps([(1, (degree, 1)) for degree in range(LMAX + 1)])
    outputs = o3.Irreps([(CHANNELS, (out, 1)) for _, out, _ in PATHS])
    torch.set_default_dtype(torch.float64)
    try:
        product = o3.TensorProduct(
            features, kinds, outputs,
            [(0, edge, place, "uvu", True) for edge, _, place in PATHS],
            shared_weights=False, internal_weights=False,
        )  # fmt: skip
        # It has the channels before the components.
        there = x.transpose(1, 2).flatten(1)[neighbour]
        messages = product(there, harmonics, factors)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = torch.zeros(NATOMS, messages.shape[1], dtype=torch.float64)
    expected.index_add_(0, centre, messages)
    found = summed_messages(branch, x, harmonics, factors, centre, neighbour)
    rows = [found[:, first:end].transpose(1, 2).flatten(1) for _, first, end in branch.rows]
    torch.testing.assert_close(torch.cat(rows, dim=1), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("piece", [1, 100, 2**18])
def test_first_and_second_derivatives(
    piece: int, branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch compares them with differences, for pieces of one edge, of some, and of all."""
    monkeypatch.setitem(edge_messages.PIECE, "cpu", piece)
    x, harmonics, factors, centre, neighbour = inputs()
    varied = [one.requires_grad_(True) for one in (x, harmonics, factors)]

    def sums(*arrays: torch.Tensor) -> torch.Tensor:
        return summed_messages(branch, *arrays, centre, neighbour)

    assert torch.autograd.gradcheck(sums, varied)
    assert torch.autograd.gradgradcheck(sums, varied)
    # Where nothing in front of it varies.
    x.requires_grad_(False)
    assert torch.autograd.gradgradcheck(lambda *rest: sums(x, *rest), varied[1:])
