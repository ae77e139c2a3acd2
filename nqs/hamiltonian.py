"""Contract of Hamiltonians, with the defaults of its optional members; checked by `nqs.estimators.hamiltonian_check`.

Letters: B configurations, L sites, K connected configurations.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice


class Connected(NamedTuple):
    """Off-diagonal row entries <n|H|n'> of a batch of configurations n, in flat form, without zeros."""

    configurations: UInt8[Tensor, "K L"]  # n'
    elements: Num[Tensor, " K"]  # <n|H|n'>, float64 or complex128
    parents: Int64[Tensor, " K"]  # row of n in the batch


class Hamiltonian(Protocol):
    """A Hermitian operator on a sector; optional members are read by the functions below, which give their defaults."""

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|H|n'> != 0, on the device of n. An n' listed twice for one n counts twice."""


def lattice_of(hamiltonian: Hamiltonian) -> Lattice | None:
    """Lattice of the sites; None by default."""
    return getattr(hamiltonian, "lattice", None)


def is_stoquastic(hamiltonian: Hamiltonian) -> bool:
    """No off-diagonal element is positive or complex: the ground state can be chosen positive. False by default."""
    return bool(getattr(hamiltonian, "is_stoquastic", False))


def unit_of(hamiltonian: Hamiltonian) -> str:
    """Printed name of the energy unit; "J" by default."""
    return str(getattr(hamiltonian, "unit", "J"))


def peak_of(hamiltonian: Hamiltonian) -> UInt8[Tensor, " L"] | None:
    """The configuration around which the ground state is peaked, such as the Hartree-Fock determinant of a molecule.

    None by default: the ground state is not known to be carried by few configurations.
    """
    return getattr(hamiltonian, "peak", None)


def max_connected(hamiltonian: Hamiltonian) -> int:
    """Upper bound of the number of connected configurations of one configuration, at least 1; 4 L by default."""
    return max(1, int(getattr(hamiltonian, "max_connected", 4 * hamiltonian.hilbert.n_sites)))


def fock_of(hamiltonian: Hamiltonian) -> Callable[[np.ndarray], np.ndarray] | None:
    """Fermions whose interaction is not one of densities: F(P) = dE/dP of a determinant, without the constant.

    Densities P of all spins, (S, L, L), to as many Fock matrices; F(0) is the one-body part. None by default.
    """
    return getattr(hamiltonian, "fock", None)


class OneBodyQuantities(Protocol):
    """Named quantities constants + sum_pq matrices_pq <a+_p a_q>, (K,) and (K, L, L) for each name."""

    names: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    matrices: tuple[np.ndarray, ...]


def one_electron_of(hamiltonian: Hamiltonian) -> OneBodyQuantities | None:
    """Quantities that are measured besides the density matrix, such as a dipole moment; None by default."""
    return getattr(hamiltonian, "one_electron", None)


def sampled_elements(hamiltonian: Hamiltonian) -> int | None:
    """Elements of a configuration that enter its local energy on average, others being sampled; None (default): all.

    See nqs.estimators.sampled_elements.
    """
    return getattr(hamiltonian, "sampled_elements", None)


def marshall_exact(hamiltonian: Hamiltonian) -> bool | None:
    """Spins: whether Marshall's rule gives the exact signs; None (default): not known to apply."""
    return getattr(hamiltonian, "marshall_exact", None)


def marshall_sublattice(hamiltonian: Hamiltonian) -> tuple[int, ...] | None:
    """Sites whose local states give the sign (-1)^(their sum), 1 or 0 each: those of sublattice 1 by default.

    None without a lattice, or if it is not bipartite.
    """
    if (given := getattr(hamiltonian, "marshall_sublattice", None)) is not None:
        return tuple(given)
    try:
        return None if (lattice := lattice_of(hamiltonian)) is None else tuple(lattice.sublattices().tolist())
    except ValueError:  # not bipartite
        return None


def has_boundary_phases(hamiltonian: Hamiltonian) -> bool:
    """Hops carry phases that shift the momenta of the particles; False by default."""
    return bool(getattr(hamiltonian, "has_boundary_phases", False))


def has_total_spin(hamiltonian: Hamiltonian) -> bool:
    """Electrons: both spins have the same orbitals, and S^2 is to be measured; False by default."""
    return bool(getattr(hamiltonian, "has_total_spin", False))
