"""Exact diagonalisation: the sparse matrix of a Hamiltonian in its sector, and its lowest eigenstates.

The matrix comes from the Hamiltonian's own diagonal and connected configurations, in the lexicographic basis of its
Hilbert space; Lanczos finds the lowest states.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from nqs.exact.lanczos import _dot, lanczos
from nqs.exact.sector_matrix import MAX_DIMENSION, sparse_matrix
from nqs.protocols import Hamiltonian
from nqs.runtime.notebook import html_table

DENSE_DIMENSION = 64  # below this dense diagonalisation is immediate
TOLERANCE = 1e-12  # of the Lanczos residual, in units of the bound of the spectrum


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
