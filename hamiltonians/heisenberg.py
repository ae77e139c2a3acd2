r"""Heisenberg models of any spin: XXX, XXZ and XY, couplings to any shell of neighbours (J1-J2), a field,

    H = sum_k sum_<ij>_k J_ij [ S^x_i S^x_j + S^y_i S^y_j + Delta_ij S^z_i S^z_j ] - sum_i h_i S^z_i,

with one number for all bonds of a shell k, or one for each bond; one field for all sites, or one for each.

Spin operators, not Pauli matrices: S = sigma / 2 for spin 1/2. <ij>_k are the k-th neighbours lattice.bonds(k), each
bond counts once; a ring of two sites has one bond. J > 0 is antiferromagnetic; energies are in units of J_1 when that
is 1. Delta = inf is the Ising limit without exchange, J_ij S^z_i S^z_j. On an antiperiodic boundary S^x and S^y, but
not S^z, change sign at every crossing: a twist by pi about z.

Local state n has S^z = n - S, 0 is fully down. The total S^z is conserved. In terms of the ladder operators
S^x_i S^x_j + S^y_i S^y_j = (S+_i S-_j + S-_i S+_j) / 2, and with S+ |n> = sqrt((n + 1) (2 S - n)) |n + 1>

    <.., n_i + 1, .., n_j - 1, ..|H|n> = J_ij / 2 sqrt((n_i + 1) (2 S - n_i) n_j (2 S - n_j + 1)).

Marshall's rule: the signs (-1)^(sum of n over sublattice A) turn the sign of every exchange between the two
sublattices of a bipartite lattice. Where these couplings are antiferromagnetic, and those inside a sublattice
ferromagnetic or absent, all off-diagonal elements become negative, and the rule gives the exact signs of the ground
state of every sector (Perron-Frobenius) for any spins, anisotropy and field. No sign rule is applied here.

Marshall, Proc. R. Soc. A 232, 48 (1955); Lieb and Mattis, J. Math. Phys. 3, 749 (1962). For spin 1/2 the same as
netket.operator.Heisenberg(hilbert, graph, J=J / 4, sign_rule=False), which uses Pauli matrices and, unless told
otherwise, applies Marshall's rule to bipartite graphs; its local states are 2 S^z = 2 n - 2 S. VarBench prints 4 times
our energies of spin 1/2.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import Coupling, checked_couplings, signed_sum, weighted_sum
from nqs.hilbert import HilbertSpace, one_for_each, spins
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True)
class Heisenberg:
    """Spins with exchange interactions on a lattice.

    Args:
        lattice: sites and bonds.
        total_sz: conserved total S^z, a multiple of 1/2; None for the whole space.
        J: exchange, one number for the nearest neighbours or one for each shell: J=(1.0, 0.5) is J1-J2. Instead of the
            number of a shell k, a list with one for each of `lattice.bonds(k)`: J=[[1.0, 0.5, 1.0]] is a dimerised open
            chain of four spins, J=[[1.0, 0.5, 1.0], 0.2] has second neighbours, too.
        Delta: anisotropy of the S^z S^z term, one number for all shells or one for each, or lists as for J; 1 for full
            rotation symmetry, 0 for the XY model, infinity for J S^z S^z alone.
        h: magnetic field along z, one number or one for each site; a positive one favours spin up.
        spin: 1/2, 1, 3/2, ..., one length or one for each site.

    J and Delta are kept as one number, or one tuple, per shell.

    Raises:
        ValueError: an impossible total_sz or spin, shells that the lattice does not have, numbers that are not finite,
            or lists that do not fit.

    >>> from nqs import exact
    >>> from nqs.lattice import chain
    >>> print(f"{exact.ground_state(Heisenberg(chain(2), total_sz=0)).energy:.6f}")  # a singlet on one bond
    -0.750000
    """

    lattice: Lattice
    total_sz: float | None = None
    _: KW_ONLY
    J: Coupling | Sequence[Coupling] = 1.0
    Delta: Coupling | Sequence[Coupling] = 1.0
    h: Coupling = 0.0
    spin: float | Sequence[float] = 0.5

    def __post_init__(self) -> None:
        J, Delta = self._by_shell("J"), self._by_shell("Delta")
        if not J:
            raise ValueError("J is empty: give the coupling of the nearest neighbours, or one for each shell.")
        n_bonds = len(self.lattice.bonds())
        if len(J) == n_bonds > 1 and all(isinstance(x, float) for x in J):
            raise ValueError(
                f"J has {n_bonds} numbers, and {self.lattice} has {n_bonds} bonds: write J=[[...]] for one number per "
                "bond, or J=[[J1], [J2], ...] for one per shell of neighbours."
            )
        if len(Delta) == 1 and (len(J) == 1 or isinstance(Delta[0], float)):
            Delta *= len(J)
        if len(Delta) != len(J):
            raise ValueError(
                f"Delta has {len(Delta)} values, but J couples {len(J)} {'shells' if len(J) > 1 else 'shell'} of "
                "neighbours: give one number for all shells, or one for each; [[...]] holds one for each bond."
            )
        object.__setattr__(self, "J", J)
        object.__setattr__(self, "Delta", Delta)
        checked_couplings(self, sites=("h",))
        if np.ndim(self.spin):
            object.__setattr__(self, "spin", tuple(one_for_each(self.spin, self.lattice.n_sites, "spin")))
        self.hilbert, self.bond_couplings  # noqa: B018 - refuse an impossible sector and missing shells now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector given by total_sz and spin."""
        return spins(self.lattice.n_sites, self.total_sz, self.spin)

    @property
    def unit(self) -> str:
        return "J"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of sites on which the terms act."""
        return torch.stack(self.bond_couplings[:2], dim=1)

    @property
    def max_connected(self) -> int:
        """Spins 1/2 are exchanged in one direction only."""
        return len(self._exchanges[0]) // (2 if self.spin == 0.5 else 1)

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are negative, so that the ground state can be chosen positive."""
        return bool((self.bond_couplings[2] <= 0).all())

    @property
    def marshall_exact(self) -> bool:
        """With the signs of Marshall's rule all off-diagonal elements are negative: it gives the exact signs.

        So it is where exchange between the two sublattices is antiferromagnetic, and that inside one ferromagnetic
        or absent; not on lattices that are not bipartite.
        """
        try:
            sublattice = self.lattice.sublattices()
        except ValueError:
            return False
        i, j, exchange, _ = self.bond_couplings
        return bool((torch.where(sublattice[i] == sublattice[j], exchange, -exchange) <= 0).all())

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """sum_k sum_<ij>_k J_ij Delta_ij S^z_i S^z_j - sum_i h_i S^z_i."""
        i, j, _, coupling = (t.to(n.device) for t in self.bond_couplings)
        sz = n.double() - self._tops.to(n.device) / 2
        return (sz[:, i] * sz[:, j]) @ coupling - weighted_sum(self.h, sz)

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """Over each bond, in each direction, one spin goes up and the other down, where both can."""
        raised, lowered, amplitude = (t.to(n.device) for t in self._exchanges)  # (2 bonds,) each
        tops = self._tops.to(n.device)  # (L,)
        parents, pair = ((n[:, raised] < tops[raised]) & (n[:, lowered] > 0)).nonzero().T  # (K,) each
        raised, lowered = raised[pair], lowered[pair]
        k = torch.arange(len(parents), device=n.device)
        n_prime = n[parents]  # (K, L)
        a, b = n_prime[k, raised].double(), n_prime[k, lowered].double()
        root = ((a + 1) * (tops[raised] - a) * b * (tops[lowered] - b + 1)).sqrt()
        n_prime[k, raised] += 1
        n_prime[k, lowered] -= 1
        return Connected(n_prime, amplitude[pair] * root, parents)

    @property
    def _tops(self) -> Int64[Tensor, " L"]:
        """2 S of every site."""
        return torch.tensor(self.hilbert.local_dims) - 1

    @cached_property
    def bond_couplings(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sites i and j of the bonds of all shells, their J with the sign of the boundary, and their J Delta."""
        bonds, exchange, coupling = [], [], []
        for order, (J, Delta) in enumerate(self._shells, start=1):
            shell = self.lattice.bonds(order)
            strength, anisotropy = (self._of_bonds(name, x, len(shell)) for name, x in (("J", J), ("Delta", Delta)))
            ising = anisotropy.isinf()  # no exchange
            if ising.any() and not strength.any():
                raise ValueError("Delta=inf and J=0: with it J is the coupling of S^z S^z, give J=J_z.")
            bonds.append(shell)
            exchange.append(torch.where(ising, 0.0, strength) * self.lattice.signs(order))
            coupling.append(torch.where(ising, strength, strength * anisotropy))
        i, j = torch.cat(bonds).T
        return i, j, torch.cat(exchange), torch.cat(coupling)

    @cached_property
    def _exchanges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Raised site, lowered site and J / 2 for each bond in each direction; J = 0 has none."""
        i, j, exchange, _ = self.bond_couplings
        active = exchange != 0
        i, j, amplitude = i[active], j[active], exchange[active] / 2
        return torch.cat([i, j]), torch.cat([j, i]), torch.cat([amplitude, amplitude])

    @property
    def _shells(self) -> list[tuple[Any, Any]]:
        """J and Delta of each shell; __post_init__ made both one number, or one tuple, per shell."""
        J: Any = self.J
        Delta: Any = self.Delta
        return list(zip(J, Delta, strict=True))

    def _by_shell(self, name: str) -> tuple[float | tuple[float, ...], ...]:
        """A coupling as a number, or a tuple of numbers, for each shell; NaN is refused, and infinite J."""
        given: Any = getattr(self, name)
        shells = [given] if getattr(given, "ndim", 1 - isinstance(given, Real)) == 0 else given
        try:
            found = tuple(tuple(map(float, x)) if np.ndim(x) else float(x) for x in shells)
        except (TypeError, ValueError):
            raise TypeError(
                f"{name}={given!r}: give one number, one for each shell of neighbours, or a list of lists of bonds."
            ) from None
        numbers = [number for x in found for number in (x if isinstance(x, tuple) else (x,))]
        wrong = [x for x in numbers if not (math.isfinite(x) or (name == "Delta" and x == math.inf))]
        if wrong:
            raise ValueError(f"{name}={wrong[0]}: it must be a finite number.")
        return found

    def _of_bonds(self, name: str, given: Any, n_bonds: int) -> Float64[Tensor, " n_bonds"]:
        """The numbers of the bonds of a shell."""
        if np.ndim(given) == 1 and len(given) not in (1, n_bonds):
            raise ValueError(
                f"{name} has {len(given)} numbers for a shell of {n_bonds} bonds of {self.lattice}: give one for each, "
                "in the order of lattice.bonds(k)."
            )
        return torch.as_tensor(given, dtype=torch.float64).expand(n_bonds)

    def __str__(self) -> str:
        terms: list[tuple[float, Any, str, str]] = []
        anisotropies = {}
        for order, (J, Delta) in enumerate(self._shells, start=1):
            shell = "" if len(self._shells) == 1 else f"{order}"
            product = {1.0: "S_i.S_j", math.inf: "S^z_i S^z_j"}.get(Delta)
            if product is None:
                by_bond = isinstance(Delta, tuple)
                if by_bond:
                    anisotropies[f"Delta{shell}_ij"] = Delta
                symbol = f"Delta{shell}_ij" if by_bond else f"{Delta:g}"
                product = f"(S^x_i S^x_j + S^y_i S^y_j + {symbol} S^z_i S^z_j)"
            terms.append((1, J, f"J{shell}_ij", f"sum_<ij>{shell and '_'}{shell} {product}"))
        terms.append((-1, self.h, "h_i", "sum_i S^z_i"))
        lengths = " and ".join(str(Fraction(spin)) for spin in sorted(set(np.atleast_1d(self.spin).tolist())))
        operators = "S = sigma/2" if lengths == "1/2" else f"spin operators of S = {lengths}"
        sector = "all total Sz" if self.total_sz is None else f"total Sz = {Fraction(self.total_sz)}"
        return f"Heisenberg, H = {signed_sum(terms, inner=anisotropies)}, {operators}, {self.lattice}, {sector}"

    __repr__ = __str__
