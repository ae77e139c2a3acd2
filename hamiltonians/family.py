"""Several Hamiltonians of one sector as one, to train one wavefunction for all of them.

    H = sum_k |k><k| (x) H_k / s_k,        k = 0 .. M - 1,

on the sector with the number k as an additional first site. With a uniform distribution of k the energy is the mean of
the energies <H_k> / s_k, each of which is variational.
"""

# Shapes: B configurations, L sites besides the first, K connected configurations.
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.hilbert import Charge, HilbertSpace
from nqs.protocols import Connected, Hamiltonian, is_stoquastic, max_connected, unit_of


@dataclass(frozen=True)
class Family:
    """
    Args:
        members: Hamiltonians of one sector.
        scales: s_k, in the unit of the energy; 1 by default.

    Raises:
        ValueError: no member, members of different sectors, or scales that do not fit.
    """

    members: tuple[Hamiltonian, ...]
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        object.__setattr__(self, "scales", tuple(map(float, self.scales)) or (1.0,) * len(self.members))
        if not self.members or any(member.hilbert != self.members[0].hilbert for member in self.members):
            raise ValueError("a family has at least one member, and all members have one sector.")
        if len(self.scales) != len(self.members) or min(self.scales) <= 0:
            raise ValueError(f"scales={self.scales}: give a positive number for each of {len(self.members)} members.")

    @cached_property
    def hilbert(self) -> HilbertSpace:
        """The sector of the members, with their number as a first site."""
        sector = self.members[0].hilbert
        names = tuple(f"member {k}" for k in range(len(self.members)))
        states = (names, *(sector.states_at(site) for site in range(sector.n_sites)))
        return HilbertSpace(sector.n_sites + 1, states, tuple(self._charge(charge) for charge in sector.charges))

    def _charge(self, charge: Charge) -> Charge:
        sector = self.members[0].hilbert
        rows = [tuple(row[:d]) for row, d in zip(sector.table(charge.values).tolist(), sector.local_dims, strict=True)]
        values = ((0,) * len(self.members), *rows)
        return Charge(charge.name, values, charge.target, charge.modulus)

    @property
    def unit(self) -> str:
        return unit_of(self.members[0])

    @property
    def is_stoquastic(self) -> bool:
        return all(is_stoquastic(member) for member in self.members)

    @property
    def max_connected(self) -> int:
        return max(max_connected(member) for member in self.members)

    def diagonal(self, n: UInt8[Tensor, "B L1"]) -> Float64[Tensor, " B"]:
        found = torch.empty(len(n), dtype=torch.float64, device=n.device)
        for rows, member, scale in self._rows(n):
            found[rows] = member.diagonal(n[rows, 1:]) / scale
        return found

    def connected(self, n: UInt8[Tensor, "B L1"]) -> Connected:
        parts = []
        for rows, member, scale in self._rows(n):
            connected = member.connected(n[rows, 1:])
            parents = rows[connected.parents]
            configurations = torch.cat([n[parents, :1], connected.configurations], dim=1)
            parts.append((configurations, connected.elements / scale, parents))
        configurations, elements, parents = (torch.cat(column) for column in zip(*parts, strict=True))
        return Connected(configurations, elements, parents)

    def _rows(self, n: UInt8[Tensor, "B L1"]) -> Sequence[tuple[Tensor, Hamiltonian, float]]:
        """Rows of every member."""
        return [
            ((n[:, 0] == k).nonzero()[:, 0], member, scale)
            for k, (member, scale) in enumerate(zip(self.members, self.scales, strict=True))
        ]

    def __str__(self) -> str:
        return f"{len(self.members)} Hamiltonians of one sector, the first of them {self.members[0]}"

    __repr__ = __str__
