"""The representatives of the symmetry orbits of a sector, as a Hilbert space for autoregressive models.

Charges do not determine the prefixes that some representative continues, so a tree of all prefixes is built. Its nodes
take the place of the remainders of `HilbertSpace`, so that models and samplers walk through both in the same way.
"""

# Shapes: N representatives, L sites, d local states, M nodes.
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace, SectorTables
from nqs.symmetry.group import Orbits, Symmetry


class RepresentativeTree(NamedTuple):
    """All prefixes of the representatives on one device.

    Attributes:
        tables: transitions; node 0 is the empty prefix, node M - 1 every whole representative, M the sink.
        below: representatives that share the prefix of a node and continue with a smaller local state.
        last_is_determined: the other sites determine the local state of the last one.
    """

    tables: SectorTables
    below: Int64[Tensor, "M1 d"]
    last_is_determined: bool


@dataclass(frozen=True)
class OrbitSpace(HilbertSpace):
    """One representative of every orbit that is not forbidden by a symmetry: `OrbitSpace.of(hilbert, symmetry)`.

    A configuration is in this space if it is the lexicographically smallest of its orbit. `dimension` counts orbits;
    "uniform" is a representative with the probability of its orbit in the whole sector, where all configurations are
    equally probable.

    Raises:
        ValueError: the symmetry leaves the sector, or forbids all of its orbits.
    """

    symmetry: Symmetry = field(kw_only=True)
    _trees: dict[torch.device, RepresentativeTree] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, hilbert: HilbertSpace, symmetry: Symmetry, device: torch.device | str = "cpu") -> "OrbitSpace":
        """The orbits of a sector, listed on `device` first."""
        symmetry.orbits(hilbert, device)
        return cls(
            hilbert.n_sites,
            hilbert.local_states,
            hilbert.charges,
            hilbert.species,
            hilbert.exclusions,
            symmetry=symmetry,
        )

    def __post_init__(self) -> None:
        if self.dimension == 0:
            raise ValueError(f"the symmetry forbids every configuration of {self.sector}: choose another character.")

    @cached_property
    def sector(self) -> HilbertSpace:
        """All configurations."""
        return HilbertSpace(self.n_sites, self.local_states, self.charges, self.species, self.exclusions)

    @cached_property
    def dimension(self) -> int:
        return self.symmetry.number_of_orbits(self.sector)

    @property
    def start(self) -> int:
        return 0

    @property
    def n_remainders(self) -> int:
        """Number of nodes, M."""
        return len(self._any_tree.below) - 1

    @cached_property
    def last_is_determined(self) -> bool:
        return self._any_tree.last_is_determined

    def orbits(self, device: torch.device | str) -> Orbits:
        return self.symmetry.orbits(self.sector, device)

    def tables(self, device: torch.device | str) -> SectorTables:
        return self._tree(torch.device(device)).tables

    def remainders(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        return self._nodes(n)[0]

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        inside = (n < self.local_dim).all(1)
        return inside & (self._nodes(n.clamp(max=self.local_dim - 1))[1] == self._end(n.device))

    def rank(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        return self._tree(n.device).below[self.remainders(n), n.long()].sum(1)

    def unrank(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B L"]:
        return self.orbits(index.device).representatives[index]

    def __str__(self) -> str:
        return f"{self.dimension:,} orbits of {self.symmetry.order} symmetries in {self.sector}"

    def _nodes(self, n: UInt8[Tensor, "B L"]) -> tuple[Int64[Tensor, "B L"], Int64[Tensor, " B"]]:
        """Node before every site, and after the last."""
        advance = self.tables(n.device).advance.flatten()
        node = torch.full((len(n),), self.start, device=n.device)
        nodes = []
        for token in n.long().T:
            nodes.append(node)
            node = advance[node * self.local_dim + token]
        return torch.stack(nodes, dim=1), node

    def _end(self, device: torch.device) -> int:
        return len(self._tree(device).below) - 2

    @property
    def _any_tree(self) -> RepresentativeTree:
        """The tree on a device that has it already; trees of many orbits take minutes on a CPU."""
        return next(iter(self._trees.values()), None) or self._tree(torch.device("cpu"))

    def _tree(self, device: torch.device) -> RepresentativeTree:
        if device not in self._trees:
            self._trees[device] = representative_tree(*self.orbits(device), self.local_dim)
        return self._trees[device]


def representative_tree(n: UInt8[Tensor, "N L"], weights: Int64[Tensor, " N"], local_dim: int) -> RepresentativeTree:
    """The tree of configurations in lexicographic order.

    Args:
        weights: of the configurations in the distribution whose conditionals `log_uniform` are, (N,).
    """
    (N, L), device, d = n.shape, n.device, local_dim
    # A row starts a new prefix where one of the sites up to its end differs from the row before.
    differs = torch.zeros(N, dtype=torch.bool, device=device)
    differs[0] = True
    prefix, begin = torch.zeros(N, dtype=torch.int64, device=device), 0  # numbered from 0 among those of its length
    levels = []
    for s in range(L):
        number = int(prefix[-1]) + 1
        child = prefix * d + n[:, s]
        differs[1:] |= n[1:, s] != n[:-1, s]
        prefix = differs.cumsum(0) - 1 if s + 1 < L else torch.zeros_like(prefix)
        begin += number
        advance = torch.full((number * d,), -1, device=device).index_copy_(0, child, begin + prefix)
        carried = torch.zeros(number * d, dtype=torch.float64, device=device).index_add_(0, child, weights.double())
        leaves = torch.zeros_like(advance).index_add_(0, child, torch.ones_like(child)).view(-1, d)
        carried = carried.view(-1, d)
        log_uniform = (carried / carried.sum(1, keepdim=True)).log()
        levels.append((advance.view(-1, d), log_uniform, leaves.cumsum(1) - leaves))
    determined = len(carried) == N  # nothing branches at the last site
    # All representatives end in one node. It leads to the sink, as do local states that no representative has next.
    last = torch.full((2, d), -1, device=device)
    levels.append((last, torch.zeros_like(last, dtype=torch.float64), torch.zeros_like(last)))
    advance, log_uniform, below = map(torch.cat, zip(*levels, strict=True))
    advance[advance < 0] = begin + 1
    return RepresentativeTree(SectorTables(advance, log_uniform.expand(L, -1, -1)), below, determined)
