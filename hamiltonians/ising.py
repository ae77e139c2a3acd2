r"""Ising model in a transverse and a longitudinal field,

    H = - sum_<ij> J_ij Z_i Z_j - sum_i h_i X_i - sum_i g_i Z_i,

every coupling one number, or one for each bond or site. Pauli matrices, not spin operators: Z = 2 S^z has the values -1
and 1. Each bond <ij> of the lattice counts once; a ring of two sites has one bond. J > 0 is ferromagnetic; energies are
in units of J when J = 1. The infinite chain is critical at h = |J|. On an antiperiodic boundary every crossing changes
the sign of J (Z, not X, changes sign there).

Local state 0 is down, Z = -1, and 1 is up, Z = 1. The off-diagonal elements are -h, one for each spin flipped: for
h >= 0 the ground state is positive everywhere (Perron-Frobenius), and a wavefunction without a phase is exact, whatever
the sign of J and g and however frustrated the lattice.

Nothing diagonal in this basis is conserved. Without g the parity prod_i X_i is conserved, but it flips all spins
instead of labelling configurations, so that it defines no sector here: for small h the lowest two states, even and odd,
lie close together, and a variational state may mix them.

Pfeuty, Ann. Phys. 57, 79 (1970). Without g the same as netket.operator.Ising(hilbert, graph, h=h, J=-J), whose local
states are Z and whose J has the opposite sign, apart from antiperiodic boundaries.
"""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import (
    Coupling,
    checked_couplings,
    signed_sum,
    values,
    weighted_sum,
)
from nqs.hilbert import HilbertSpace, spins
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True)
class Ising:
    """Spins 1/2 with Ising interactions in a tilted field on a lattice.

    Args:
        lattice: sites and bonds.
        h: transverse field, one number or one for each site.
        J: coupling of nearest neighbours, ferromagnetic for J > 0, one number or one for each bond in the order of
            `lattice.bonds()`.
        g: longitudinal field, one number or one for each site; a positive one favours spin up.

    Raises:
        ValueError: numbers that are not finite, lists of the wrong length, or a lattice with an ambiguous antiperiodic
            boundary.
    """

    lattice: Lattice
    _: KW_ONLY
    h: Coupling
    J: Coupling = 1.0
    g: Coupling = 0.0

    def __post_init__(self) -> None:
        checked_couplings(self, bonds=("J",), sites=("h", "g"))
        self._bonds  # noqa: B018 - refuses an ambiguous boundary now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """All 2^L configurations: no conserved charge."""
        return spins(self.lattice.n_sites)

    @property
    def unit(self) -> str:
        return "J"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return self.lattice.bonds()

    @property
    def max_connected(self) -> int:
        """One flip of each spin in a transverse field."""
        return len(self._flips[0])

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are negative, so that the ground state can be chosen positive."""
        return bool((self._flips[1] <= 0).all())

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """-J sum_<ij> Z_i Z_j - g sum_i Z_i."""
        z = 2 * n.double() - 1
        i, j, signs = (part.to(n.device) for part in self._bonds)
        return -weighted_sum(self.J, z[:, i] * z[:, j] * signs) - weighted_sum(self.g, z)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """Each spin in a transverse field flipped alone."""
        flips, elements = (part.to(n.device) for part in self._flips)
        n_prime = (n[:, None] ^ flips).flatten(0, 1)  # (K, L)
        parents = torch.arange(len(n), device=n.device).repeat_interleave(len(flips))
        return Connected(n_prime, elements.repeat(len(n)), parents)

    @cached_property
    def _bonds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sites i and j of each bond, and its sign at the boundary."""
        i, j = self.lattice.bonds().T
        return i, j, self.lattice.signs()

    @cached_property
    def _flips(self) -> tuple[Tensor, Tensor]:
        """The spins that a field turns, as rows (flips, L), and the elements -h."""
        L = self.lattice.n_sites
        h = values(self.h, L)
        return torch.eye(L, dtype=torch.uint8)[h != 0], -h[h != 0]

    def __str__(self) -> str:
        terms = [
            (-1, self.J, "J_ij", "sum_<ij> Z_i Z_j"),
            (-1, self.h, "h_i", "sum_i X_i"),
            (-1, self.g, "g_i", "sum_i Z_i"),
        ]
        return f"Ising, H = {signed_sum(terms)}, Pauli matrices, {self.lattice}"

    __repr__ = __str__
