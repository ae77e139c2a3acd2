"""Imaginary-time evolution of a state vector.

exp(-tau (H - E)) |psi> from the Krylov space of H and |psi>: with the Lanczos vectors V and the tridiagonal matrix T of
H in them, it is V exp(-tau (T - E)) e_1 to an accuracy that grows faster than any power with the number of vectors
(Hochbruck and Lubich, SIAM J. Numer. Anal. 34, 1911 (1997)).
"""

# Shapes: N configurations or orbits, m Lanczos vectors.
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64, Num
from torch import Tensor

from nqs.exact.lanczos import krylov

KRYLOV = 40  # largest number of Lanczos vectors, enough for tau times the spectral width up to 100
ROUNDING = 1e-15  # relative residual at machine precision
SHORTER = 0.8  # factor on the time while the step is too long
LARGEST_EXPONENT = 300.0  # of exp(-tau (E - <H>)): its square must not overflow; such steps are far too long


class Matrix(Protocol):
    """A Hermitian matrix on the basis of a sector that is applied to vectors, such as a `SectorMatrix`."""

    @property
    def sizes(self) -> Int64[Tensor, " N"]:
        """Number of configurations of each basis state."""

    @property
    def is_real(self) -> bool: ...

    @property
    def width(self) -> float:
        """No two eigenvalues differ by more."""

    def apply(self, x: Num[Tensor, " N"]) -> Num[Tensor, " N"]: ...


def evolved(x: Num[Tensor, " N"], matrix: Matrix, time: float, max_step: float) -> tuple[float, Num[Tensor, " N"]]:
    """Change of a state by imaginary time.

    Args:
        x: the state in the basis of the matrix, normalised.
        time: tau, in inverse units of the energy.
        max_step: the time is reduced until the tangent of the rotation angle of the state is at most this.

    Returns:
        The time used, and d orthogonal to x with exp(-tau H) x = c (x + d).
    """
    vectors, alpha, beta = lanczos_vectors(x, matrix)
    energies, states = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    while time * (alpha[0] - energies[0]) > LARGEST_EXPONENT:
        time *= SHORTER
    while True:
        # expm1: small changes would be lost to rounding in exp.
        found = states @ (np.expm1(-time * (energies - alpha[0])) * states[0])
        turned = found[1:] / (1 + found[0])
        if np.linalg.norm(turned) <= max_step:
            break
        time *= SHORTER
    return time, torch.from_numpy(turned).to(vectors) @ vectors[1:]


def lanczos_vectors(x: Num[Tensor, " N"], matrix: Matrix) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Orthonormal vectors (m, N), the first is x, and diagonal (m,) and off-diagonal (m - 1,) elements of H in them."""
    dtype = x.dtype if matrix.is_real else torch.complex128
    vectors = torch.zeros((min(KRYLOV, len(x)), len(x)), dtype=dtype, device=x.device)
    alpha: list[float] = []
    beta: list[float] = []
    for _, diagonal, side in krylov(matrix.apply, x.to(dtype), vectors):
        alpha.append(diagonal)
        beta.append(side)
        if side <= ROUNDING * matrix.width:
            break
    return vectors[: len(alpha)], np.array(alpha), np.array(beta[: len(alpha) - 1])
