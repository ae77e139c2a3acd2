"""Tree sampling with static shapes, captured once as a CUDA graph and replayed for every draw.

Kernels of a small network take a few microseconds each, less than their launch. Here the frontier has a fixed capacity,
and unused places hold no samples, so that neither shapes nor addresses depend on the draw: one launch for all sites,
one host synchronisation per draw.

On a CPU the samples are those of TreeSampler, seed for seed; on a GPU random numbers depend on the capacity, and the
samples are equally distributed. The replayed draw equals `padded_draw` bit for bit.

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
from nqs.samplers.padded_decoding import PaddedDecoding, compacted, share_of
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
    hilbert, device, capacity = decoding.wavefunction.hilbert, generator.device, decoding.capacity
    L, d = hilbert.n_sites, hilbert.local_dim
    tokens = torch.zeros((1, L), dtype=torch.uint8, device=device)
    counts = n_samples
    log_p = phase = torch.zeros(1, dtype=torch.float64, device=device)
    state, sizes = decoding.start(1), []
    for site in range(L):
        conditionals, state = decoding.step(tokens[:, site - 1] if site else None, state)
        child_counts = split_counts(counts, conditionals.log_p.exp(), generator, LARGEST_BINOMIAL).flatten()  # (C d)
        chosen = child_counts > 0
        sizes.append(chosen.sum())
        places = min(capacity, len(chosen))
        children = compacted(chosen, places)
        rows = children.div(d, rounding_mode="floor")
        used = torch.arange(places, device=device) < sizes[-1]
        counts = torch.where(used, child_counts.index_select(0, children), 0)
        log_p = log_p.index_select(0, rows) + conditionals.log_p.flatten().index_select(0, children)
        phase = phase.index_select(0, rows) + conditionals.phase.flatten().index_select(0, children)
        tokens = tokens.index_select(0, rows)
        tokens[:, site] = children - d * rows
        if site + 1 < L:
            state = decoding.select(state, rows, counts, site)
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
        self.generator = torch.Generator(device)
        self.n_samples = torch.full((1,), n_samples, dtype=torch.int64, device=device)

        def sizes_of_a_draw() -> list[int]:
            decoding = PaddedDecoding(self.wavefunction, capacity, ranks, math.ceil(math.log2(PREFIXES)))
            found: list[int] = padded_draw(decoding, self.n_samples, self.generator).sizes.tolist()
            return found

        sizes = on_side_stream(sizes_of_a_draw, device)
        enough = (site + 1 for site, size in enumerate(sizes) if size >= PREFIXES)
        decoding = PaddedDecoding(self.wavefunction, capacity, ranks, next(enough, len(sizes)))
        self.captured = Captured(lambda: padded_draw(decoding, self.n_samples, self.generator), self.generator, ranks)

    @torch.no_grad()
    def __call__(self, wavefunction: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> Leaves:
        """The leaves, overwritten by the next call; the generator is advanced past the random numbers used."""
        overwrite(self.wavefunction, wavefunction)
        self.n_samples.fill_(n_samples)
        self.generator.set_state(generator.get_state())
        self.captured.replay()
        generator.set_state(self.generator.get_state())
        return self.captured.result


class GraphCache:
    """CUDA graph of the draw of a wavefunction, captured at first use and again for another capacity."""

    def __init__(self, wavefunction: AutoregressiveWavefunction) -> None:
        self.wavefunction = wavefunction
        # By the number of ranks: all that share a graph replay it, also where rank 0 has drawn alone in between.
        self._graphs: dict[int, GraphedDraw] = {}
        self._is_even = True  # the ranks had enough places for what was dealt to them

    def draw_of_all_ranks(self, n_samples: int, n_distinct: int | None, generator: torch.Generator) -> Leaves | None:
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
            unknown = torch.zeros(shape[1], dtype=torch.int64, device=device)
            drawn = Leaves(tokens, counts, log_p, phase, unknown, unknown[0])
        state = generator.get_state().to(device)
        ranks.from_first(*drawn[:4], state)
        generator.set_state(state.cpu())
        return drawn

    def draw(
        self, n_samples: int, n_distinct: int | None, generator: torch.Generator, ranks: Communicator = ALONE
    ) -> Leaves | None:
        """Leaves without empty places; None if the draw is too large, memory is short, or the capacity was exceeded."""
        wavefunction, device = self.wavefunction, generator.device
        capacity = capacity_for(wavefunction, n_samples, n_distinct, ranks)
        if capacity is None:
            return None
        graph = self._graphs.get(ranks.size)
        if graph is None or not capacity <= graph.capacity <= 2 * capacity:
            graph = None
            self._graphs.pop(ranks.size, None)  # its memory is free then
            share, row = share_of(capacity, ranks.size), wavefunction.bytes_per_configuration
            if ranks.any(device.type == "cuda" and FREE_PART * share * row > free_memory(device)):
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
        tokens, counts, log_p, phase = (part[:number].clone() for part in leaves[:4])
        return Leaves(tokens, counts, log_p, phase, leaves.sizes, leaves.most)
