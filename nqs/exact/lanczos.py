"""Lanczos iteration for Hermitian matrices of which only products with vectors are known; numpy or torch.

The same recurrence gives the lowest eigenvector (exact diagonalisation) and an orthonormal Krylov basis (evolution in
imaginary time).
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

CHECK_EVERY = 5  # Lanczos steps
MAX_LANCZOS = 20_000

Vector = TypeVar("Vector", np.ndarray, Tensor)


def lanczos(
    apply: Callable[[Vector], Vector], start: Vector, tolerance: float, *, vector: bool = True
) -> tuple[float, Vector]:
    """Lowest eigenvalue and eigenvector.

    Three-term recurrence without reorthogonalisation: rounding errors produce copies of converged eigenvalues,
    but the lowest one stays correct (Paige, Linear Algebra Appl. 34, 235 (1980)). The vector takes a second run.

    Args:
        apply: product of the matrix and a vector.
        start: not orthogonal to the ground state, such as a random vector; of the dtype of the matrix.
        tolerance: norm of the residual H x - E x at convergence; the error of the energy is of the order of its square.
        vector: compute the eigenvector; otherwise `start` is returned in its place.

    Raises:
        RuntimeError: no convergence.
    """
    from scipy.linalg import eigh_tridiagonal  # here, because importing scipy takes time

    x = start / float(dot(start, start).real) ** 0.5
    diagonal: list[float] = []
    side: list[float] = []
    for _, alpha, beta in krylov(apply, x):
        diagonal.append(alpha)
        side.append(beta)
        if len(diagonal) % CHECK_EVERY and beta > tolerance:
            continue
        energies, states = eigh_tridiagonal(diagonal, side[:-1], select="i", select_range=(0, 0))
        if abs(beta * states[-1, 0]) < tolerance or beta < tolerance:
            break
        if len(diagonal) >= MAX_LANCZOS:
            raise RuntimeError(
                f"Lanczos did not converge in {MAX_LANCZOS:,} products with the matrix (residual "
                f"{abs(beta * states[-1, 0]):.1e}, wanted {tolerance:.1e}): is the matrix Hermitian and finite?"
            )
    if not vector:
        return float(energies[0]), start
    state = 0 * x
    for coefficient, (q, _, _) in zip(states[:, 0].tolist(), krylov(apply, x), strict=False):
        state += coefficient * q
    return float(energies[0]), state / float(dot(state, state).real) ** 0.5


def krylov(
    apply: Callable[[Vector], Vector], x: Vector, basis: Vector | None = None
) -> Iterator[tuple[Vector, float, float]]:
    """Lanczos vectors, the diagonal element and the next side element of the tridiagonal matrix.

    Args:
        apply: product of the matrix and a vector; the result is overwritten in place.
        x: the first vector, normalised.
        basis: memory for m vectors, (m, N). With it every vector is made orthogonal to all before it, and m are
            yielded; without it the recurrence has three terms and does not end.
    """
    previous, beta, m = 0 * x, 0.0, 0
    while True:
        y = apply(x)
        alpha = float(dot(x, y).real)
        if basis is None:
            y -= alpha * x
            y -= beta * previous
        else:
            basis[m] = x
            m += 1
            if m < len(basis):
                for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
                    y -= (basis[:m].conj() @ y) @ basis[:m]
        beta = float(dot(y, y).real) ** 0.5
        yield x, alpha, beta
        if basis is not None and m == len(basis):
            return
        previous, x = x, y / beta


def dot(a: Vector, b: Vector) -> Any:
    """<a|b>; for arrays not by BLAS, whose threads cost more time than they save."""
    return torch.vdot(a, b) if isinstance(a, Tensor) else np.einsum("i,i->", a.conj(), b)
