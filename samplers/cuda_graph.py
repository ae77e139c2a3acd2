"""Tree sampling with static shapes, captured once as a CUDA graph and replayed for every draw.

Kernels of a small network take a few microseconds each, less than their launch. Here the frontier has a fixed capacity,
and unused places hold no samples, so that neither shapes nor addresses depend on the draw: one launch for all sites,
one host synchronisation per draw.

On a CPU the samples are those of TreeSampler, seed for seed; on a GPU random numbers depend on the capacity, and the
samples are equally distributed. The replayed draw equals `padded_draw` bit for bit.

Draws with a place for every sample, of at most 12,288, are made sample by sample, without a tree
(nqs.samplers.separate_draws).

Of several ranks the first one draws small numbers of samples for all; of large ones each rank decodes a part
(nqs.samplers.padded_decoding), messages included in the graph.
"""

# Shapes: C places on the frontier, L sites, d local states.
import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction
from nqs.runtime.distributed import ALONE, Communicator, communicator
from nqs.runtime.memory import free_memory
from nqs.samplers.capture import Captured, copied, on_side_stream, overwrite
from nqs.samplers.padded_decoding import PaddedDecoding, positions_of, share_of
from nqs.samplers.separate_draws import Drawn, GraphedSeparateDraw
from nqs.samples import LARGEST_BINOMIAL, split_counts

MAX_CAPACITY = 2**15  # of a rank; above it the kernels take longer than their launch
# Bytes of the states of all places: a graph keeps a few times as many for as long as it lives. At most, and in parts of
# the free memory.
MAX_BYTES, FREE_PART = 2**32, 8
MARGIN = 1.25  # capacity per expected distinct configuration
LEAST_SPLIT = 2**14  # places of a draw that ranks share: of fewer, its launches take as long as its kernels
PREFIXES = 2048  # that are dealt, at least: their descendants are then about equally many on all ranks


class Leaves(NamedTuple):
    """Configurations in lexicographic order; places from index `number` on are empty."""

    tokens: UInt8[Tensor, "C L"]
    counts: Int64[Tensor, " C"]
    log_p: Float64[Tensor, " C"]
    phase: Float64[Tensor, " C"]
    sizes: Int64[Tensor, " L"]  # prefixes after each site; where a number exceeds C, samples are missing
    most: Int64[Tensor, ""]  # places that the rank with most prefixes needed; the same for its places

    @property
    def number(self) -> Int64[Tensor, ""]:
        return self.sizes[-1]

    @property
    def largest(self) -> Int64[Tensor, ""]:
        """Places that the draw needed; where it exceeds C, samples are missing."""
        return self.sizes.max()


def padded_draw(decoding: PaddedDecoding, n_samples: Int64[Tensor, " 1"], generator: torch.Generator) -> Leaves:
    """A draw of n_samples samples; shapes depend on the capacity alone, without host synchronisation."""
    wavefunction, device, capacity = decoding.wavefunction, generator.device, decoding.capacity
    L, d = wavefunction.hilbert.n_sites, wavefunction.hilbert.local_dim
    tokens = torch.zeros((1, L), dtype=torch.uint8, device=device)
    counts = n_samples
    log_p = phase = torch.zeros(1, dtype=torch.float64, device=device)
    numbers = torch.arange(1, capacity + 1, device=device)
    state, sizes = decoding.start(1), []
    for site in range(L):
        conditionals, state = decoding.step(tokens[:, site - 1] if site else None, state)
        child_counts = split_counts(counts, conditionals.log_p.exp(), generator, LARGEST_BINOMIAL).flatten()  # (C d)
        until = (child_counts > 0).cumsum(0)
        sizes.append(until[-1])
        of_places = numbers[: len(until)]
        children = positions_of(until, of_places)
        rows = children.div(d, rounding_mode="floor")
        counts = child_counts.index_select(0, children).mul_(of_places <= until[-1])
        log_p = (log_p[:, None] + conditionals.log_p).flatten().index_select(0, children)
        if wavefunction.has_phase:
            phase = (phase[:, None] + conditionals.phase).flatten().index_select(0, children)
        tokens = tokens.index_select(0, rows)
        tokens[:, site] = children.remainder_(d)
        if site + 1 < L:
            state = decoding.select(state, rows, counts, site)
    if not wavefunction.has_phase:
        phase = torch.zeros_like(log_p)
    most = sizes[-1] if decoding.most is None else decoding.most
    return Leaves(tokens, counts, log_p, phase, torch.stack(sizes), most)


def capacity_for(
    wavefunction: AutoregressiveWavefunction, n_samples: int, n_distinct: int | None, ranks: Communicator = ALONE
) -> int | None:
    """Capacity for a draw, 2^k or 3 2^k; None if it is too large to gain from a CUDA graph, or has
    counts that need draws of random length.

    Args:
        n_distinct: expected number of distinct configurations; None if unknown.
        ranks: that share the draw.
    """
    if n_samples > LARGEST_BINOMIAL:
        return None
    largest = min(n_samples, wavefunction.hilbert.dimension)
    if n_distinct is not None:
        largest = min(largest, math.ceil(MARGIN * n_distinct))
    power = 2 ** (largest - 1).bit_length()
    capacity = 3 * power // 4 if power >= 4 and 3 * power // 4 >= largest else power
    share = share_of(capacity, ranks.size)
    fits = capacity <= MAX_CAPACITY * ranks.size and share * wavefunction.bytes_per_configuration <= MAX_BYTES
    return capacity if fits else None


def serves(places: int, capacity: int) -> bool:
    """Whether a graph with so many places is kept for draws that need fewer."""
    return capacity <= places <= 2 * capacity


class GraphedDraw:
    """`padded_draw` of one wavefunction and capacity as a CUDA graph.

    It works on a copy of the wavefunction, because a graph reads parameters at the addresses of its capture.

    Args:
        n_samples: of a draw that shows how many prefixes there are after each site.
        ranks: that share the draw.
    """

    def __init__(
        self,
        wavefunction: AutoregressiveWavefunction,
        capacity: int,
        device: torch.device,
        n_samples: int = 1,
        ranks: Communicator = ALONE,
    ) -> None:
        self.capacity, self.share = capacity, share_of(capacity, ranks.size)
        self.wavefunction = copied(wavefunction)
        own = torch.Generator(device)
        self.n_samples = torch.full((1,), n_samples, dtype=torch.int64, device=device)

        def sizes_of_a_draw() -> list[int]:
            decoding = PaddedDecoding(self.wavefunction, capacity, ranks, math.ceil(math.log2(PREFIXES)))
            found: list[int] = padded_draw(decoding, self.n_samples, own).sizes.tolist()
            return found

        sizes = on_side_stream(sizes_of_a_draw, device)
        enough = (site + 1 for site, size in enumerate(sizes) if size >= PREFIXES)
        decoding = PaddedDecoding(self.wavefunction, capacity, ranks, next(enough, len(sizes)))
        self.captured = Captured(lambda: padded_draw(decoding, self.n_samples, own), own, ranks)

    @torch.no_grad()
    def __call__(self, wavefunction: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> Leaves:
        """The leaves, overwritten by the next call; the generator is advanced past the random numbers used."""
        overwrite(self.wavefunction, wavefunction)
        self.n_samples.fill_(n_samples)
        self.captured.replay(generator)
        return self.captured.result


class GraphCache:
    """CUDA graphs of the draws of a wavefunction, captured at first use and again for another capacity."""

    def __init__(self, wavefunction: AutoregressiveWavefunction) -> None:
        self.wavefunction = wavefunction
        # By the number of ranks: all that share a graph replay it, also where rank 0 has drawn alone in between.
        self._graphs: dict[int, GraphedDraw] = {}
        self._separate: GraphedSeparateDraw | None = None
        self._is_even = True  # the ranks had enough places for what was dealt to them

    def draw_of_all_ranks(self, n_samples: int, n_distinct: int | None, generator: torch.Generator) -> Drawn | None:
        """`draw` by all ranks in parts, or by rank 0 for all where that is as fast."""
        ranks, device = communicator(), generator.device
        if ranks.size == 1:
            return self.draw(n_samples, n_distinct, generator)
        capacity = capacity_for(self.wavefunction, n_samples, n_distinct, ranks)
        if self._is_even and capacity is not None and capacity >= LEAST_SPLIT:
            return self.draw(n_samples, n_distinct, generator, ranks)
        drawn = self.draw(n_samples, n_distinct, generator) if ranks.is_first else None
        (number,) = ranks.numbers(-1 if drawn is None else len(drawn.counts))
        if number < 0:
            return None
        if drawn is None:
            shape = int(number), self.wavefunction.hilbert.n_sites
            tokens = torch.empty(shape, dtype=torch.uint8, device=device)
            counts = torch.empty(shape[0], dtype=torch.int64, device=device)
            log_p, phase = torch.empty((2, shape[0]), dtype=torch.float64, device=device)
            drawn = Drawn(tokens, counts, log_p, phase)
        state = generator.get_state().to(device)
        ranks.from_first(*drawn, state)
        generator.set_state(state.cpu())
        return drawn

    def draw(
        self, n_samples: int, n_distinct: int | None, generator: torch.Generator, ranks: Communicator = ALONE
    ) -> Drawn | None:
        """Distinct configurations; None if the draw is too large, memory is short, or the capacity was exceeded."""
        wavefunction, device = self.wavefunction, generator.device
        capacity = capacity_for(wavefunction, n_samples, n_distinct, ranks)
        if capacity is None:
            return None
        # What ranks share is a tree on one rank too, so that samples do not depend on their number.
        if n_samples <= capacity < LEAST_SPLIT:
            return self._one_by_one(n_samples, capacity, generator)
        graph = self._graphs.get(ranks.size)
        if graph is None or not serves(graph.capacity, capacity):
            graph = None
            self._graphs.pop(ranks.size, None)  # its memory is free then
            if ranks.any(self._is_short_of_memory(share_of(capacity, ranks.size), device)):
                return None
            graph = GraphedDraw(wavefunction, capacity, device, n_samples, ranks)
            self._graphs[ranks.size] = graph
        before = generator.get_state()
        leaves = graph(wavefunction, n_samples, generator)
        number, largest, most = torch.stack([leaves.number, leaves.largest, leaves.most]).tolist()
        self._is_even = self._is_even and most <= graph.share
        if largest > graph.capacity or most > graph.share:
            generator.set_state(before)
            return None
        return Drawn(*(part[:number].clone() for part in leaves[:4]))

    def _one_by_one(self, n_samples: int, capacity: int, generator: torch.Generator) -> Drawn | None:
        graph, device = self._separate, generator.device
        if graph is None or not serves(graph.capacity, capacity):
            self._separate = graph = None  # its memory is free then
            if self._is_short_of_memory(capacity, device):
                return None
            self._separate = graph = GraphedSeparateDraw(self.wavefunction, capacity, device)
        return graph(self.wavefunction, n_samples, generator)

    def _is_short_of_memory(self, rows: int, device: torch.device) -> bool:
        needed = FREE_PART * rows * self.wavefunction.bytes_per_configuration
        return device.type == "cuda" and needed > free_memory(device)
