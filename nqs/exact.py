"""Exact diagonalisation: the sparse matrix of a Hamiltonian in its sector, and its lowest eigenstates.

The matrix comes from the Hamiltonian's own diagonal and connected configurations, in the lexicographic basis of its
Hilbert space; Lanczos finds the lowest states.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from nqs.notebook import html_table
from nqs.protocols import Hamiltonian

MAX_DIMENSION = 5_000_000
DENSE_DIMENSION = 64  # below this dense diagonalisation is immediate
ROWS = 2**15  # matrix rows built at once
TOLERANCE = 1e-12  # of the Lanczos residual, in units of the bound of the spectrum
CHECK_EVERY = 5  # Lanczos steps
MAX_LANCZOS = 20_000


@dataclass(frozen=True, kw_only=True)
class ExactGroundState:
    """Ground state of a Hamiltonian in its sector.

    Attributes:
        energy: E_0, in the Hamiltonian's unit.
        gap: E_1 - E_0 in the same sector, 0 for a degenerate ground state; nan in a sector of one configuration.
        state: normalised eigenvector in lexicographic order, (dimension,).
        dimension: of the sector.
        method: how it was found.
        seconds: wall time.
    """

    energy: float
    gap: float
    state: np.ndarray = field(repr=False)
    dimension: int
    method: str
    seconds: float

    def __str__(self) -> str:
        return f"exact E = {self.energy:.10f}, gap {self.gap:.6f}, dimension {self.dimension:,} ({self.method})"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = [
            ("gap", f"{self.gap:.6f}"),
            ("dimension", f"{self.dimension:,}"),
            ("method", f"{self.method}, {self.seconds:.2g} s"),
        ]
        return html_table(f"exact E = {self.energy:.10f}", rows)


def sparse_matrix(hamiltonian: Hamiltonian, max_dimension: int = MAX_DIMENSION) -> sparse.csr_array:
    """<n|H|n'> in the lexicographic basis of the sector, real if all elements are.

    Raises:
        ValueError: the sector is larger than max_dimension.
    """
    hilbert = hamiltonian.hilbert
    if hilbert.dimension > max_dimension:
        raise ValueError(
            f"exact diagonalisation of a sector of dimension {hilbert.dimension:,} is over the limit "
            f"max_dimension={max_dimension:,}: choose a smaller system or sector, or raise the limit if memory allows."
        )
    rank = _rank(hamiltonian)
    rows, columns, elements = [], [], []
    for start in range(0, hilbert.dimension, ROWS):
        n = hilbert.configurations(start, min(start + ROWS, hilbert.dimension))
        diagonal, connected = hamiltonian.diagonal(n), hamiltonian.connected(n)
        index = torch.arange(start, start + len(n))
        rows += [index, index[connected.parents]]
        columns += [index, rank(connected.configurations)]
        elements += [diagonal.to(connected.elements.dtype), connected.elements]
    shape = (hilbert.dimension, hilbert.dimension)
    # Small indices make the products with vectors faster, which read little else than the matrix.
    index_dtype = torch.int32 if hilbert.dimension < 2**31 else torch.int64
    coordinates = (torch.cat(rows).to(index_dtype).numpy(), torch.cat(columns).to(index_dtype).numpy())
    return sparse.coo_array((torch.cat(elements).numpy(), coordinates), shape=shape).tocsr()


def _rank(hamiltonian: Hamiltonian) -> Callable[[Tensor], Tensor]:
    """Lexicographic positions: by a search among all keys where these are single integers, which is faster."""
    hilbert = hamiltonian.hilbert
    if hilbert.keys(hilbert.configurations(0, 1)).shape[1] > 1:
        return hilbert.rank
    starts = range(0, hilbert.dimension, ROWS)
    keys = torch.cat(
        [hilbert.keys(hilbert.configurations(start, min(start + ROWS, hilbert.dimension)))[:, 0] for start in starts]
    )
    return lambda n: torch.searchsorted(keys, hilbert.keys(n)[:, 0])


def ground_state(hamiltonian: Hamiltonian, max_dimension: int = MAX_DIMENSION) -> ExactGroundState:
    """Lowest eigenstate and gap in the Hamiltonian's sector.

    Raises:
        ValueError: the sector is larger than max_dimension.

    >>> from nqs.hamiltonians import BoseHubbard
    >>> from nqs.lattice import chain
    >>> print(ground_state(BoseHubbard(chain(4), n_particles=4, U=4.0)))
    exact E = -3.9765130137, gap 4.006330, dimension 35 (dense)
    """
    begin = time.perf_counter()
    matrix = sparse_matrix(hamiltonian, max_dimension)
    dimension = matrix.shape[0]
    if dimension <= DENSE_DIMENSION:
        energies, states = np.linalg.eigh(matrix.toarray())
        method = "dense"
    else:
        energies, states = _two_lowest(matrix)
        method = "Lanczos"
    return ExactGroundState(
        energy=float(energies[0]),
        gap=float(energies[1] - energies[0]) if dimension > 1 else float("nan"),
        state=states[:, 0],
        dimension=dimension,
        method=method,
        seconds=time.perf_counter() - begin,
    )


def _two_lowest(matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Two lowest energies and the ground state, (2,) and (dimension, 1).

    Lanczos sees one state of a degenerate level, so the second energy comes from a run in which the ground state is
    lifted to the top of the spectrum.
    """
    bound = float(abs(matrix).sum(axis=1).max()) + 1.0  # beyond the whole spectrum (Gershgorin)
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])

    def lifted(x: np.ndarray) -> np.ndarray:
        return matrix @ x + 2 * bound * _dot(state, x) * state

    ground, state = lanczos(matrix.__matmul__, start, matrix.dtype, TOLERANCE * bound)
    excited, _ = lanczos(lifted, start[::-1], matrix.dtype, TOLERANCE * bound, vector=False)
    return np.array([ground, max(ground, excited)]), state[:, None]


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
