r"""Ising model in a transverse and a longitudinal field,

    H = -J sum_<ij> Z_i Z_j - h sum_i X_i - g sum_i Z_i.

Pauli matrices, not spin operators: Z = 2 S^z has the values -1 and 1. Each bond <ij> of the lattice counts once; a ring
of two sites has one bond. J > 0 is ferromagnetic; energies are in units of J when J = 1. The infinite chain is critical
at h = |J|. On an antiperiodic boundary every crossing changes the sign of J (Z, not X, changes sign there).

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

from nqs.hamiltonians.couplings import signed_sum
from nqs.hilbert import HilbertSpace, spins
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True)
class Ising:
    """Spins 1/2 with Ising interactions in a tilted field on a lattice.

    Args:
        lattice: sites and bonds.
        h: transverse field.
        J: coupling of nearest neighbours, ferromagnetic for J > 0.
        g: longitudinal field; a positive one favours spin up.

    Raises:
        ValueError: a lattice with an ambiguous antiperiodic boundary.
    """

    lattice: Lattice
    _: KW_ONLY
    h: float
    J: float = 1.0
    g: float = 0.0

    def __post_init__(self) -> None:
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
        """One flip of each spin."""
        return self.lattice.n_sites if self.h else 0

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are negative, so that the ground state can be chosen positive."""
        return self.h >= 0

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """-J sum_<ij> Z_i Z_j - g sum_i Z_i."""
        i, j, signs = (t.to(n.device) for t in self._bonds)
        z = 2 * n.double() - 1
        energy = -self.J * ((z[:, i] * z[:, j]) @ signs)
        if self.g:
            energy = energy - self.g * z.sum(1)
        return energy

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """Each spin flipped alone; h = 0 flips none."""
        B, L = n.shape
        flips = torch.eye(L, dtype=torch.uint8, device=n.device)  # (flips, L)
        if not self.h:
            flips = flips[:0]
        n_prime = (n[:, None] ^ flips).flatten(0, 1)  # (K, L)
        parents = torch.arange(B, device=n.device).repeat_interleave(len(flips))
        return Connected(n_prime, torch.full((len(parents),), -self.h, dtype=torch.float64, device=n.device), parents)

    @cached_property
    def _bonds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sites i and j of each bond, and its sign at the boundary."""
        i, j = self.lattice.bonds().T
        return i, j, self.lattice.signs()

    def __str__(self) -> str:
        terms = [(-self.J, "sum_<ij> Z_i Z_j"), (-self.h, "sum_i X_i"), (-self.g, "sum_i Z_i")]
        return f"Ising, H = {signed_sum(terms)}, Pauli matrices, {self.lattice}"

    __repr__ = __str__
