r"""t-V model of spinless fermions,

    H = - sum_<ij> t_ij (e^{i theta_ij} c+_j c_i + h.c.) + sum_<ij> V_ij n_i n_j + sum_i (epsilon_i - mu_i) n_i,

every coupling one number, or one for each bond or site. Each bond <ij> of the lattice counts once; a ring of two sites
has one bond. Energies are in units of t when t = 1. V > 0 is repulsive. A twist shifts the phase of every hop that
crosses the boundary; an antiperiodic boundary is a twist by pi. On a chain the Jordan-Wigner transformation takes it to
the XXZ spin chain with J_xy = -2 t, J_z = V, a uniform field and a constant; on a ring the spins see a twist by pi
where the number of fermions is even.

Local states: 0 empty, 1 occupied. Jordan-Wigner order: the order of the sites,

    |n> = prod_i (c+_i)^{n_i} |0>     (the product from left to right in ascending i),

so that a hop between i < j has the sign (-1)^(fermions strictly between i and j). On an open chain with t > 0 no
off-diagonal element is positive: its ground state can be chosen positive (Perron-Frobenius), and a wavefunction without
a phase is exact. The same holds on a ring with an odd number of fermions, and on an antiperiodic ring with an even one.

The same matrix as these terms of netket.operator.fermion on SpinOrbitalFermions(L, n_fermions=N).
"""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import Coupling, Numbers, checked_couplings, neighbour_energy, signed_sum, weighted_sum
from nqs.hamiltonians.jordan_wigner import (
    Hops,
    hopped,
    lattice_hops,
    never_positive,
)
from nqs.hilbert import HilbertSpace, fermions
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True, repr=False)
class TV:
    """Spinless fermions that repel on nearest neighbours.

    Args:
        lattice: sites, bonds and boundaries.
        n_particles: conserved number of fermions N; None for all numbers (grand-canonical).
        V: nearest-neighbour interaction, one number or one for each bond in the order of `lattice.bonds()`.
        t: hopping amplitude, one number or one for each bond.
        mu: chemical potential, one number or one for each site.
        potential: epsilon_i, one energy per site, such as `staggered_potential(lattice, 0.5)`; None for none.
        twist: boundary phase of each direction in radians, such as (0.3,); open directions ignore theirs.

    Raises:
        ValueError: an impossible number of fermions, numbers that are not finite, or a potential or twist that does not
            fit the lattice.
    """

    lattice: Lattice
    n_particles: int | None
    _: KW_ONLY
    V: Coupling
    t: Coupling = 1.0
    mu: Coupling = 0.0
    potential: Numbers | None = None
    twist: Numbers | None = None

    def __post_init__(self) -> None:
        checked_couplings(self, bonds=("V", "t"), sites=("mu",))
        self.hilbert, self._hops  # noqa: B018 - refuses an impossible sector or hop now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector given by n_particles."""
        return fermions(self.lattice.n_sites, self.n_particles)

    @property
    def unit(self) -> str:
        return "t"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return self.lattice.bonds()

    @property
    def max_connected(self) -> int:
        """On each bond one direction at most starts where a fermion is and ends where none is."""
        return len(self._hops.source) // 2

    @property
    def has_boundary_phases(self) -> bool:
        return self.twist is not None

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are real and negative, so that the ground state can be chosen positive."""
        others = None if self.n_particles is None else self.n_particles - 1
        return never_positive(self._hops, self.lattice.n_sites, others)

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """V sum_<ij> n_i n_j + sum (epsilon_i - mu) n_i."""
        x = n.double()
        energy = neighbour_energy(self.lattice, self.V, x)
        return energy - weighted_sum(self.mu, x) + weighted_sum(self.potential, x)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """One fermion hops over each bond in each direction, from an occupied to an empty site."""
        return hopped(n, n == 1, n == 0, self._hops, 1)

    @cached_property
    def _hops(self) -> Hops:
        return lattice_hops(self.lattice, (self.t,), self.twist)

    def __str__(self) -> str:
        hop = "c+_j c_i" if self.twist is None else "e^(i theta_ij) c+_j c_i"
        terms = [
            (-1, self.t, "t_ij", f"sum_<ij> ({hop} + h.c.)"),
            (1, self.V, "V_ij", "sum_<ij> n_i n_j"),
            (-1, self.mu, "mu_i", "sum_i n_i"),
            (1, float(self.potential is not None), "", "sum_i epsilon_i n_i"),
        ]
        twist = "" if self.twist is None else f", twist {self.twist}"
        number = "any number of" if self.n_particles is None else self.n_particles
        return f"t-V, H = {signed_sum(terms)}, {self.lattice}{twist}, {number} spinless fermions"

    __repr__ = __str__
