"""The cell as the exponential of a matrix: the degrees of freedom of ASE's FrechetCellFilter.

A cell (rows) is its reference cell times the transpose of a deformation F = exp(U); atoms move
with it. The optimiser moves U, times the number of atoms to make it of the size of a position,
and the atoms' positions in the reference cell. See E. B. Tadmor, G. S. Smith, N. Bernstein and
E. Kaxiras, Phys. Rev. B 59, 235 (1999) for positions in a reference cell.
"""

from __future__ import annotations

import torch

# With 16 = 2^4 a matrix of norm 8 has terms beyond the 14th below 1e-16. A crystal whose U is
# larger (a factor of e^8 in a length) has flown apart long before.
SQUARINGS = 4
DEGREE = 14


def exponential(matrices: torch.Tensor) -> torch.Tensor:
    """Exponentials of small matrices, shape (n, k, k), by scaling, Taylor series and squaring.

    ``torch.matrix_exp`` chooses its degree by the norm of each matrix, for which it waits for
    the device several times; here the degree is fixed.
    """
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    scaled = matrices / 2**SQUARINGS
    result = identity + scaled / DEGREE
    for degree in range(DEGREE - 1, 0, -1):
        result = identity + scaled @ result / degree
    for _ in range(SQUARINGS):
        result = result @ result
    return result


def cell_forces(
    logarithms: torch.Tensor, inverse_deformations: torch.Tensor, virials: torch.Tensor
) -> torch.Tensor:
    """Minus the derivative of the energy (enthalpy) by U, in eV.

    With F = exp(U), the derivative by F is the virial times the inverse of F transposed, and
    the derivative by U follows by the adjoint of the exponential's Frechet derivative L, which
    is L(U transposed, .). L(A, E) is the upper right block of exp([[A, E], [0, A]])
    (R. Mathias, SIAM J. Matrix Anal. Appl. 17, 610 (1996)).

    Parameters
    ----------
    logarithms : Tensor, shape (n, 3, 3)
        U.
    inverse_deformations : Tensor, shape (n, 3, 3)
        exp(-U).
    virials : Tensor, shape (n, 3, 3)
        Minus volume times (stress plus pressure), in eV.
    """
    gradients = virials @ inverse_deformations.mT
    # L is linear: brought to the size of one, the block has no influence on the precision.
    size = gradients.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    blocks = logarithms.new_zeros(len(logarithms), 6, 6)
    blocks[:, :3, :3] = blocks[:, 3:, 3:] = logarithms.mT
    blocks[:, :3, 3:] = gradients / size
    return exponential(blocks)[:, :3, 3:] * size


def volumes(cells: torch.Tensor) -> torch.Tensor:
    """Volumes in A^3 of cells of either handedness, shape (n, 3, 3) to (n,)."""
    a, b, c = cells.unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(1).abs()
