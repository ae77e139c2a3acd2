"""The lowest levels of a Hamiltonian in its sector, or in one of its symmetry sectors, with their vectors."""

import time
from dataclasses import dataclass, field

import numpy as np
import torch

from nqs.exact.diagonalisation import DEGENERATE, DENSE_DIMENSION, ROUNDING, lowest_states, on_sector
from nqs.exact.sector_matrix import MAX_DIMENSION, SectorMatrix
from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian
from nqs.runtime.memory import require_memory
from nqs.symmetry.group import Symmetry

INDEPENDENT = 0.05  # least singular value of unit vectors: of two with <a|b> = 0.9975 it is 0.05
VECTOR_COPIES = 4  # of all states: found, as columns, orthonormal, rotated


@dataclass(frozen=True, kw_only=True)
class ExactLevels:
    """The k lowest eigenstates of a Hamiltonian in its sector.

    Attributes:
        energies: E_0 <= E_1 <= .., each as often as its multiplicity, (k,), in the Hamiltonian's unit. The last level
            may have members that are not among the k.
        states: orthonormal eigenvectors in lexicographic order, (k, dimension); in a symmetry sector the amplitudes of
            the normalised sums over orbits, see `full_states`.
        resolution: difference below which energies count as equal.
        dimension: of the sector; the number of orbits in a symmetry sector.
        method: "dense" or "Lanczos".
        seconds: wall time.
        symmetry: of the symmetry sector; None for the whole sector of the Hamiltonian.
    """

    energies: np.ndarray
    states: np.ndarray = field(repr=False)
    resolution: float
    dimension: int
    method: str
    seconds: float
    symmetry: Symmetry | None = field(default=None, repr=False)

    @property
    def levels(self) -> list[tuple[float, int]]:
        """Each energy once, with the number of its states among the k."""
        starts = np.flatnonzero(np.diff(self.energies, prepend=-np.inf) > self.resolution)
        sizes = np.diff(starts, append=len(self.energies))
        return [(float(self.energies[start]), int(size)) for start, size in zip(starts, sizes, strict=True)]

    def full_states(self, hilbert: HilbertSpace) -> np.ndarray:
        """The eigenvectors on all configurations of the sector in lexicographic order, (k, dimension)."""
        return np.stack([on_sector(state, self.symmetry, hilbert) for state in self.states])

    def __str__(self) -> str:
        shown = ", ".join(f"{energy:z.10f}" + (f" ({size} states)" if size > 1 else "") for energy, size in self.levels)
        orbits = "" if self.symmetry is None else f" orbits of {self.symmetry.order} symmetries"
        return f"exact E = {shown}; dimension {self.dimension:,}{orbits} ({self.method})"


def lowest(
    hamiltonian: Hamiltonian,
    n_states: int,
    max_dimension: int = MAX_DIMENSION,
    *,
    symmetry: Symmetry | None = None,
    orthogonal_to: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> ExactLevels:
    """The lowest eigenstates of a Hamiltonian in its sector.

    Dense for small sectors; else Lanczos runs, one for each state, with the states found so far shifted to the top of
    the spectrum (explicit deflation), and a Rayleigh-Ritz step in the space of all of them. Degenerate levels have all
    their members (Parlett, The Symmetric Eigenvalue Problem, sections 5.1 and 11.3).

    Args:
        n_states: k.
        max_dimension, symmetry, device, check: as in `ground_state`.
        orthogonal_to: K linearly independent vectors in lexicographic order, (K, dimension), eigenstates or not: the
            levels are those of H in their orthogonal complement, P H P with the projector P on it.

    Raises:
        ValueError: as `ground_state`; fewer than one state, or more than the dimension (of the complement); vectors
            that are not independent, or of a symmetry sector.

    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> print(lowest(Heisenberg(chain(4), total_sz=0), 2))
    exact E = -2.0000000000, -1.0000000000; dimension 6 (dense)
    """
    begin = time.perf_counter()
    matrix = SectorMatrix.of(hamiltonian, symmetry, device=device, max_dimension=max_dimension, check=check)
    known = _orthonormal(orthogonal_to, len(matrix), symmetry)
    if not 1 <= n_states <= len(matrix) - len(known):
        besides = f" besides the {len(known)} given ones" if len(known) else ""
        raise ValueError(
            f"n_states={n_states}: the sector has {len(matrix) - len(known):,} states{besides}; ask for 1 to that many."
        )
    require_memory(
        VECTOR_COPIES * n_states * len(matrix) * (8 if matrix.is_real else 16),
        f"the search for {n_states} states of dimension {len(matrix):,}",
        "ask for fewer states",
    )
    H = matrix.to_scipy()
    if len(matrix) <= DENSE_DIMENSION:
        dense = H.toarray()
        if len(known):
            complement = np.linalg.qr(known.T, mode="complete")[0][:, len(known) :]
            energies, vectors = np.linalg.eigh(complement.conj().T @ dense @ complement)
            vectors = complement @ vectors
        else:
            energies, vectors = np.linalg.eigh(dense)
        energies, vectors, method = energies[:n_states], vectors[:, :n_states], "dense"
    else:
        basis = np.linalg.qr(np.stack(lowest_states(matrix, n_states, list(known))[1], axis=1))[0]
        origin = matrix.lowest_diagonal  # a large constant in H would round the small matrix
        energies, rotation = np.linalg.eigh(basis.conj().T @ (H @ basis - origin * basis))
        energies, vectors, method = energies + origin, basis @ rotation, "Lanczos"
    return ExactLevels(
        energies=energies,
        states=np.ascontiguousarray(vectors.T),
        resolution=DEGENERATE * matrix.width + ROUNDING * abs(matrix.lowest_diagonal),
        dimension=len(matrix),
        method=method,
        seconds=time.perf_counter() - begin,
        symmetry=symmetry,
    )


def _orthonormal(vectors: np.ndarray | None, dimension: int, symmetry: Symmetry | None) -> np.ndarray:
    """An orthonormal basis of the vectors' span, (K, dimension)."""
    if vectors is None or not len(vectors):
        return np.zeros((0, dimension))
    if symmetry is not None:
        raise ValueError("orthogonal_to holds vectors of the whole sector: leave the symmetry out.")
    if vectors.shape[1:] != (dimension,):
        raise ValueError(
            f"orthogonal_to has shape {vectors.shape}: give vectors of the {dimension:,} configurations, one a row."
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.linalg.svd(vectors / norms, compute_uv=False).min() > INDEPENDENT:
        raise ValueError(f"the {len(vectors)} vectors of orthogonal_to are not linearly independent: leave some out.")
    basis: np.ndarray = np.linalg.qr(vectors.T)[0].T
    return np.ascontiguousarray(basis)
