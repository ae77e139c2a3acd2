r"""Bose-Hubbard model,

    H = - sum_<ij> J_ij (e^{i theta_ij} b+_j b_i + h.c.) + sum_i U_i/2 n_i (n_i - 1) + sum_<ij> V_ij n_i n_j
        + sum_i (epsilon_i - mu_i) n_i,

every coupling one number, or one for each bond or site. Each bond <ij> of the lattice counts once; a ring of two sites
has one bond. Energies are in units of J when J = 1. The bond (i, j) is oriented as the lattice lists it, and theta_ij
is the phase of hopping from i to j, so that <.., n_i - 1, .., n_j + 1, ..|H|n> = -J e^{i theta_ij} sqrt(n_i (n_j + 1)).
On an antiperiodic boundary every crossing changes the sign of J. Local state k is the occupation number k.

Without phases and with J > 0 all off-diagonal elements are negative: the ground state is positive everywhere
(Perron-Frobenius), and a wavefunction without a phase is exact.

Fisher et al., Phys. Rev. B 40, 546 (1989). The same matrix as netket.operator.BoseHubbard with the same J, U, V and mu.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
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
from nqs.hilbert import HilbertSpace, bosons, one_for_each
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True, repr=False)
class BoseHubbard:
    """Interacting bosons on a lattice.

    Args:
        lattice: sites and bonds.
        n_particles: conserved number of bosons N (canonical); None for all numbers (grand-canonical, needs n_max).
        U: on-site interaction, one number or one for each site.
        J: hopping amplitude, one number or one for each bond in the order of `lattice.bonds()`.
        V: nearest-neighbour interaction, one number or one for each bond.
        mu: chemical potential, one number or one for each site.
        potential: epsilon_i, one energy per site, such as `harmonic_trap(lattice, 0.1)`; None for none.
        phases: theta_ij, one angle per bond in radians, such as `lattice.twist_phases([0.3])`; None for none.
        n_max: largest occupation of a site, one number or one for each site; None for no cutoff.

    Raises:
        ValueError: an impossible number of particles, numbers that are not finite, or lists of the wrong length.

    >>> from nqs.lattice import chain
    >>> hamiltonian = BoseHubbard(chain(2), n_particles=2, U=4.0)
    >>> n = hamiltonian.hilbert.configurations()
    >>> hamiltonian.diagonal(n).tolist()
    [4.0, 0.0, 4.0]
    >>> hamiltonian.connected(n[:1]).configurations.tolist()
    [[1, 1]]
    """

    lattice: Lattice
    n_particles: int | None = None
    _: KW_ONLY
    U: Coupling
    J: Coupling = 1.0
    V: Coupling = 0.0
    mu: Coupling = 0.0
    potential: Numbers | None = None
    phases: Numbers | None = None
    n_max: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        checked_couplings(self, bonds=("J", "V"), sites=("U", "mu"))
        if self.n_max is not None and np.ndim(self.n_max):
            object.__setattr__(self, "n_max", tuple(one_for_each(self.n_max, self.lattice.n_sites, "n_max")))
        self.hilbert  # noqa: B018 - refuses an impossible sector now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector given by n_particles and n_max."""
        return bosons(self.lattice.n_sites, self.n_particles, self.n_max)

    @property
    def unit(self) -> str:
        return "J"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return self.lattice.bonds()

    @property
    def max_connected(self) -> int:
        """One hop along each bond in each direction."""
        return len(self._hops[0])

    @property
    def has_boundary_phases(self) -> bool:
        return self.phases is not None

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are real and negative, so that the ground state can be chosen positive."""
        signs = self.lattice.signs()
        return self.phases is None and bool((values(self.J, len(signs)) * signs >= 0).all())

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """U/2 sum n (n - 1) + V sum_<ij> n_i n_j + sum (epsilon_i - mu) n_i."""
        x = n.double()
        energy = weighted_sum(self.U, x * (x - 1)) / 2 + neighbour_energy(self.lattice, self.V, x)
        return energy - weighted_sum(self.mu, x) + weighted_sum(self.potential, x)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """One boson hops over each bond in each direction, where the source is occupied and the target not full."""
        source, target, amplitude = (t.to(n.device) for t in self._hops)  # (2 bonds,) each
        full = torch.tensor(self.hilbert.local_dims, device=n.device) - 1  # (L,)
        parents, hop = ((n[:, source] > 0) & (n[:, target] < full[target])).nonzero().T  # (K,) each
        source, target = source[hop], target[hop]
        k = torch.arange(len(parents), device=n.device)
        n_prime = n[parents]  # (K, L)
        # <n|H|n'> with n' = n + e_target - e_source: H moves the boson back, from target to source.
        root = ((n_prime[k, target] + 1.0).double() * n_prime[k, source]).sqrt()
        n_prime[k, source] -= 1
        n_prime[k, target] += 1
        return Connected(n_prime, amplitude[hop] * root, parents)

    @cached_property
    def _hops(self) -> tuple[Tensor, Tensor, Tensor]:
        """Source, target and the amplitude of <n|H|n'> for each bond in each direction; bonds with J = 0 have none."""
        bonds, signs = self.lattice.bonds(), self.lattice.signs()
        amplitude = -values(self.J, len(bonds)) * signs
        active = amplitude != 0
        (i, j), amplitude = bonds[active].T, amplitude[active]
        if self.phases is not None:
            amplitude = torch.polar(amplitude.abs(), values(self.phases, len(bonds))[active]) * amplitude.sign()
        # <n|H|n'> with n' = n - e_i + e_j moves the boson back from j to i, against the bond.
        return torch.cat([i, j]), torch.cat([j, i]), torch.cat([amplitude.conj(), amplitude])

    def __str__(self) -> str:
        hopping = "b+_i b_j" if self.phases is None else "e^(i theta_ij) b+_j b_i"
        terms = [
            (-1, self.J, "J_ij", f"sum_<ij> ({hopping} + h.c.)"),
            (1, self.U, "U_i", "sum_i n_i (n_i - 1)/2"),
            (1, self.V, "V_ij", "sum_<ij> n_i n_j"),
            (-1, self.mu, "mu_i", "sum_i n_i"),
            (1, float(self.potential is not None), "", "sum_i epsilon_i n_i"),
        ]
        filling = "grand-canonical" if self.n_particles is None else f"{self.n_particles} bosons"
        most = " or ".join(map(str, sorted(set(np.atleast_1d(self.n_max).tolist())))) if self.n_max is not None else ""
        cutoff = f", at most {most} on a site" if most else ""
        return f"Bose-Hubbard, H = {signed_sum(terms)}, {self.lattice}, {filling}{cutoff}"

    __repr__ = __str__


def harmonic_trap(lattice: Lattice, strength: float) -> tuple[float, ...]:
    """epsilon_i = strength |x_i - x_centre|^2 with distances in lattice constants, for `BoseHubbard.potential`."""
    x = lattice.coordinates
    return tuple((strength * (x - x.mean(0)).square().sum(1)).tolist())
