"""Exact diagonalisation: the sparse matrix of a Hamiltonian in its sector, and its lowest eigenstates.

The matrix comes from the Hamiltonian's own diagonal and connected configurations, in the lexicographic basis of its
Hilbert space; scipy's Lanczos (ARPACK) finds the lowest states.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from nqs.notebook import html_table
from nqs.protocols import Hamiltonian

MAX_DIMENSION = 5_000_000
DENSE_DIMENSION = 64  # below this ARPACK has no room, and dense diagonalisation is immediate
ROWS = 2**15  # matrix rows built at once


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
    rows, columns, elements = [], [], []
    for start in range(0, hilbert.dimension, ROWS):
        n = hilbert.configurations(start, min(start + ROWS, hilbert.dimension))
        diagonal, connected = hamiltonian.diagonal(n), hamiltonian.connected(n)
        index = torch.arange(start, start + len(n))
        rows += [index, index[connected.parents]]
        columns += [index, hilbert.rank(connected.configurations)]
        elements += [diagonal.to(connected.elements.dtype), connected.elements]
    shape = (hilbert.dimension, hilbert.dimension)
    coordinates = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return sparse.coo_array((torch.cat(elements).numpy(), coordinates), shape=shape).tocsr()


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
    random = np.random.default_rng(0)  # ARPACK's own start vector is not reproducible

    def lowest(lifted: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        # All levels are shifted below zero: ARPACK's tolerance is relative, and a level at 0 would never converge.
        def apply(x: np.ndarray) -> np.ndarray:
            y = matrix @ x - 2 * bound * x
            return y if lifted is None else y + 4 * bound * lifted * np.vdot(lifted, x)

        start = random.standard_normal(matrix.shape[0])
        operator = LinearOperator(matrix.shape, matvec=apply, dtype=matrix.dtype)
        energies, states = eigsh(operator, k=1, which="SA", v0=start, tol=1e-13)
        return float(energies[0]) + 2 * bound, states[:, 0]

    ground, state = lowest()
    excited, _ = lowest(state)
    return np.array([ground, max(ground, excited)]), state[:, None]
