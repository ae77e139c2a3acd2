"""Decoding of a padded frontier that several ranks share: as `nqs.samplers.decoding`, with shapes that never change.

Up to a site that is given before, all ranks decode every prefix. Then the prefixes are dealt, and from there on each
rank decodes its own in so many places that those which it may get fit in. Nothing here waits for the device, so that
CUDA graphs can hold it, messages included.
"""

# Shapes: C places on the frontier, C2 of the next one, S places of a rank, d local states.
import math
from typing import Any

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState
from nqs.runtime.distributed import ALONE, Communicator
from nqs.samplers.decoding import dealt

SHARE_MARGIN = 1.1  # places of a rank, in units of an equal share


class DealtPlaces:
    """State of a frontier: the places of this rank with their network state, and the owner of every place.

    Attributes:
        own: state of the network for the places of this rank.
        most: the largest number of places that a rank owns.
    """

    own: DecodingState

    def __init__(self, owner: Int64[Tensor, " C"], used: Bool[Tensor, " C"], share: int, ranks: Communicator) -> None:
        self.owner, self.ranks, self.share = owner, ranks, share
        is_of = (owner == torch.arange(ranks.size, device=owner.device)[:, None]) & used  # (ranks, C)
        until = is_of.flatten().cumsum(0).view(is_of.shape)  # in one row: GPUs are slow with several short scans
        before = torch.nn.functional.pad(until[:-1, -1], (1, 0))
        self.most = (until[:, -1] - before).max()
        within = until.gather(0, owner[None])[0] - before[owner] - 1
        self.within = within.clamp(0, share - 1)  # among those of its owner
        self.own_places = compacted(is_of[ranks.rank], share)

    def gathered(self, conditionals: Conditionals, has_phase: bool) -> Conditionals:
        """Conditionals of all places."""
        log_p, phase = conditionals
        sent = torch.cat([log_p, phase], dim=1) if has_phase else log_p
        (found,) = self.ranks.gather_padded(sent, rows=self.share)
        found = found.index_select(0, self.owner * self.share + self.within)
        d = log_p.shape[1]
        return Conditionals(found[:, :d], found[:, d:] if has_phase else torch.zeros_like(found))

    def select(self, rows: Int64[Tensor, " C2"], used: Bool[Tensor, " C2"]) -> "DealtPlaces":
        """The state of children, which stay with the rank of their parent."""
        found = DealtPlaces(self.owner.index_select(0, rows), used, self.share, self.ranks)
        found.own = self.own.select(self.within[rows[found.own_places]])
        return found


class PaddedDecoding:
    """`start` and `step` of an autoregressive wavefunction for a padded frontier.

    Args:
        capacity: places of the whole frontier.
        deal_at: number of decoded sites from which on the ranks have their own places.

    Attributes:
        share: places of a rank.
        most: the largest number of places that a rank needed, None of a single one; beyond `share` the draw is wrong.
    """

    def __init__(
        self, wavefunction: AutoregressiveWavefunction, capacity: int, ranks: Communicator = ALONE, deal_at: int = 0
    ) -> None:
        self.wavefunction, self.capacity, self.ranks, self.deal_at = wavefunction, capacity, ranks, deal_at
        self.share = share_of(capacity, ranks.size)
        self.most: Tensor | None = None

    def start(self, batch: int) -> DecodingState:
        return self.wavefunction.start(batch)

    def step(self, tokens: UInt8[Tensor, " C"] | None, state: Any) -> tuple[Conditionals, Any]:
        """Conditionals of all places."""
        if isinstance(state, DealtPlaces):
            assert tokens is not None
            own, state.own = self.wavefunction.step(tokens.index_select(0, state.own_places), state.own)
            return state.gathered(own, self.wavefunction.has_phase), state
        conditionals, state = self.wavefunction.step(tokens, state)
        if self.ranks.size > 1:
            conditionals = Conditionals(*(x.contiguous() for x in conditionals))
            self.ranks.from_first(*conditionals)  # equal to the last bit: all draws follow from them
        return conditionals, state

    def select(self, state: Any, rows: Int64[Tensor, " C"], counts: Int64[Tensor, " C"], site: int) -> Any:
        """State after a site.

        Args:
            rows: parent of every place.
            counts: samples of every place; 0 for an empty one.
        """
        if self.ranks.size == 1:
            return state.select(rows)
        if isinstance(state, DealtPlaces):
            found = state.select(rows, counts > 0)
        elif site + 1 >= self.deal_at:
            found = DealtPlaces(dealt(counts, self.ranks.size), counts > 0, self.share, self.ranks)
            found.own = state.select(rows[found.own_places])
        else:
            return state.select(rows)
        self.most = found.most if self.most is None else torch.maximum(found.most, self.most)
        return found


def share_of(capacity: int, size: int) -> int:
    """Places of a rank."""
    return capacity if size == 1 else math.ceil(SHARE_MARGIN * capacity / size)


def compacted(chosen: Bool[Tensor, " N"], capacity: int) -> Int64[Tensor, " C"]:
    """Positions of the first `capacity` True entries in their order, padded with N - 1."""
    return positions_of(chosen.cumsum(0), torch.arange(1, capacity + 1, device=chosen.device))


def positions_of(until: Int64[Tensor, " N"], numbers: Int64[Tensor, " C"]) -> Int64[Tensor, " C"]:
    """Positions of the True entries with these numbers, 1 for the first one; N - 1 where there are fewer.

    Args:
        until: number of True entries up to each position.
    """
    return torch.searchsorted(until, numbers).clamp_(max=len(until) - 1)
