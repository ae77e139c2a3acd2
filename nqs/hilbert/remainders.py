"""Walk through a sector of charges site by site: the state of a prefix is the charge that is still missing.

The remainder r before site s is a mixed-radix index over the conserved charges. Where all sites have the same local
states with the same charges, one table of transitions serves all of them.
"""

# Shapes: B configurations, L sites, d local states, R remainders; index R is the sink of prefixes outside the sector.
import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, UInt8
from torch import Tensor


class ConservedCharge(NamedTuple):
    """A charge with a target, on a scale on which no local state has a negative charge."""

    values: np.ndarray  # (d,), or (L, d) where sites differ
    target: int
    modulus: int | None
    tables: dict[torch.device, Int64[Tensor, "*L d"]]  # the values on devices that asked for them

    def carried(self, n: Integer[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Charge of the local state of every site."""
        # Copied once: at each copy the host would wait until a GPU has done all that it was asked for before.
        if n.device not in self.tables:
            self.tables[n.device] = torch.from_numpy(self.values).to(n.device)
        table = self.tables[n.device]
        return table[n.long()] if table.ndim == 1 else table[torch.arange(len(table), device=n.device), n.long()]


class Remainders:
    """Remainders of all conserved charges of a sector: a `nqs.hilbert.completions.Walk`.

    Args:
        charges: (values by site and local state (L, d), target, modulus or None) of each.
        local_dims: number of local states of every site.
        sites_differ: the local states or their charges differ from site to site.
    """

    def __init__(
        self, charges: Sequence[tuple[np.ndarray, int, int | None]], local_dims: Sequence[int], *, sites_differ: bool
    ) -> None:
        self.local_dims, self.local_dim, self.n_sites = local_dims, max(local_dims), len(local_dims)
        self.states_differ, self.sites_differ = len(set(local_dims)) > 1, sites_differ
        self._largest: dict[torch.device, Int64[Tensor, " L"]] = {}  # local_dims on devices that asked for them
        self._exists = np.arange(self.local_dim) < np.array(local_dims)[:, None]  # (L, d)
        self.charges = [self._from_zero(*charge) for charge in charges]
        # Remainders of each charge are 0 .. target, or 0 .. modulus - 1.
        self._sizes = [max(c.target, 0) + 1 if c.modulus is None else c.modulus for c in self.charges]
        self.number = math.prod(self._sizes)  # R

    def _from_zero(self, values: np.ndarray, target: int, modulus: int | None) -> ConservedCharge:
        if modulus is None:
            low = np.where(self._exists, values, np.iinfo(np.int64).max).min(1)
            values, target = values - low[:, None], target - int(low.sum())
        else:
            values, target = values % modulus, target % modulus
        return ConservedCharge(
            np.where(self._exists, values, 0) if self.sites_differ else values[0], target, modulus, {}
        )

    @property
    def start(self) -> int:
        """Remainder before the first site: the whole target; -1 if a target lies below the smallest charge."""
        targets = [charge.target for charge in self.charges]
        if any(target < 0 for target in targets):
            return -1
        return int(np.ravel_multi_index(targets, self._sizes)) if targets else 0

    @cached_property
    def advance(self) -> np.ndarray:
        """(R + 1, d), or (L, R + 1, d) where sites differ: remainder after each local state.

        It is R, the sink, where a charge overshoots its target or the site does not have the local state.
        """
        if not self.sites_differ:
            return self._transitions([charge.values for charge in self.charges])
        sites = [self._transitions([charge.values[site] for charge in self.charges]) for site in range(self.n_sites)]
        return np.where(self._exists[:, None], np.stack(sites), self.number)

    def _transitions(self, values_of_charges: list[np.ndarray]) -> np.ndarray:
        """(R + 1, d): remainder after each local state, with the values (d,) of every conserved charge."""
        R, d = self.number, self.local_dim
        missing = np.unravel_index(np.arange(R), self._sizes) if self._sizes else ()
        advance = np.zeros((R, d), dtype=np.int64)
        overshoots = np.zeros((R, d), dtype=bool)
        for charge, values, size, r in zip(self.charges, values_of_charges, self._sizes, missing, strict=True):
            left = r[:, None] - values
            if charge.modulus is None:
                overshoots |= left < 0
            else:
                left %= charge.modulus
            advance = advance * size + left
        advance[overshoots] = R
        return np.vstack([advance, np.full((1, d), R)])

    def before(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Remainder before every site of the configurations n; the sink once a prefix has overshot."""
        remainder = torch.zeros(n.shape, dtype=torch.int64, device=n.device)
        overshoots = torch.zeros(n.shape, dtype=torch.bool, device=n.device)
        for charge, size in zip(self.charges, self._sizes, strict=True):
            carried = charge.carried(n)
            # A GPU scans fastest along the first axis, in parallel over the batch.
            sums = carried.T.contiguous().cumsum(0).T.contiguous() if n.is_cuda else carried.cumsum(1)
            left = charge.target - (sums - carried)
            if charge.modulus is None:
                overshoots = overshoots | (left < 0)
            else:
                left = left % charge.modulus
            remainder = remainder * size + left
        if self.states_differ:
            missing = n >= self._local_dims(n.device)  # local states that the site does not have
            overshoots = overshoots | (missing.cumsum(1) > missing.long())
        return remainder.masked_fill(overshoots, self.number)

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Which of the configurations lie in the sector."""
        n = n.long()
        largest = self._local_dims(n.device) if self.states_differ else self.local_dim
        inside = (n < largest).all(1)
        safe = n.clamp(max=self.local_dim - 1)
        for charge in self.charges:
            total = charge.carried(safe).sum(1)
            inside &= (total if charge.modulus is None else total % charge.modulus) == charge.target
        return inside

    def _local_dims(self, device: torch.device) -> Int64[Tensor, " L"]:
        if device not in self._largest:
            self._largest[device] = torch.tensor(self.local_dims, device=device)
        return self._largest[device]
