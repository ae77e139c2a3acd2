r"""Rydberg atoms, driven between their ground state and one excited state,

    H = Omega/2 sum_i X_i - Delta sum_i n_i + V sum_{i<j} n_i n_j / r_ij^6,

with or without a blockade: pairs of atoms at distances up to `blockade` are never excited together. Under it the
driving term flips an atom only if all atoms within the blockade are in their ground states, and the interaction of the
excluded pairs drops out. With a blockade of nearest neighbours on a chain, Delta = V = 0 and Omega = 2 this is the PXP
model, sum_i P_{i-1} X_i P_{i+1} with P = 1 - n (`pxp`).

Local state 0 is the ground state, 1 the excited (Rydberg) state, n = 0 or 1, X = |0><1| + |1><0|. r is measured in
distances of nearest neighbours, each pair counts once and at the distance of the nearest periodic image; V is the
interaction of nearest neighbours. Energies are in units of Omega.

The off-diagonal elements are Omega/2. The signs (-1)^(number of excited atoms) turn Omega into -Omega, whose ground
state is positive: they are known exactly on every lattice and for all couplings (`marshall_sublattice`).

Bernien et al., Nature 551, 579 (2017); Turner et al., Nat. Phys. 14, 745 (2018), the PXP model; Fendley, Sengupta,
Sachdev, Phys. Rev. B 69, 075106 (2004), the chain under a blockade. With w = -Omega/2, U = -Delta and the interaction
V2 of second neighbours alone, the ground state of a ring is known where w^2 = U V2 + 3 V2^2: E = -V2 L (Lesanovsky,
Phys. Rev. Lett. 106, 025301 (2011)).
"""

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.couplings import Coupling, checked_couplings, signed_sum, values, weighted_sum
from nqs.hilbert import Charge, Exclusion, HilbertSpace, Species
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected

SAME_DISTANCE = 1 + 1e-6  # distances of one shell differ by rounding errors


@dataclass(frozen=True)
class Rydberg:
    """Two-level atoms on a lattice with van der Waals interactions.

    Args:
        lattice: sites; bonds are not used, distances are.
        Omega: Rabi frequency, one number or one for each site.
        Delta: detuning, one number or one for each site; a positive one favours excited atoms.
        V: interaction of nearest neighbours, C_6 / a^6.
        blockade: largest distance of atoms that exclude each other's excitation; 0 for none.
        reach: largest distance of atoms that interact; None for all.

    Raises:
        ValueError: couplings that are not finite, an antiperiodic boundary, or a blockade whose states do not fit into
            a table (see `nqs.hilbert.frontier`).
    """

    lattice: Lattice
    _: KW_ONLY
    Omega: Coupling = 1.0
    Delta: Coupling = 0.0
    V: float = 0.0
    blockade: float = 0.0
    reach: float | None = None

    def __post_init__(self) -> None:
        checked_couplings(self, sites=("Omega", "Delta"))
        for name in ("V", "blockade"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: it must be a finite number.")
        if self.blockade < 0 or (self.reach is not None and not self.reach > 0):
            raise ValueError(
                f"blockade={self.blockade}, reach={self.reach}: distances are positive; blockade=0 is no blockade, "
                "reach=None no end of the interaction."
            )
        if "antiperiodic" in self.lattice.boundary:
            raise ValueError(f"{self.lattice}: atoms have no antiperiodic boundary, use periodic or open.")
        self.hilbert  # noqa: B018 - refuses a blockade that is too wide now

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """Atoms in the states g and r; no conserved charge."""
        excited = (0, 1)
        return HilbertSpace(
            self.lattice.n_sites,
            ("g", "r"),
            (Charge("excitations", excited),),
            (Species("excitations", "other", excited),),
            (Exclusion(self._excluded.tolist()),) if len(self._excluded) else (),
        )

    @property
    def unit(self) -> str:
        return "Omega"

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"]:
        """Pairs of atoms that interact or exclude each other; an atom flips alone."""
        return (self._interactions + self._blocks.triu(1)).nonzero()

    @property
    def max_connected(self) -> int:
        """One flip of each atom."""
        return int((self._rabi != 0).sum())

    @property
    def is_stoquastic(self) -> bool:
        """All off-diagonal elements are negative."""
        return bool((self._rabi <= 0).all())

    @property
    def marshall_exact(self) -> bool:
        """The signs of `marshall_sublattice` are exact."""
        return True

    @property
    def marshall_sublattice(self) -> tuple[int, ...]:
        """The sites with Omega > 0: the sign is (-1)^(number of excited atoms there)."""
        return tuple((self._rabi > 0).int().tolist())

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """-Delta sum_i n_i + sum_{i<j} V_ij n_i n_j."""
        x = n.double()
        detuning = -weighted_sum(self.Delta, x)
        return detuning + ((x @ self._interactions.to(n.device)) * x).sum(1) if self.V else detuning

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """Each atom flipped alone that no excited atom blocks; Omega = 0 flips none."""
        rabi = self._rabi.to(n.device)
        blocked = n.double() @ self._blocks.to(n.device) > 0  # (B, L)
        parents, site = (~blocked & (rabi != 0)).nonzero().T
        n_prime = n[parents]
        n_prime[torch.arange(len(site), device=n.device), site] ^= 1
        return Connected(n_prime, rabi[site] / 2, parents)

    @cached_property
    def _rabi(self) -> Float64[Tensor, " L"]:
        """Omega of every site."""
        return values(self.Omega, self.lattice.n_sites)

    @cached_property
    def _distances(self) -> Float64[Tensor, "L L"]:
        """r_ij, 1 for nearest neighbours."""
        distances = self.lattice.distances()
        apart = distances[(distances > 0) & distances.isfinite()]
        return distances / apart.min() if len(apart) else distances

    @cached_property
    def _excluded(self) -> Int64[Tensor, "P 2"]:
        """Pairs i < j of atoms within the blockade."""
        return (self._distances <= self.blockade * SAME_DISTANCE).triu(1).nonzero()

    @cached_property
    def _blocks(self) -> Float64[Tensor, "L L"]:
        """1 for every ordered pair within the blockade."""
        L = self.lattice.n_sites
        i, j = self._excluded.T
        table = torch.zeros((L, L), dtype=torch.float64)
        table[i, j] = table[j, i] = 1.0
        return table

    @cached_property
    def _interactions(self) -> Float64[Tensor, "L L"]:
        """V / r_ij^6 for i < j, 0 within the blockade and beyond the reach."""
        reach = math.inf if self.reach is None else self.reach
        kept = (self._distances <= reach * SAME_DISTANCE) & (self._blocks == 0)
        return torch.where(kept, self.V * self._distances**-6, 0.0).triu(1)

    def __str__(self) -> str:
        pairs = "sum_i<j n_i n_j / r_ij^6" + ("" if self.reach is None else f" up to r = {self.reach:g}")
        terms = [
            (0.5, self.Omega, "Omega_i", "sum_i X_i"),
            (-1.0, self.Delta, "Delta_i", "sum_i n_i"),
            (1.0, self.V, "V", pairs),
        ]
        blockade = f", blockade up to r = {self.blockade:g}" if self.blockade else ""
        return f"Rydberg atoms, H = {signed_sum(terms)}{blockade}, {self.lattice}"

    __repr__ = __str__


def pxp(lattice: Lattice, Omega: float = 2.0) -> Rydberg:
    """The PXP model, Omega/2 sum_i X_i prod_j P_j over the nearest neighbours j of i, P = 1 - n."""
    return Rydberg(lattice, Omega=Omega, blockade=1.0)
