"""Tree sampling with static shapes, captured once as a CUDA graph and replayed for every draw.

Kernels of a small network take a few microseconds each, less than their launch. Here the frontier has a fixed capacity,
and unused places hold no samples, so that neither shapes nor addresses depend on the draw: one launch for all sites,
one host synchronisation per draw.

On a CPU the samples are those of TreeSampler, seed for seed; on a GPU random numbers depend on the capacity, and the
samples are equally distributed. The replayed draw equals `padded_draw` bit for bit.
"""

# Shapes: C places on the frontier, L sites, d local states.
import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction
from nqs.runtime.distributed import communicator
from nqs.runtime.memory import max_chunk_rows
from nqs.samples import LARGEST_BINOMIAL, split_counts

MAX_CAPACITY = 2**15  # above it the kernels take longer than their launch
MAX_BYTES = 2**31  # of a network evaluation
MARGIN = 1.25  # capacity per expected distinct configuration


class Leaves(NamedTuple):
    """Configurations in lexicographic order; places from index `number` on are empty."""

    tokens: UInt8[Tensor, "C L"]
    counts: Int64[Tensor, " C"]
    log_p: Float64[Tensor, " C"]
    phase: Float64[Tensor, " C"]
    number: Int64[Tensor, ""]  # where it exceeds C, samples are missing


def padded_draw(
    wavefunction: AutoregressiveWavefunction,
    n_samples: Int64[Tensor, " 1"],
    capacity: int,
    generator: torch.Generator,
) -> Leaves:
    """A draw of n_samples samples; shapes depend on the capacity alone, without host synchronisation."""
    L, d, device = wavefunction.hilbert.n_sites, wavefunction.hilbert.local_dim, generator.device
    place = torch.arange(capacity, device=device)
    tokens = torch.zeros((capacity, L), dtype=torch.uint8, device=device)
    counts = torch.zeros_like(place)
    counts[:1] = n_samples
    log_p = phase = torch.zeros(capacity, dtype=torch.float64, device=device)
    number = largest = torch.ones((), dtype=torch.int64, device=device)
    state = wavefunction.start(capacity)
    for site in range(L):
        conditionals, state = wavefunction.step(tokens[:, site - 1] if site else None, state)
        child_counts = split_counts(counts, conditionals.log_p.exp(), generator, LARGEST_BINOMIAL).flatten()  # (C d)
        children = compacted(child_counts > 0, capacity)
        number = (child_counts > 0).sum()
        largest = torch.maximum(largest, number)
        rows = children.div(d, rounding_mode="floor")
        counts = torch.where(place < number, child_counts.index_select(0, children), 0)
        log_p = log_p.index_select(0, rows) + conditionals.log_p.flatten().index_select(0, children)
        phase = phase.index_select(0, rows) + conditionals.phase.flatten().index_select(0, children)
        tokens = tokens.index_select(0, rows)
        tokens[:, site] = children - d * rows
        if site + 1 < L:
            state = state.select(rows)
    return Leaves(tokens, counts, log_p, phase, torch.where(largest > capacity, largest, number))


def compacted(chosen: Bool[Tensor, " N"], capacity: int) -> Int64[Tensor, " C"]:
    """Positions of the first `capacity` True entries in their order, padded with 0."""
    place = chosen.cumsum(0) - 1
    # False entries and those beyond the capacity go to an extra last place, which is cut off.
    place = torch.where(chosen, place, capacity).clamp_(max=capacity)
    positions = torch.arange(len(chosen), device=chosen.device)
    return torch.zeros(capacity + 1, dtype=torch.int64, device=chosen.device).scatter_(0, place, positions)[:capacity]


def capacity_for(wavefunction: AutoregressiveWavefunction, n_samples: int, n_distinct: int | None) -> int | None:
    """Capacity for a draw, 2^k or 3 2^k; None if it is too large to gain from a CUDA graph, or has
    counts that need draws of random length.

    Args:
        n_distinct: expected number of distinct configurations; None if unknown.
    """
    if n_samples > LARGEST_BINOMIAL:
        return None
    largest = min(n_samples, wavefunction.hilbert.dimension)
    if n_distinct is not None:
        largest = min(largest, math.ceil(MARGIN * n_distinct))
    power = 2 ** (largest - 1).bit_length()
    capacity = 3 * power // 4 if power >= 4 and 3 * power // 4 >= largest else power
    fits = capacity <= MAX_CAPACITY and capacity * wavefunction.bytes_per_configuration <= MAX_BYTES
    return capacity if fits else None


class GraphedDraw:
    """`padded_draw` of one wavefunction and capacity as a CUDA graph.

    It works on a copy of the wavefunction, because a graph reads parameters at the addresses of its capture.
    """

    def __init__(self, wavefunction: AutoregressiveWavefunction, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        shared = {id(wavefunction.hilbert): wavefunction.hilbert}
        self.wavefunction = copy.deepcopy(wavefunction, shared).requires_grad_(False)
        self.generator = torch.Generator(device)
        self.n_samples = torch.ones(1, dtype=torch.int64, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # creates tables and handles, which is not allowed during capture
            padded_draw(self.wavefunction, self.n_samples, capacity, self.generator)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        # The thread that watches over the messages of several ranks asks for events meanwhile.
        mode = "global" if communicator().size == 1 else "thread_local"
        with torch.cuda.graph(self.graph, capture_error_mode=mode):
            self.leaves = padded_draw(self.wavefunction, self.n_samples, capacity, self.generator)

    @torch.no_grad()
    def __call__(self, wavefunction: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> Leaves:
        """The leaves, overwritten by the next call; the generator is advanced past the random numbers used."""
        for own, given in zip(_tensors(self.wavefunction), _tensors(wavefunction), strict=True):
            own.copy_(given)
        self.n_samples.fill_(n_samples)
        self.generator.set_state(generator.get_state())
        self.graph.replay()
        generator.set_state(self.generator.get_state())
        return self.leaves


def _tensors(wavefunction: AutoregressiveWavefunction) -> list[Tensor]:
    return [*wavefunction.parameters(), *wavefunction.buffers()]


class GraphCache:
    """CUDA graph of the draw of a wavefunction, captured at first use and again for another capacity."""

    def __init__(self, wavefunction: AutoregressiveWavefunction) -> None:
        self.wavefunction = wavefunction
        self._graph: GraphedDraw | None = None

    def draw_of_first_rank(self, n_samples: int, n_distinct: int | None, generator: torch.Generator) -> Leaves | None:
        """`draw`; of several ranks rank 0 draws for all, since such draws are too small to be faster in parts."""
        ranks, device = communicator(), generator.device
        drawn = self.draw(n_samples, n_distinct, generator) if ranks.is_first else None
        if ranks.size == 1:
            return drawn
        (number,) = ranks.numbers(-1 if drawn is None else len(drawn.counts))
        if number < 0:
            return None
        if drawn is None:
            shape = int(number), self.wavefunction.hilbert.n_sites
            tokens = torch.empty(shape, dtype=torch.uint8, device=device)
            counts = torch.empty(shape[0], dtype=torch.int64, device=device)
            log_p, phase = torch.empty((2, shape[0]), dtype=torch.float64, device=device)
            drawn = Leaves(tokens, counts, log_p, phase, torch.tensor(shape[0], device=device))
        state = generator.get_state().to(device)
        ranks.from_first(*drawn[:4], state)
        generator.set_state(state.cpu())
        return drawn

    def draw(self, n_samples: int, n_distinct: int | None, generator: torch.Generator) -> Leaves | None:
        """Leaves without empty places; None if the draw is too large, memory is short, or the capacity was exceeded."""
        wavefunction = self.wavefunction
        capacity = capacity_for(wavefunction, n_samples, n_distinct)
        if capacity is None:
            return None
        graph = self._graph
        if graph is None or not capacity <= graph.capacity <= 2 * capacity:
            if capacity > max_chunk_rows(wavefunction.bytes_per_configuration, generator.device, gpu_bytes=MAX_BYTES):
                return None
            self._graph = graph = GraphedDraw(wavefunction, capacity, generator.device)
        before = generator.get_state()
        leaves = graph(wavefunction, n_samples, generator)
        number = int(leaves.number)
        if number > graph.capacity:
            generator.set_state(before)
            return None
        tokens, counts, log_p, phase = (part[:number].clone() for part in leaves[:4])
        return Leaves(tokens, counts, log_p, phase, leaves.number.clone())
