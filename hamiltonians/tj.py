r"""t-J model: the Hubbard model of strong repulsion, on the space without doubly occupied sites,

    H = - sum_<ij>,s t_ij (e^{i theta_ij} c+_js c_is + h.c.) + sum_<ij> J_ij (S_i . S_j - n_i n_j / 4)
        + sum_i epsilon_i n_i,

every coupling one number, or one for each bond, with spins s = u (up), d (down), n_i = n_iu + n_id in {0, 1} and S =
sigma / 2. Each bond <ij> of the lattice counts once; a ring of two sites has one bond. Energies are in units of t when
t = 1; J = 4 t^2 / U at large U, where the three-site terms of the same order are left out. A twist shifts the phase of
every hop that crosses the boundary; an antiperiodic boundary is a twist by pi. The exchange feels neither.

Local states: 0 empty, 1 up, 2 down. Jordan-Wigner order as for `FermiHubbard`: all up orbitals in the order of the
sites, then all down orbitals. A hop between i < j has the sign (-1)^(electrons of the same spin strictly between), and
since

    S+_i S-_j = - (c+_iu c_ju) (c+_jd c_id),

the exchange of two antiparallel spins has the element -J/2 (-1)^(electrons strictly between): the fermions carry the
Marshall sign of a chain. At half filling the model is the Heisenberg model - J/4 per bond.

Chao, Spalek and Oles, J. Phys. C 10, L271 (1977); Zhang and Rice, Phys. Rev. B 37, 3759 (1988).
"""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import (
    Coupling,
    Numbers,
    checked_couplings,
    neighbour_energy,
    signed_sum,
    values,
    weighted_sum,
)
from nqs.hamiltonians.jordan_wigner import (
    Hops,
    hopped,
    joined,
    lattice_hops,
    never_positive,
    toggled,
)
from nqs.hilbert import HilbertSpace, electrons
from nqs.hilbert.fermion_signs import fermions_between
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected

UP, DOWN = 1, 2  # bits of the local state


@dataclass(frozen=True, repr=False)
class TJ:
    """Electrons that never share a site, with an antiferromagnetic exchange for J > 0.

    Args:
        lattice: sites, bonds and boundaries.
        n_up: conserved number of up electrons; None for all numbers (grand-canonical).
        n_down: conserved number of down electrons; None for all numbers.
        J: exchange, one number or one for each bond in the order of `lattice.bonds()`.
        t: hopping amplitude, one number or one for each bond.
        potential: epsilon_i, one energy per site; None for none.
        twist: boundary phase of each direction in radians, such as (0.3,); open directions ignore theirs.

    Raises:
        ValueError: impossible electron numbers, numbers that are not finite, or a potential or twist that does not fit
            the lattice.
    """

    lattice: Lattice
    n_up: int | None
    n_down: int | None
    _: KW_ONLY
    J: Coupling
    t: Coupling = 1.0
    potential: Numbers | None = None
    twist: Numbers | None = None

    def __post_init__(self) -> None:
        checked_couplings(self, bonds=("J", "t"))
        self.hilbert, self._hops  # noqa: B018 - refuses an impossible sector or hop now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector given by n_up and n_down."""
        return electrons(self.lattice.n_sites, ("empty", "up", "down"), self.n_up, self.n_down)

    @property
    def unit(self) -> str:
        return "t"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return self.lattice.bonds()

    @property
    def max_connected(self) -> int:
        """On each bond a hop or an exchange."""
        return max(len(self._hops.source) // 2, len(self._exchange.source))

    @property
    def has_boundary_phases(self) -> bool:
        return self.twist is not None

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are real and negative, so that the ground state can be chosen positive."""
        L, n_up, n_down = self.lattice.n_sites, self.n_up, self.n_down
        if n_up is None or n_down is None:
            return never_positive(self._hops, L, None) and never_positive(self._exchange, L, None)
        hops = n_up + n_down == L or all(never_positive(self._hops, L, number - 1) for number in (n_up, n_down))
        return hops and (0 in (n_up, n_down) or never_positive(self._exchange, L, n_up + n_down - 2))

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """J sum_<ij> (S^z_i S^z_j - n_i n_j / 4) + sum epsilon_i n_i: -J/2 for each antiparallel pair."""
        x, spin = (n > 0).double(), (n == UP).double() - (n == DOWN).double()  # (B, L); S^z = spin / 2
        exchange = neighbour_energy(self.lattice, self.J, spin) - neighbour_energy(self.lattice, self.J, x)
        return exchange / 4 + weighted_sum(self.potential, x)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """One electron hops onto an empty neighbour; two antiparallel neighbours exchange their spins."""
        return joined([*(hopped(n, n == spin, n == 0, self._hops, spin) for spin in (UP, DOWN)), self._exchanged(n)])

    def _exchanged(self, n: UInt8[Tensor, "B L"]) -> Connected:
        i, j, amplitude = (part.to(n.device) for part in self._exchange)
        parents, bond = (n[:, i] + n[:, j] == UP + DOWN).nonzero().T  # (K,) each
        i, j, amplitude = i[bond], j[bond], amplitude[bond]
        odd = fermions_between(n > 0, parents, i, j) % 2 == 1
        return Connected(toggled(n[parents], i, j, UP | DOWN), torch.where(odd, -amplitude, amplitude), parents)

    @cached_property
    def _hops(self) -> Hops:
        return lattice_hops(self.lattice, (self.t,), self.twist)

    @cached_property
    def _exchange(self) -> Hops:
        """The bonds, once each, with the amplitude of the exchange; those with J = 0 have none."""
        bonds = self.lattice.bonds()
        J = values(self.J, len(bonds))
        i, j = bonds[J != 0].T
        return Hops(i, j, -J[J != 0] / 2)

    def __str__(self) -> str:
        hop = "c+_js c_is" if self.twist is None else "e^(i theta_ij) c+_js c_is"
        terms = [
            (-1, self.t, "t_ij", f"sum_<ij>,s ({hop} + h.c.)"),
            (1, self.J, "J_ij", "sum_<ij> (S_i . S_j - n_i n_j / 4)"),
            (1, float(self.potential is not None), "", "sum_i epsilon_i n_i"),
        ]
        twist = "" if self.twist is None else f", twist {self.twist}"
        up, down = ("any number of" if number is None else number for number in (self.n_up, self.n_down))
        return (
            f"t-J, H = {signed_sum(terms)}, S = sigma/2, {self.lattice}{twist}, {up} up and {down} down electrons, "
            "no site with both"
        )

    __repr__ = __str__
