"""How many completions a prefix has: dimension, lexicographic rank and uniform sampling of a sector.

One backward table over the states of a walk (`nqs.hilbert.remainders`, `nqs.hilbert.frontier`) counts them,

    counts[s, r] = sum_n counts[s + 1, advance[s, r, n]],    counts[L, r] = 1 if r = 0 else 0,

and a prefix is kept only if its count is not 0. The counts are Python integers, so that every dimension is exact.
"""

# Shapes: B configurations, L sites, d local states, R remainders; index R is the sink of prefixes outside the sector.
import math
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.runtime.memory import require_memory

INTEGER_BYTES = 40  # of a Python integer and its place in a table, besides its digits


def count_text(number: int) -> str:
    """12,345 or, of more than twelve digits, 1.234e+480: floating-point numbers end at 1e+308."""
    return f"{number:,}" if number < 10**12 else f"{Decimal(number):.3e}"


class SectorTables(NamedTuple):
    """Walk through the sector site by site, as tensors on one device; the last remainder (index R) is a sink."""

    # Remainder after choosing a local state, the sink if that overshoots: (R1, d), or (L, R1, d) where sites differ.
    advance: Int64[Tensor, "*L R1 d"]
    log_uniform: Float64[Tensor, "L R1 d"]  # log conditionals of the uniform distribution over the sector

    def after(self, site: int, remainder: Int64[Tensor, " B"], token: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """Remainders after choosing the local states `token` at a site."""
        advance = self.advance if self.advance.ndim == 2 else self.advance[site]
        return advance[remainder, token]


class Walk(Protocol):
    """Finite states that prefixes of configurations lead to, numbered 0 .. R - 1; 0 after the last site is the sector.

    Attributes:
        n_sites: L.
        sites_differ: the transitions differ from site to site.
        number: R.
        start: state of the empty prefix; -1 if the sector is empty.
        advance: state after each local state, the sink R if no continuation lies in the sector: (R + 1, d), or
            (L, R + 1, d) where sites differ.
    """

    @property
    def n_sites(self) -> int: ...

    @property
    def sites_differ(self) -> bool: ...

    @property
    def number(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def advance(self) -> np.ndarray: ...

    def before(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """State before every site of the configurations n."""

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Which of the configurations lie in the sector."""


class Completions:
    """Completions of all prefixes, counted backwards from the last site."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._tables: dict[torch.device, SectorTables] = {}

    def _following(self, x: np.ndarray) -> np.ndarray:
        """(L, R + 1, d): entries of x, (L + 1, R + 1), after each local state of each site."""
        if not self.walk.sites_differ:
            return x[1:, self.walk.advance]
        return np.stack([row[advance] for row, advance in zip(x[1:], self.walk.advance, strict=True)])

    @cached_property
    def _counts(self) -> np.ndarray:
        """(L + 1, R + 1) Python integers: configurations of sites s .. L-1 that carry exactly the remainder.

        Raises:
            ValueError: they do not fit into memory.
        """
        entries = (self.walk.n_sites + 1) * (self.walk.number + 1)
        L, R, d = self.walk.n_sites, self.walk.number, max(2, self.walk.advance.shape[-1])
        digits = min(L * math.log2(d), R * math.log2(L * d)) / 8  # bytes of the largest count, about
        require_memory(
            entries * (INTEGER_BYTES + digits / 2),
            f"counting the configurations of {L:,} sites with {R:,} remainders",
            "take fewer sites",
        )
        counts = np.zeros((self.walk.n_sites + 1, self.walk.number + 1), dtype=object)
        counts[-1, 0] = 1
        for site in reversed(range(self.walk.n_sites)):
            for column in (self.walk.advance[site] if self.walk.sites_differ else self.walk.advance).T:
                counts[site] = counts[site] + counts[site + 1][column]
        return counts

    @cached_property
    def dimension(self) -> int:
        """Number of configurations in the sector, exact."""
        return int(self._counts[0, self.walk.start]) if self.walk.start >= 0 else 0

    @cached_property
    def below(self) -> np.ndarray:
        """(L, R + 1, d) int64: configurations that share a prefix and continue with a smaller local state.

        Raises:
            ValueError: the dimension does not fit into 64-bit integers.
        """
        if self.dimension >= 2**63:
            raise ValueError(
                f"dimension {count_text(self.dimension)} does not fit into 64-bit integers: configurations of this "
                "sector cannot be ranked or enumerated. Sample it instead."
            )
        following = self._following(self._counts)
        below = following.cumsum(2) - following
        # Larger entries belong to remainders that no prefix from the start reaches: never looked up.
        return np.minimum(below, 2**63 - 1).astype(np.int64)

    def tables(self, device: torch.device) -> SectorTables:
        """See `HilbertSpace.tables`."""
        if device not in self._tables:
            log_counts = np.array([[math.log(c) if c else -math.inf for c in row] for row in self._counts])
            reachable = np.isfinite(log_counts[:-1])  # (L, R + 1)
            log_uniform = self._following(log_counts)  # (L, R + 1, d)
            log_uniform[~reachable] = 0.0
            log_uniform[reachable] -= log_counts[:-1][reachable][:, None]
            self._tables[device] = SectorTables(
                torch.from_numpy(self.walk.advance).to(device), torch.from_numpy(log_uniform).to(device)
            )
        return self._tables[device]
