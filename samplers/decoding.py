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
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState
from nqs.runtime.distributed import Communicator, communicator

GROUPS = 512  # prefixes that are dealt


class SharedState:
    """State of a frontier: the part of the network's state that this rank has, and the owner of every prefix.

    Attributes:
        own: state of the prefixes of this rank, in their order.
        owner: rank of every prefix, (F,).
        has_phase: the conditionals have phases other than 0.
    """

    def __init__(self, owner: Int64[Tensor, " F"], ranks: Communicator, has_phase: bool) -> None:
        self.owner, self.ranks, self.has_phase = owner, ranks, has_phase
        # Not bincount, which waits for the device.
        numbers = (owner[:, None] == torch.arange(ranks.size, device=owner.device)).sum(0)
        self._order = torch.argsort(owner.short(), stable=True)  # those of rank 0 first; short keys are sorted faster
        self._within = torch.empty_like(self._order)  # number of every prefix among those of its rank
        self._within[self._order] = torch.arange(len(owner), device=owner.device)
        self._within -= (numbers.cumsum(0) - numbers)[owner]
        self.sizes: list[int] = numbers.tolist()

    own: DecodingState

    @property
    def own_rows(self) -> Int64[Tensor, " own"]:
        """Prefixes of this rank."""
        first = sum(self.sizes[: self.ranks.rank])
        return self._order[first : first + self.sizes[self.ranks.rank]]

    def gathered(self, conditionals: Conditionals) -> Conditionals:
        """Conditionals of all prefixes, from those of each rank."""
        rows, (log_p, phase) = max(self.sizes), conditionals
        sent = torch.cat([log_p, phase], dim=1) if self.has_phase else log_p
        (found,) = self.ranks.gather_padded(sent, rows=rows)
        found = found.index_select(0, self.owner * rows + self._within)
        d = log_p.shape[1]
        return Conditionals(found[:, :d], found[:, d:] if self.has_phase else torch.zeros_like(found))

    def select(self, rows: Int64[Tensor, " F2"]) -> "SharedState":
        found = SharedState(self.owner[rows], self.ranks, self.has_phase)
        found.own = self.own.select(self._within[rows[found.own_rows]])
        return found

    def branch(self, rows: Int64[Tensor, " F2"]) -> "SharedState":
        found = SharedState(self.owner[rows], self.ranks, self.has_phase)
        found.own = self.own.branch(self._within[rows[found.own_rows]])
        return found


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
        state = SharedState(owner, self.ranks, self.wavefunction.has_phase)
        state.own = self.wavefunction.start(share.stop - share.start)
        return state

    def step(self, tokens: UInt8[Tensor, " F"] | None, state: DecodingState) -> tuple[Conditionals, DecodingState]:
        """Conditionals of all prefixes, as those of the wavefunction."""
        if self.ranks.size == 1:
            return self.wavefunction.step(tokens, state)
        if not isinstance(state, SharedState):
            conditionals, state = self.wavefunction.step(tokens, state)
            conditionals = Conditionals(*(x.contiguous() for x in conditionals))
            self.ranks.from_first(*conditionals)  # equal to the last bit: all draws follow from them
            return conditionals, state
        if state.sizes[self.ranks.rank]:
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
        shared = SharedState(owner, self.ranks, self.wavefunction.has_phase)
        shared.own = state.select(shared.own_rows)
        return shared


def dealt(weights: Float64[Tensor, " F"] | Int64[Tensor, " F"], size: int) -> Int64[Tensor, " F"]:
    """Rank of every group: dealt in a snake, the largest first."""
    order = torch.argsort(weights, descending=True, stable=True)
    turn = torch.arange(len(order), device=order.device)
    place, odd = turn % size, turn.div(size, rounding_mode="floor") % 2
    owner = torch.empty_like(order)
    owner[order] = torch.where(odd == 1, size - 1 - place, place)
    return owner
