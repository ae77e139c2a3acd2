r"""Fermi-Hubbard model,

    H = - sum_<ij>,s t_ij (e^{i theta_ij} c+_js c_is + h.c.) - sum_<<ij>>,s t2_ij (e^{i theta_ij} c+_js c_is + h.c.)
        + sum_i U_i n_iu n_id + sum_<ij> V_ij n_i n_j + sum_i (epsilon_i - mu_i) n_i - sum_i h_i (n_iu - n_id) / 2,

every coupling one number, or one for each bond or site, with spins s = u (up), d (down), n_i = n_iu + n_id, nearest
neighbours <ij> and second neighbours <<ij>> of the lattice, each bond once; a ring of two sites has one bond. Energies
are in units of t when t = 1. U > 0 is repulsive, t2 is the t' of the literature with the same sign convention as t
(cuprates: t2 < 0), and h is the Zeeman field, -h S^z with S^z = (N_u - N_d) / 2. A twist shifts the phase of every hop
that crosses the boundary; an antiperiodic boundary is a twist by pi.

Local states: 0 empty, 1 up, 2 down, 3 both. Jordan-Wigner order: all up orbitals in the order of the sites, then all
down orbitals,

    |n> = prod_i (c+_iu)^{n_iu} prod_i (c+_id)^{n_id} |0>     (products from left to right in ascending i),

so that a hop between i < j has the sign (-1)^(electrons of the same spin strictly between i and j). On an open chain
with t > 0 no off-diagonal element is positive: its ground state can be chosen positive (Perron-Frobenius), and a
wavefunction without a phase is exact. The same holds on a ring with an odd number of electrons of each spin, and on an
antiperiodic ring with even ones.

Hubbard, Proc. R. Soc. A 276, 238 (1963). The same matrix as netket.operator.FermiHubbardJax with the same t and U:
NetKet lists the orbitals of down, then those of up, which changes no element as long as both spins are conserved.
"""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import Coupling, Numbers, checked_couplings, neighbour_energy, signed_sum, weighted_sum
from nqs.hamiltonians.jordan_wigner import (
    Hops,
    hopped,
    joined,
    lattice_hops,
    never_positive,
)
from nqs.hilbert import HilbertSpace, spinful_fermions
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected

UP, DOWN = 1, 2  # bits of the local state


@dataclass(frozen=True, repr=False)
class FermiHubbard:
    """Interacting electrons on a lattice.

    Args:
        lattice: sites, bonds and boundaries.
        n_up: conserved number of up electrons; None for all numbers (grand-canonical).
        n_down: conserved number of down electrons; None for all numbers.
        U: on-site interaction, one number or one for each site.
        t: hopping amplitude between nearest neighbours, one number or one for each bond in the order of
            `lattice.bonds()`.
        t2: hopping amplitude between second neighbours, t', one number or one for each bond of `lattice.bonds(2)`.
        V: nearest-neighbour interaction, one number or one for each bond.
        mu: chemical potential, one number or one for each site.
        h: Zeeman field, one number or one for each site.
        potential: epsilon_i, one energy per site, such as `staggered_potential(lattice, 0.5)`; None for none.
        twist: boundary phase of each direction in radians, such as (0.3,); open directions ignore theirs.

    Raises:
        ValueError: impossible electron numbers, numbers that are not finite, a potential or twist that does not fit the
            lattice, or a t2 on a lattice without second neighbours.
    """

    lattice: Lattice
    n_up: int | None
    n_down: int | None
    _: KW_ONLY
    U: Coupling
    t: Coupling = 1.0
    t2: Coupling = 0.0
    V: Coupling = 0.0
    mu: Coupling = 0.0
    h: Coupling = 0.0
    potential: Numbers | None = None
    twist: Numbers | None = None

    def __post_init__(self) -> None:
        checked_couplings(self, bonds=("t", "V"), second=("t2",), sites=("U", "mu", "h"))
        self.hilbert, self._hops  # noqa: B018 - refuses an impossible sector or hop now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector given by n_up and n_down."""
        return spinful_fermions(self.lattice.n_sites, self.n_up, self.n_down)

    @property
    def unit(self) -> str:
        return "t"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return torch.cat([self.lattice.bonds(), torch.stack(self._hops[:2], dim=1)])

    @property
    def max_connected(self) -> int:
        """For each spin, one direction of each bond."""
        return len(self._hops.source)

    @property
    def has_boundary_phases(self) -> bool:
        return self.twist is not None

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are real and negative, so that the ground state can be chosen positive."""
        others = (None if number is None else number - 1 for number in (self.n_up, self.n_down))
        return all(never_positive(self._hops, self.lattice.n_sites, number) for number in others)

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """U sum n_iu n_id + V sum_<ij> n_i n_j + sum (epsilon_i - mu) n_i - h sum (n_iu - n_id) / 2."""
        up, down = (n & UP).double(), (n >> 1).double()  # (B, L)
        x = up + down
        energy = weighted_sum(self.U, up * down) + neighbour_energy(self.lattice, self.V, x)
        energy = energy - weighted_sum(self.mu, x) - weighted_sum(self.h, up - down) / 2
        return energy + weighted_sum(self.potential, x)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """One electron hops over each bond in each direction, onto a site without one of its spin."""
        spins = [(spin, (n & spin) > 0) for spin in (UP, DOWN)]
        return joined([hopped(n, occupied, ~occupied, self._hops, spin) for spin, occupied in spins])

    @cached_property
    def _hops(self) -> Hops:
        return lattice_hops(self.lattice, (self.t, self.t2), self.twist)

    def __str__(self) -> str:
        hop = "c+_js c_is" if self.twist is None else "e^(i theta_ij) c+_js c_is"
        terms = [
            (-1, self.t, "t_ij", f"sum_<ij>,s ({hop} + h.c.)"),
            (-1, self.t2, "t2_ij", f"sum_<<ij>>,s ({hop} + h.c.)"),
            (1, self.U, "U_i", "sum_i n_iu n_id"),
            (1, self.V, "V_ij", "sum_<ij> n_i n_j"),
            (-1, self.mu, "mu_i", "sum_i n_i"),
            (-0.5, self.h, "h_i", "sum_i (n_iu - n_id)"),
            (1, float(self.potential is not None), "", "sum_i epsilon_i n_i"),
        ]
        twist = "" if self.twist is None else f", twist {self.twist}"
        up, down = ("any number of" if number is None else number for number in (self.n_up, self.n_down))
        return f"Fermi-Hubbard, H = {signed_sum(terms)}, {self.lattice}{twist}, {up} up and {down} down electrons"

    __repr__ = __str__


def staggered_potential(lattice: Lattice, strength: float) -> tuple[float, ...]:
    """epsilon_i = +strength on the sublattice of site 0, -strength on the other, for the `potential` of any family.

    Raises:
        ValueError: the lattice is not bipartite.
    """
    return tuple((strength * (1 - 2 * lattice.sublattices()).double()).tolist())
