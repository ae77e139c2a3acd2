"""Decoding of prefixes that several ranks share (nqs.runtime.distributed): one frontier, the network's work split.

Every rank knows all prefixes of the frontier and draws the same random numbers for them; what costs, the states of the
network and its conditionals, belongs to one rank each. From the root on all ranks decode everything, until there are
enough prefixes: these groups are sorted by their weights and dealt to the ranks in a snake, 0 1 2 2 1 0 0 1 .., so that
each gets large and small ones. All descendants of a prefix stay with its rank, which needs no exchange of states; the
conditionals of a site are gathered.

The draws are those of a single process, whatever the number of ranks, up to the rounding of network evaluations in
batches of another shape.
"""

# Shapes: F prefixes on the frontier, F2 of the next one, d local states.
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState
from nqs.runtime.distributed import Communicator, communicator

GROUPS = 512  # prefixes that are dealt


@dataclass
class SharedState:
    """State of a frontier: the part of the network's state that this rank has, and the owner of every prefix.

    Attributes:
        own: state of the prefixes of this rank, in their order.
        owner: rank of every prefix, (F,).
    """

    own: DecodingState
    owner: Int64[Tensor, " F"]
    ranks: Communicator

    @cached_property
    def own_rows(self) -> Int64[Tensor, " own"]:
        """Prefixes of this rank."""
        return (self.owner == self.ranks.rank).nonzero()[:, 0]

    @cached_property
    def sizes(self) -> list[int]:
        """Number of prefixes of every rank."""
        return torch.bincount(self.owner, minlength=self.ranks.size).tolist()

    @cached_property
    def places(self) -> Int64[Tensor, " F"]:
        """Place of every prefix where those of all ranks follow each other, each filled up to the largest number."""
        order = torch.argsort(self.owner, stable=True)
        sizes = torch.tensor(self.sizes, device=order.device)
        start = torch.arange(len(sizes), device=order.device) * max(self.sizes) - (sizes.cumsum(0) - sizes)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device) + start[self.owner[order]]
        return places

    def gathered(self, conditionals: Conditionals) -> Conditionals:
        """Conditionals of all prefixes, from those of each rank."""
        found = self.ranks.gather_padded(*conditionals, rows=max(self.sizes))
        return Conditionals(*(x.index_select(0, self.places) for x in found))

    def select(self, rows: Int64[Tensor, " F2"]) -> "SharedState":
        return SharedState(self.own.select(self._of_own(rows)), self.owner[rows], self.ranks)

    def branch(self, rows: Int64[Tensor, " F2"]) -> "SharedState":
        return SharedState(self.own.branch(self._of_own(rows)), self.owner[rows], self.ranks)

    def _of_own(self, rows: Int64[Tensor, " F2"]) -> Int64[Tensor, " own2"]:
        """Rows of prefixes of this rank, counted among these."""
        number = (self.owner == self.ranks.rank).cumsum(0) - 1
        mine = rows[self.owner[rows] == self.ranks.rank]
        return number[mine]


class Decoding:
    """`start` and `step` of an autoregressive wavefunction; on several ranks after `deal` each decodes its own part.

    Args:
        groups: number of prefixes from which on they are dealt.
    """

    def __init__(self, wavefunction: AutoregressiveWavefunction, groups: int = GROUPS) -> None:
        self.wavefunction, self.groups, self.ranks = wavefunction, groups, communicator()

    def start(self, batch: int) -> DecodingState:
        """State of empty prefixes, all of them on every rank."""
        return self.wavefunction.start(batch)

    def start_shared(self, batch: int, device: torch.device) -> DecodingState:
        """The same, dealt in blocks of equal size."""
        if self.ranks.size == 1:
            return self.wavefunction.start(batch)
        share = self.ranks.share(batch)
        rows = torch.arange(batch, device=device)
        owner = rows.div(max(1, self.ranks.rows_of_share(batch)), rounding_mode="floor")
        return SharedState(self.wavefunction.start(share.stop - share.start), owner, self.ranks)

    def step(self, tokens: UInt8[Tensor, " F"] | None, state: DecodingState) -> tuple[Conditionals, DecodingState]:
        """Conditionals of all prefixes, as those of the wavefunction."""
        if self.ranks.size == 1:
            return self.wavefunction.step(tokens, state)
        if not isinstance(state, SharedState):
            conditionals, state = self.wavefunction.step(tokens, state)
            conditionals = Conditionals(*(x.contiguous() for x in conditionals))
            self.ranks.from_first(*conditionals)  # equal to the last bit: all draws follow from them
            return conditionals, state
        if len(state.own_rows):
            own_tokens = None if tokens is None else tokens.index_select(0, state.own_rows)
            conditionals, state.own = self.wavefunction.step(own_tokens, state.own)
        else:
            nothing = torch.empty((0, self.wavefunction.hilbert.local_dim), dtype=torch.float64)
            conditionals = Conditionals(*2 * [nothing.to(state.owner.device)])
        return state.gathered(conditionals), state

    def deal(self, state: DecodingState, weights: Tensor) -> DecodingState:
        """Distribute the prefixes among the ranks once there are enough.

        Args:
            weights: expected work of each prefix, (F,), the same on all ranks.
        """
        if self.ranks.size == 1 or isinstance(state, SharedState) or len(weights) < self.groups:
            return state
        owner = dealt(weights, self.ranks.size)
        self.ranks.from_first(owner)
        return SharedState(state.select((owner == self.ranks.rank).nonzero()[:, 0]), owner, self.ranks)


def dealt(weights: Float64[Tensor, " F"] | Int64[Tensor, " F"], size: int) -> Int64[Tensor, " F"]:
    """Rank of every group: dealt in a snake, the largest first."""
    order = torch.argsort(weights, descending=True, stable=True)
    turn = torch.arange(len(order), device=order.device)
    place, odd = turn % size, turn.div(size, rounding_mode="floor") % 2
    owner = torch.empty_like(order)
    owner[order] = torch.where(odd == 1, size - 1 - place, place)
    return owner
