"""Lanczos iteration for the lowest eigenvalue and eigenvector of a Hermitian matrix."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

CHECK_EVERY = 5  # Lanczos steps
MAX_LANCZOS = 20_000


def lanczos(
    apply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    dtype: np.dtype,
    tolerance: float,
    *,
    vector: bool = True,
) -> tuple[float, np.ndarray]:
    """Lowest eigenvalue and eigenvector of a Hermitian matrix, of which only products with vectors are known.

    Three-term recurrence without reorthogonalisation: rounding repeats eigenvalues that have converged, but leaves
    the lowest one right (Paige, Linear Algebra Appl. 34, 235 (1980)). The vector takes a second run.

    Args:
        apply: product of the matrix and a vector.
        start: vector with a share of the ground state, such as a random one.
        dtype: of the matrix.
        tolerance: length of the residual H x - E x at the end; the error of the energy is of the order of its square.
        vector: whether the eigenvector is wanted; else the start is returned in its place.

    Raises:
        RuntimeError: no convergence.
    """
    x = start.astype(dtype) / np.linalg.norm(start)
    diagonal: list[float] = []
    side: list[float] = []
    for _, alpha, beta in _krylov(apply, x):
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
    state = np.zeros_like(x)
    for coefficient, (q, _, _) in zip(states[:, 0], _krylov(apply, x), strict=False):
        state += coefficient * q
    return float(energies[0]), state / np.linalg.norm(state)


def _krylov(apply: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> Iterator[tuple[np.ndarray, float, float]]:
    """Lanczos vectors with the diagonal and the next side element of the tridiagonal matrix."""
    previous, beta = np.zeros_like(x), 0.0
    while True:
        y = apply(x)
        alpha = float(_dot(x, y).real)
        y -= alpha * x
        y -= beta * previous
        beta = float(_dot(y, y).real) ** 0.5
        yield x, alpha, beta
        previous, x = x, y / beta


def _dot(a: np.ndarray, b: np.ndarray) -> Any:
    """<a|b>, not by BLAS: its threads cost more than they give, and spin on a busy machine."""
    return np.einsum("i,i->", a.conj(), b)
