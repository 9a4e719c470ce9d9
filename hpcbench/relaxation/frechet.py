"""The cell as the exponential of a matrix: the degrees of freedom of ASE's ``FrechetCellFilter``.

A cell (rows) is its reference cell times the transpose of a deformation F = exp(U); atoms move
with it. The optimiser moves U, multiplied by the number of atoms to give it the scale of positions,
and the atoms' positions in the reference cell. For positions in a reference cell see E. B. Tadmor,
G. S. Smith, N. Bernstein and E. Kaxiras, Phys. Rev. B 59, 235 (1999).
"""

from __future__ import annotations

import torch

# With 16 = 2^4 a matrix of norm 8 has terms beyond the 14th below 1e-16. A crystal whose U is
# larger (a factor of e^8 in a length) has flown apart long before.
SQUARINGS = 4
DEGREE = 14


def exponential(matrices: torch.Tensor) -> torch.Tensor:
    """Return exponentials of matrices, shape (n, k, k), by scaling, Taylor series and squaring.

    The degree is fixed: ``torch.matrix_exp`` chooses it by the norm of each matrix, which makes it
    wait for the device several times.
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
    """Return minus the derivative of the energy (or enthalpy) by U, in eV, shape (n, 3, 3).

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
    # L is linear, so the gradients are scaled to one to keep the precision of the exponential.
    size = gradients.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    blocks = logarithms.new_zeros(len(logarithms), 6, 6)
    blocks[:, :3, :3] = blocks[:, 3:, 3:] = logarithms.mT
    blocks[:, :3, 3:] = gradients / size
    return exponential(blocks)[:, :3, 3:] * size


def volumes(cells: torch.Tensor) -> torch.Tensor:
    """Return the volumes in A^3 of cells of either handedness, shape (n, 3, 3) to (n,)."""
    a, b, c = cells.unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(1).abs()
