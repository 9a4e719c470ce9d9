r"""Messages of NequIP's kind along edges, and their sums on atoms, with a gradient by hand.

Features of atoms are channels :math:`x_{lmu}` of the degrees :math:`l` of the spherical harmonics.
The message along an edge of direction :math:`\hat r` is, for each path
:math:`p = (l_1, l_2 \to l)` and channel :math:`u`,

.. math::

   M_{plmu} = w_{pu}(r) \sqrt{2l+1} \sum_{m_1 m_2}
       C^{l_1 l_2 l}_{m_1 m_2 m} \, x_{l_1 m_1 u} \, Y_{l_2 m_2}(\hat r)

with the real Wigner 3j symbols :math:`C`. The sum over :math:`m_2` does not depend on the channel:
it is one product of the harmonics with a constant table for all paths that begin with the same
:math:`l_1`, and the sum over :math:`m_1` is then one small matrix product for each edge. Channels
come last.

The messages are the largest arrays of a pass by far, some 5,000 numbers for an edge and layer. They
are formed, multiplied and summed for a few hundred edges at a time, so that they stay in a CPU's
cache, and are formed again for the gradient instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

# Numbers of the messages of one piece; 4 bytes each in single precision.
PIECE = {"cpu": 2**18, "cuda": 2**26}


@dataclass(frozen=True, eq=False)
class Branch:
    """The paths that begin with one set of channels.

    Attributes
    ----------
    table : Tensor, shape (nharmonics, nrows * components)
        From harmonics to the matrices (nrows, components) that act on the features.
    channels : int
        How many.
    rows : tuple of tuple of int
        For each path where its output belongs, its first row, and the one after the last.
    """

    table: torch.Tensor
    channels: int
    rows: tuple[tuple[int, int, int], ...]

    @property
    def nrows(self) -> int:
        """Return the rows of all paths."""
        return self.rows[-1][2]


def make_branch(
    degree: int,
    channels: int,
    paths: Sequence[tuple[int, int, int]],
    lmax: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Branch:
    """Make the table of the paths that begin with channels of a degree.

    Parameters
    ----------
    degree, channels : int
        The degree, and how many channels of it.
    paths : sequence of tuple of int
        Of each the degree of the harmonics, the degree of the output, and where that belongs.
    lmax : int
        Highest degree of the harmonics.
    device : torch.device
        Where the table is put.
    dtype : torch.dtype
        In which precision.

    Raises
    ------
    ImportError
        If e3nn is not installed.
    """
    from e3nn import o3

    blocks, rows, nrows = [], [], 0
    for edge, out, place in paths:
        symbols = o3.wigner_3j(degree, edge, out, dtype=torch.float64)
        block = torch.zeros((lmax + 1) ** 2, 2 * out + 1, 2 * degree + 1, dtype=torch.float64)
        block[edge**2 : (edge + 1) ** 2] = symbols.permute(1, 2, 0) * (2 * out + 1) ** 0.5
        blocks.append(block)
        rows.append((place, nrows, nrows + 2 * out + 1))
        nrows += 2 * out + 1
    table = torch.cat(blocks, dim=1).flatten(1).to(device, dtype)
    return Branch(table, channels, tuple(rows))


def summed_messages(
    branch: Branch,
    x: torch.Tensor,
    harmonics: torch.Tensor,
    factors: torch.Tensor,
    centre: torch.Tensor,
    neighbour: torch.Tensor,
) -> torch.Tensor:
    """Sum the messages of a branch over the edges of each atom.

    Parameters
    ----------
    branch : Branch
        The products.
    x : Tensor, shape (natoms, components, channels)
        Features that the branch begins with.
    harmonics : Tensor, shape (nedges, nharmonics)
        Of the directions of the edges.
    factors : Tensor, shape (nedges, npaths * channels)
        Radial weights, of one path after the other.
    centre, neighbour : Tensor, shape (nedges,)
        Where messages go, and where they come from.

    Returns
    -------
    Tensor, shape (natoms, nrows, channels)
        It can be differentiated twice by ``x``, ``harmonics`` and ``factors``.
    """
    turns = (harmonics @ branch.table).unflatten(1, (branch.nrows, x.shape[1]))
    factors = factors.unflatten(1, (-1, branch.channels))
    found = _Summed.apply(branch, x, turns, factors, centre, neighbour)
    return cast("torch.Tensor", found)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        branch: Branch,
        x: torch.Tensor,
        turns: torch.Tensor,
        factors: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        ctx.branch = branch
        ctx.save_for_backward(x, turns, factors, centre, neighbour)
        sums = x.new_zeros(len(x), branch.nrows, branch.channels)
        for piece in _pieces(branch, len(centre), x.device):
            messages = turns[piece] @ x.index_select(0, neighbour[piece])
            _multiply(branch, messages, factors[piece])
            sums.index_add_(0, centre[piece], messages)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        branch: Branch = ctx.branch
        x, turns, factors, centre, neighbour = ctx.saved_tensors
        if torch.is_grad_enabled():
            # It is to be differentiated again.
            sums = _in_one_piece(branch, x, turns, factors, centre, neighbour)
            varied = [one for one in (x, turns, factors) if one.requires_grad]
            found = iter(torch.autograd.grad(sums, varied, gradient, create_graph=True))
            ours = (next(found) if one.requires_grad else None for one in (x, turns, factors))
            return None, *ours, None, None
        by_x, by_turns, by_factors = map(torch.zeros_like, (x, turns, factors))
        for piece in _pieces(branch, len(centre), x.device):
            along = gradient.index_select(0, centre[piece])
            there = x.index_select(0, neighbour[piece])
            products = (turns[piece] @ there).mul_(along)
            for place, (_, first, end) in enumerate(branch.rows):
                torch.sum(products[:, first:end], 1, out=by_factors[piece, place])
            _multiply(branch, along, factors[piece])
            by_turns[piece] = along @ there.transpose(1, 2)
            by_x.index_add_(0, neighbour[piece], turns[piece].transpose(1, 2) @ along)
        return None, by_x, by_turns, by_factors, None, None


def _pieces(branch: Branch, nedges: int, device: torch.device) -> Iterator[slice]:
    size = max(1, PIECE.get(device.type, PIECE["cuda"]) // (branch.nrows * branch.channels))
    return (slice(first, first + size) for first in range(0, nedges, size))


def _multiply(branch: Branch, messages: torch.Tensor, factors: torch.Tensor) -> None:
    for place, (_, first, end) in enumerate(branch.rows):
        messages[:, first:end].mul_(factors[:, place, None])


def _in_one_piece(
    branch: Branch,
    x: torch.Tensor,
    turns: torch.Tensor,
    factors: torch.Tensor,
    centre: torch.Tensor,
    neighbour: torch.Tensor,
) -> torch.Tensor:
    """Do the same with steps that torch can differentiate."""
    messages = turns @ x.index_select(0, neighbour)
    by_row = [
        factors[:, place, None].expand(-1, end - first, -1)
        for place, (_, first, end) in enumerate(branch.rows)
    ]
    sums = x.new_zeros(len(x), branch.nrows, branch.channels)
    return sums.index_add(0, centre, messages * torch.cat(by_row, dim=1))
