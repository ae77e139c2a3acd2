"""Tree sampling with static shapes, recorded once as a CUDA graph and replayed for every draw.

The kernels of a small network take a few microseconds each, less than it takes to launch them one by one. Here the
frontier has room for a fixed number of prefixes, and the places that none fills hold no samples. Then neither shapes
nor addresses depend on what is drawn, the host waits once a draw, and all kernels of all sites are launched at once.

On a CPU the samples are those of TreeSampler, seed for seed; on a GPU random numbers belong to places, so that another
capacity gives other, equally distributed samples. The recorded draw equals `padded_draw` bit for bit.
"""

# Shapes: C places on the frontier, L sites, d local states.
import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction
from nqs.runtime.memory import max_chunk_rows
from nqs.samples import split_counts

MAX_CAPACITY = 2**15  # with more prefixes the kernels take longer than their launch
MAX_BYTES = 2**31  # of a network evaluation
MARGIN = 1.25  # places for every distinct configuration that is expected


class Leaves(NamedTuple):
    """Configurations in lexicographic order; places from `number` on are empty."""

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
    """A draw of so many samples whose shapes depend on the capacity alone, without a look at the device."""
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
        child_counts = split_counts(counts, conditionals.log_p.exp(), generator).flatten()  # (C d)
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
    """Positions of the first `capacity` True entries in their order, and 0 where there are no more."""
    place = chosen.cumsum(0) - 1
    place = torch.where(chosen, place, capacity).clamp_(max=capacity)  # what has no place goes to one that is cut off
    positions = torch.arange(len(chosen), device=chosen.device)
    return torch.zeros(capacity + 1, dtype=torch.int64, device=chosen.device).scatter_(0, place, positions)[:capacity]


def capacity_for(wavefunction: AutoregressiveWavefunction, n_samples: int, n_distinct: int | None) -> int | None:
    """Places for a draw, 2^k or 3 2^k of them; None where it is too large to gain from being recorded.

    Args:
        n_distinct: distinct configurations that are expected; None if not known.
    """
    most = min(n_samples, wavefunction.hilbert.dimension)
    if n_distinct is not None:
        most = min(most, math.ceil(MARGIN * n_distinct))
    power = 2 ** (most - 1).bit_length()
    capacity = 3 * power // 4 if power >= 4 and 3 * power // 4 >= most else power
    fits = capacity <= MAX_CAPACITY and capacity * wavefunction.bytes_per_configuration <= MAX_BYTES
    return capacity if fits else None


class RecordedDraw:
    """`padded_draw` of one wavefunction and capacity as a CUDA graph.

    It works on a copy of the wavefunction, because a graph reads parameters where they were when it was recorded.
    """

    def __init__(self, wavefunction: AutoregressiveWavefunction, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        shared = {id(wavefunction.hilbert): wavefunction.hilbert}
        self.wavefunction = copy.deepcopy(wavefunction, shared).requires_grad_(False)
        self.generator = torch.Generator(device)
        self.n_samples = torch.ones(1, dtype=torch.int64, device=device)
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # tables and handles are made here, which must not happen while recording
            padded_draw(self.wavefunction, self.n_samples, capacity, self.generator)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph):
            self.leaves = padded_draw(self.wavefunction, self.n_samples, capacity, self.generator)

    @torch.no_grad()
    def __call__(self, wavefunction: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> Leaves:
        """The leaves, overwritten by the next call; the generator goes on behind the random numbers used."""
        for mine, theirs in zip(_tensors(self.wavefunction), _tensors(wavefunction), strict=True):
            mine.copy_(theirs)
        self.n_samples.fill_(n_samples)
        self.generator.set_state(generator.get_state())
        self.graph.replay()
        generator.set_state(self.generator.get_state())
        return self.leaves


def _tensors(wavefunction: AutoregressiveWavefunction) -> list[Tensor]:
    return [*wavefunction.parameters(), *wavefunction.buffers()]


class Recorder:
    """The recorded draw of a wavefunction, made when it is first used and again for another capacity."""

    def __init__(self, wavefunction: AutoregressiveWavefunction) -> None:
        self.wavefunction = wavefunction
        self._recorded: RecordedDraw | None = None

    def draw(self, n_samples: int, n_distinct: int | None, generator: torch.Generator) -> Leaves | None:
        """Leaves without empty places; None where it is too large, memory is short, or more are found than expected."""
        wavefunction = self.wavefunction
        capacity = capacity_for(wavefunction, n_samples, n_distinct)
        if capacity is None:
            return None
        recorded = self._recorded
        if recorded is None or not capacity <= recorded.capacity <= 2 * capacity:
            if capacity > max_chunk_rows(wavefunction.bytes_per_configuration, generator.device, gpu_bytes=MAX_BYTES):
                return None
            self._recorded = recorded = RecordedDraw(wavefunction, capacity, generator.device)
        before = generator.get_state()
        leaves = recorded(wavefunction, n_samples, generator)
        number = int(leaves.number)
        if number > recorded.capacity:
            generator.set_state(before)
            return None
        tokens, counts, log_p, phase = (part[:number].clone() for part in leaves[:4])
        return Leaves(tokens, counts, log_p, phase, leaves.number.clone())
