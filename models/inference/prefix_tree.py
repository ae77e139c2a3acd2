"""Evaluation order of configurations with shared prefixes, and the stored sites that each reads.

In lexicographic order each configuration shares a prefix with its predecessor and is evaluated after it; results for
the prefix belong to earlier configurations. Together they form a tree, evaluated from its root: configurations with the
shortest shared prefix first.

Nodes are the evaluated sites that later configurations read; only they are stored. For each configuration these are the
sites from its first evaluated site up to that of the next configuration: a later configuration that read further would
share a longer prefix with the next one.
"""

# Shapes: K configurations, B of them evaluated together, S evaluated sites of all, T last of them, N nodes, W numbers.
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nqs.models.inference.kernels import take_rows


class Branches(NamedTuple):
    """Configurations evaluated together: from the same site on."""

    rows: Int64[Tensor, " B"]
    begin: int  # first evaluated site, S - T
    read: Int64[Tensor, "B S"]  # node of every earlier site; 0 from `begin` on
    kept: Int64[Tensor, " n"]  # evaluated sites (out of B T) that become nodes
    nodes: slice  # where these are stored

    def keep_(self, of_nodes: Float[Tensor, "_ W"], evaluated: Float[Tensor, "_ W"]) -> None:
        """Write the rows of evaluated sites that become nodes to storage."""
        take_rows(evaluated, self.kept, out=of_nodes[self.nodes])


class PrefixTree:
    """Prefix tree of configurations in lexicographic order.

    Args:
        shared: length of the prefix that each configuration shares with its predecessor.
        n_sites: S.
        step: prefix lengths are rounded down to its multiples: fewer, larger batches, a few extra sites.
        at_once: chunk size, as a function of the number T of sites to evaluate.
    """

    def __init__(self, shared: Int64[Tensor, " K"], n_sites: int, step: int, at_once: Callable[[int], int]) -> None:
        self.n_sites = n_sites
        begin = (shared // step * step + 1).clamp_(max=n_sites)  # the first differing site is input of the next one
        begin[0] = 0
        self._order = begin.argsort(stable=True)
        nodes = (torch.nn.functional.pad(begin[1:], (0, 1)) - begin).clamp_(
            min=0
        )  # number of nodes of each configuration
        self._nodes = nodes[self._order]
        after = self._nodes.cumsum(0)
        first = torch.empty_like(after).index_copy_(0, self._order, after - self._nodes)
        # The only two host synchronisations.
        self._parts = parts_of(torch.bincount(begin, minlength=n_sites + 1).tolist(), n_sites, at_once)
        ends = torch.tensor([part.stop for _, part in self._parts], device=shared.device)
        self._known = [0, *after[ends - 1].tolist()]  # nodes before each part
        # Owner of a site: the last configuration so far for which it is evaluated.
        sites, rows = torch.arange(n_sites, device=shared.device), torch.arange(len(shared), device=shared.device)
        owner = torch.where(sites[:, None] >= begin, rows, 0).cummax(1).values.T  # (K, S); fast along many numbers
        self._read = ((first - begin)[owner] + sites).masked_fill_(sites >= begin[:, None], 0)

    @property
    def n_nodes(self) -> int:
        return self._known[-1]

    def __iter__(self) -> Iterator[Branches]:
        """Parts from the root on: every node is written before it is read."""
        device = self._nodes.device
        places = torch.arange(len(self._nodes), device=device)
        owners = places.repeat_interleave(self._nodes, output_size=self.n_nodes)  # of each node
        sites = torch.arange(self.n_nodes, device=device) - (self._nodes.cumsum(0) - self._nodes)[owners]
        for (begin, part), known, after in zip(self._parts, self._known[:-1], self._known[1:], strict=True):
            rows, nodes = self._order[part], slice(known, after)
            kept = (owners[nodes] - part.start) * (self.n_sites - begin) + sites[nodes]
            yield Branches(rows, begin, self._read[rows], kept, nodes)


def parts_of(sizes: list[int], n_sites: int, at_once: Callable[[int], int]) -> list[tuple[int, slice]]:
    """First evaluated site and range of each part; sizes[s]: number of configurations evaluated from site s on."""
    parts, start = [], 0
    for begin, size in enumerate(sizes):
        stop, step = start + size, max(1, at_once(n_sites - begin))
        parts += [(begin, slice(first, min(first + step, stop))) for first in range(start, stop, step)]
        start = stop
    return parts
