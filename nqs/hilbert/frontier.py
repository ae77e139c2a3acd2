"""Walk through a sector with constraints between sites: the state of a prefix is what later sites must know of it.

Sites that exclude local states of a later one form the frontier. The state of a prefix is the charge that is still
missing together with the local states of the frontier, as far as they differ in what they exclude. The states that
occur are listed site by site, so that charges of few sites (one dimer on every vertex) take little room as well. A
ring of L atoms under a blockade has 4 states; a torus of W x W about as many as two of its rows have configurations.
"""

# Shapes: B configurations, L sites, d local states, R states, N states before one site, C charges, F frontier sites.
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nqs.hilbert.exclusions import Exclusion, excluded_pairs
from nqs.hilbert.remainders import Remainders

MAX_TABLE = 2**24  # entries of a table of transitions: 128 MiB


class Frontier:
    """States of the prefixes of a sector with exclusions: a `nqs.hilbert.completions.Walk`.

    Args:
        remainders: the conserved charges, built with `sites_differ`.
        exclusions: the constraints between sites.

    Raises:
        ValueError: the table of transitions would be too large.
    """

    sites_differ = True

    def __init__(self, remainders: Remainders, exclusions: Sequence[Exclusion]) -> None:
        self._remainders, self._exclusions = remainders, exclusions
        self.charges, self.local_dims = remainders.charges, remainders.local_dims
        self.n_sites, self.local_dim = remainders.n_sites, remainders.local_dim
        self._relations = excluded_pairs(exclusions, self.local_dim)
        self._on_device: dict[torch.device, Tensor] = {}
        self._pairs: dict[torch.device, list[Int64[Tensor, "2 pairs"]]] = {}  # of the exclusions, by device
        levels = self._levels()
        self.number = max((len(level) for level in levels), default=0)  # R
        self.start = 0 if len(levels) == self.n_sites else -1
        self.advance = np.full((self.n_sites, self.number + 1, self.local_dim), self.number)
        for table, level in zip(self.advance, levels, strict=False):
            table[: len(level)] = np.where(level < 0, self.number, level)

    def _levels(self) -> list[np.ndarray]:
        """(N, d) of every site: state after each local state, -1 if it is excluded; fewer sites if none is left."""
        missing = np.array([[charge.target for charge in self.charges]], dtype=np.int64)  # (N, C)
        exact = np.array([charge.modulus is None for charge in self.charges], dtype=bool)
        if (missing < 0).any():
            return []
        moduli = [charge.modulus or charge.target + 1 for charge in self.charges]
        values = np.zeros((self.n_sites, len(self.charges), self.local_dim), dtype=np.int64)
        for c, charge in enumerate(self.charges):
            values[:, c] = charge.values
        most = np.zeros((self.n_sites + 1, len(self.charges)), dtype=np.int64)  # that the sites s .. L-1 can carry
        most[:-1] = values.max(2)[::-1].cumsum(0)[::-1]
        memory, frontier = np.zeros((1, 0), dtype=np.int64), list[int]()  # (N, F) and the F sites
        levels: list[np.ndarray] = []
        for site in range(self.n_sites):
            left = missing[:, :, None] - values[site]  # (N, C, d)
            left = np.where(exact[:, None], left, left % np.array(moduli, dtype=np.int64)[:, None])
            allowed = ((left >= 0) & (left <= most[site + 1][:, None]))[:, exact].all(1)
            if site == self.n_sites - 1:
                allowed &= (left == 0).all(1)
            allowed &= np.arange(self.local_dim) < self.local_dims[site]
            for place, earlier in enumerate(frontier):
                if (earlier, site) in self._relations:
                    allowed &= ~self._relations[earlier, site][self._classes[earlier][1][memory[:, place]]]
            row, token = allowed.nonzero()
            if not len(row):
                return levels
            kept = [place for place, earlier in enumerate(frontier) if self._last_partner(earlier) > site]
            frontier = [frontier[place] for place in kept]
            memory, missing = memory[row][:, kept], left[row, :, token]
            if self._last_partner(site) > site:
                frontier.append(site)
                memory = np.hstack([memory, self._classes[site][0][token][:, None]])
            sizes = [*moduli, *(len(self._classes[earlier][1]) for earlier in frontier)]
            first, index = _distinct(np.hstack([missing, memory]), sizes)
            memory, missing = memory[first], missing[first]
            levels.append(np.full(allowed.shape, -1))
            levels[-1][row, token] = index
            self._check_size(len(first), site, frontier)
        return levels

    @cached_property
    def _classes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each site, the class of every local state, (d,), and a state of each class: equal in what they exclude."""
        found = []
        for site in range(self.n_sites):
            tables = [table for (i, _), table in self._relations.items() if i == site]
            rows = np.hstack([np.zeros((self.local_dim, 1), dtype=bool), *tables])
            _, first, classes = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            found.append((classes.reshape(-1), first))
        return found

    @cached_property
    def _last_partners(self) -> dict[int, int]:
        last: dict[int, int] = {}
        for i, j in self._relations:
            last[i] = max(j, last.get(i, -1))
        return last

    def _last_partner(self, site: int) -> int:
        """The last site on which this one excludes local states; -1 if there is none."""
        return self._last_partners.get(site, -1)

    def _check_size(self, states: int, site: int, frontier: Sequence[int]) -> None:
        size = self.n_sites * states * self.local_dim
        if size > MAX_TABLE:
            raise ValueError(
                f"the charges and constraints need a table of at least {self.n_sites} sites x {states:,} states of a "
                f"prefix x {self.local_dim} local states = {size:.1e} entries, the limit is {MAX_TABLE:.1e}: "
                f"site {site} is followed by neighbours of {len(frontier)} sites before it. Use a narrower lattice, "
                "with its longest direction first, or shorter constraints."
            )

    # --- configurations ---------------------------------------------------------------------------------------

    def before(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """State before every site of the configurations n; the sink once a prefix is excluded."""
        if n.device not in self._on_device:
            self._on_device[n.device] = torch.from_numpy(self.advance).to(n.device).flatten(1)  # (L, (R + 1) d)
        states = [torch.zeros(len(n), dtype=torch.int64, device=n.device)]
        for table, token in zip(self._on_device[n.device][:-1], n.T.contiguous(), strict=False):
            states.append(table[states[-1] * self.local_dim + token])
        return torch.stack(states, dim=1)

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Which of the configurations lie in the sector: all pairs of sites at once, not site by site."""
        inside = self._remainders.contains(n)
        if n.device not in self._pairs:
            lists = [torch.tensor(exclusion.pairs, dtype=torch.int64) for exclusion in self._exclusions]
            self._pairs[n.device] = [pairs.view(-1, 2).T.to(n.device) for pairs in lists]
        for exclusion, (i, j) in zip(self._exclusions, self._pairs[n.device], strict=True):
            first, second = n[:, i], n[:, j]  # (B, pairs)
            for a, b in exclusion.states:
                inside &= ~((first == a) & (second == b)).any(1)
        return inside


def _distinct(rows: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Index of one of each kind of rows (N, k), and the kind of every row. Column c holds 0 .. sizes[c] - 1."""
    if math.prod(sizes) < 2**63:  # one integer for each row sorts fastest
        rows = rows @ np.cumprod([1, *sizes[:0:-1]])[::-1] if len(sizes) else np.zeros(len(rows), dtype=np.int64)
    _, first, index = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, index.reshape(-1)
