"""Which configurations that share prefixes are evaluated together, and what they read of those before them.

In lexicographic order each configuration shares a prefix with its predecessor, and needs to be evaluated from there on;
what it needs of the sites before belongs to earlier configurations. All are a tree, evaluated from its root: first the
configurations that share least.

Nodes are the evaluated sites that later configurations read, and all that is kept in memory: of each configuration the
sites from its first evaluated one up to that of the next configuration. One that comes later and reads further would
share more with the next one.
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
    read: Int64[Tensor, "B S"]  # nodes of the sites before it; 0 from there on
    kept: Int64[Tensor, " n"]  # which of their B T evaluated sites become nodes
    nodes: slice  # these

    def keep_(self, of_nodes: Float[Tensor, "_ W"], evaluated: Float[Tensor, "_ W"]) -> None:
        """Writes rows of the evaluated sites to those of the nodes."""
        take_rows(evaluated, self.kept, out=of_nodes[self.nodes])


class PrefixTree:
    """The tree of some configurations.

    Args:
        shared: length of the prefix of each configuration that is also that of the one before it.
        n_sites: S.
        step: prefix lengths are rounded down to a multiple: fewer and larger batches for a few sites more.
        at_once: how many configurations to evaluate together that have T sites to evaluate.
    """

    def __init__(self, shared: Int64[Tensor, " K"], n_sites: int, step: int, at_once: Callable[[int], int]) -> None:
        self.n_sites = n_sites
        begin = (shared // step * step + 1).clamp_(max=n_sites)  # the first site that differs is seen by the next one
        begin[0] = 0
        self._order = begin.argsort(stable=True)
        nodes = (torch.nn.functional.pad(begin[1:], (0, 1)) - begin).clamp_(min=0)  # of each configuration
        self._nodes = nodes[self._order]
        after = self._nodes.cumsum(0)
        first = torch.empty_like(after).index_copy_(0, self._order, after - self._nodes)
        # Host synchronisations: these two, for all configurations.
        self._parts = parts_of(torch.bincount(begin, minlength=n_sites + 1).tolist(), n_sites, at_once)
        ends = torch.tensor([part.stop for _, part in self._parts], device=shared.device)
        self._known = [0, *after[ends - 1].tolist()]  # nodes before each part
        # Who owns a site: the last configuration so far for which it is evaluated.
        sites, rows = torch.arange(n_sites, device=shared.device), torch.arange(len(shared), device=shared.device)
        owner = torch.where(sites[:, None] >= begin, rows, 0).cummax(1).values.T  # (K, S); fast along many numbers
        self._read = ((first - begin)[owner] + sites).masked_fill_(sites >= begin[:, None], 0)

    @property
    def n_nodes(self) -> int:
        return self._known[-1]

    def __iter__(self) -> Iterator[Branches]:
        """From the root: what is read has become nodes before."""
        device = self._nodes.device
        places = torch.arange(len(self._nodes), device=device)
        owners = places.repeat_interleave(self._nodes, output_size=self.n_nodes)  # of each node
        sites = torch.arange(self.n_nodes, device=device) - (self._nodes.cumsum(0) - self._nodes)[owners]
        for (begin, part), known, after in zip(self._parts, self._known[:-1], self._known[1:], strict=True):
            rows, nodes = self._order[part], slice(known, after)
            kept = (owners[nodes] - part.start) * (self.n_sites - begin) + sites[nodes]
            yield Branches(rows, begin, self._read[rows], kept, nodes)


def parts_of(sizes: list[int], n_sites: int, at_once: Callable[[int], int]) -> list[tuple[int, slice]]:
    """First evaluated site and place of each part, where so many configurations are evaluated from each site on."""
    parts, start = [], 0
    for begin, size in enumerate(sizes):
        stop, step = start + size, max(1, at_once(n_sites - begin))
        parts += [(begin, slice(first, min(first + step, stop))) for first in range(start, stop, step)]
        start = stop
    return parts
