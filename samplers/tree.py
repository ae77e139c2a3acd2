"""Unique-configuration tree sampling: N independent samples at the cost of their distinct configurations.

All N samples start at the root. At every site the number of samples that share a prefix splits multinomially over
the conditionals, and only children with samples live on. The counts at the leaves are distributed exactly as those
of N independent draws from |psi|^2. Barrett, Malyshev, Lvovsky, Nat. Mach. Intell. 4, 351 (2022), arXiv:2109.12606.
"""

# Shapes: F prefixes on the frontier, L sites, d local states, U distinct configurations.
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, DecodingState, Wavefunction
from nqs.runtime.options import check_fields
from nqs.samplers.coverage import check_given
from nqs.samplers.cuda_graph import GraphCache
from nqs.samplers.decoding import GROUPS, Decoding
from nqs.samplers.independent import Independent, autoregressive
from nqs.samples import Samples, split_counts

MAX_SAMPLES = 10**18
MAX_OF_TARGET = 10**12  # samples for a number of distinct configurations, which a sector may not have
CPU_BYTES, GPU_FRACTION = 2**31, 0.25  # of the decoding states; on a GPU a fraction of its memory
# States at once, in those of a full frontier: of a step and its children, and of parts of cut frontiers that wait.
STATES = 8
# Largest factor by which a pilot run is extrapolated in the number of samples: it knows only what it has found.
PILOT_GROWTH = 8.0


class Frontier(NamedTuple):
    """Prefixes of equal length that still hold samples."""

    tokens: UInt8[Tensor, "F s"]
    counts: Int64[Tensor, " F"]
    log_p: Float64[Tensor, " F"]
    phase: Float64[Tensor, " F"]
    state: DecodingState  # before its last token is fed

    def select(self, rows: Int64[Tensor, " F2"]) -> "Frontier":
        return Frontier(
            self.tokens[rows], self.counts[rows], self.log_p[rows], self.phase[rows], self.state.select(rows)
        )


@dataclass(frozen=True, kw_only=True)
class TreeSampler:
    """Exact independent samples, merged into distinct configurations while they are drawn.

    Args:
        n_samples: number of independent samples, up to 1e18; or
        n_distinct: wanted number of distinct configurations: the number of samples that reaches it is estimated from
            independent pilot draws at first, and from the last draw afterwards.
        max_frontier: largest number of prefixes decoded together; a larger frontier is split into chunks, which bounds
            memory without changing the distribution.
        memory: GiB for the states of all prefixes, which may lower max_frontier; None: 2 on a CPU, a quarter of the
            memory of a GPU.
        prefix: local states of the first sites: samples of the conditional distribution given these.
        groups: on several ranks, number of prefixes that are dealt to them (nqs.samplers.decoding).
        use_cuda_graph: on a GPU, replay draws of up to some thousand distinct configurations as a CUDA graph
            (nqs.samplers.cuda_graph): faster for small networks, with other random numbers.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> samples = TreeSampler(n_samples=10**9).build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_distinct
    (1000000000, 35)
    """

    n_samples: int | None = None
    n_distinct: int | None = None
    max_frontier: int = 2**17
    use_cuda_graph: bool = True
    prefix: tuple[int, ...] = field(default=(), metadata={"stored_if_default": False})
    groups: int = field(default=GROUPS, metadata={"stored_if_default": False})
    memory: float | None = field(default=None, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        check_fields(self, at_least={"n_distinct": 1, "max_frontier": 1, "groups": 1}, positive=("memory",))
        if (self.n_samples is None) == (self.n_distinct is None):
            raise ValueError("give either n_samples or n_distinct to TreeSampler, not both or none.")
        if self.n_samples is not None and not 1 <= self.n_samples <= MAX_SAMPLES:
            raise ValueError(f"n_samples={self.n_samples}: choose 1 to {MAX_SAMPLES:.0e}.")
        object.__setattr__(self, "prefix", tuple(int(state) for state in self.prefix))

    @property
    def max_distinct(self) -> int:
        """The number of samples, or the wanted number of distinct configurations, which draws exceed by their noise."""
        number = self.n_samples if self.n_distinct is None else self.n_distinct
        assert number is not None
        return number

    @property
    def summary(self) -> str:
        if self.n_distinct is None:
            return f"{self.n_samples:,} independent samples"
        return f"about {self.n_distinct:,} distinct configurations"

    def build(self, wavefunction: Wavefunction) -> "TreeSampling":
        """
        Raises:
            TypeError: the wavefunction is not autoregressive.
            ValueError: a prefix of no configuration, or of a symmetric state.
        """
        return TreeSampling(self, wavefunction)


class TreeSampling(Independent):
    """Tree sampling of one wavefunction."""

    def __init__(self, config: TreeSampler, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.base = autoregressive(wavefunction, config)
        self._graph = GraphCache(self.base)
        if config.prefix and wavefunction.symmetry is not None:
            raise ValueError("the orbits of a symmetric state have no prefix: sample the model that it is made from.")
        check_given(self.base.hilbert, dict(enumerate(config.prefix)))
        self._n_samples = 0  # of the next draw, for a number of distinct configurations; 0: not yet known

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """Distinct configurations with their counts, on the device of the generator.

        For a symmetric wavefunction distinct orbits; `n_distinct` then counts configurations of its base.
        """
        if self.config.n_samples is not None:
            return self.wavefunction.from_base_samples(self._draw(self.config.n_samples, generator))
        # The number of samples depends on earlier draws alone, so that it biases nothing.
        n_samples = self._n_samples or self._samples_for_target(generator)
        drawn = self._draw(n_samples, generator)
        self._n_samples = min(self._samples_for(drawn, n_samples), math.ceil(PILOT_GROWTH * n_samples))
        return self.wavefunction.from_base_samples(drawn)

    def state_dict(self) -> dict[str, Tensor]:
        return {"n_samples": torch.tensor(self._n_samples)} if self._n_samples else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._n_samples = int(state["n_samples"]) if "n_samples" in state else 0

    def _draw(self, n_samples: int, generator: torch.Generator) -> Samples:
        wavefunction, config = self.base, self.config
        device, n_sites = generator.device, wavefunction.hilbert.n_sites
        decoding = Decoding(wavefunction, config.groups)
        if config.use_cuda_graph and not config.prefix and device.type == "cuda":
            drawn = self._graph.draw_of_all_ranks(n_samples, config.n_distinct, generator)
            if drawn is not None:
                return as_samples(wavefunction, *drawn)
        root = self._root(decoding, n_samples, device)
        unfinished: list[Frontier] = [root]
        leaves: list[Frontier] = []
        if len(config.prefix) == n_sites:
            unfinished, leaves = [], [root]
        most = self._max_frontier(decoding, device)
        while unfinished:
            frontier = grow(decoding, unfinished.pop(), generator, n_samples)
            if frontier.tokens.shape[1] == n_sites:
                leaves.append(frontier)
                continue
            # Last in, first out: the parts of a cut frontier are finished in lexicographic order.
            parts = torch.arange(len(frontier.counts), device=device).split(most)
            unfinished += [frontier.select(part) for part in reversed(parts)] if len(parts) > 1 else [frontier]
        tokens, counts, log_p, phase = (
            torch.cat([leaf[i] for leaf in leaves])  # type: ignore[misc]
            for i in range(4)
        )
        samples = as_samples(wavefunction, tokens, counts, log_p, phase)
        if not config.prefix:
            return samples
        return replace(samples, probability=(log_p - root.log_p).exp())

    def _max_frontier(self, decoding: Decoding, device: torch.device) -> int:
        """Prefixes decoded together: depends on the device, not on what is free of it, so that draws are repeatable."""
        if self.config.memory is not None:
            budget = self.config.memory * 2**30
        elif device.type == "cuda":
            budget = GPU_FRACTION * torch.cuda.get_device_properties(device).total_memory
        else:
            budget = CPU_BYTES
        of_prefix = self.base.hilbert.n_sites * self.base.bytes_per_shared_site
        fitting = decoding.ranks.smallest(int(budget / (STATES * max(1, of_prefix))))
        return max(1, min(self.config.max_frontier, fitting))

    def _root(self, decoding: Decoding, n_samples: int, device: torch.device) -> Frontier:
        """The prefix with all samples."""
        log_p = phase = torch.zeros(1, dtype=torch.float64, device=device)
        tokens = torch.tensor([self.config.prefix], dtype=torch.uint8, device=device)
        state = decoding.start(1)
        for site, token in enumerate(self.config.prefix):
            conditionals, state = decoding.step(tokens[:, site - 1] if site else None, state)
            log_p, phase = log_p + conditionals.log_p[:, token], phase + conditionals.phase[:, token]
        return Frontier(tokens, torch.full((1,), n_samples, device=device), log_p, phase, state)

    def _samples_for_target(self, generator: torch.Generator) -> int:
        """Number of samples for n_distinct, from pilot draws."""
        assert self.config.n_distinct is not None
        n_pilot = self.config.n_distinct
        while True:
            n_samples = self._samples_for(self._draw(n_pilot, generator), n_pilot)
            if n_samples <= PILOT_GROWTH * n_pilot:
                return n_samples
            n_pilot = round(PILOT_GROWTH * n_pilot)

    def _samples_for(self, drawn: Samples, n_drawn: int) -> int:
        """Number of samples N with E[distinct] = sum_n 1 - (1 - p(n))^N equal to n_distinct.

        The sum is estimated from M samples, weighted with 1 / (1 - (1 - p)^M), the inverse of the probability to be
        found (Horvitz and Thompson, J. Am. Stat. Assoc. 47, 663 (1952)).
        """
        wanted = self.config.n_distinct
        assert wanted is not None
        log_miss = torch.log1p(-(2 * drawn.log_modulus).exp().clamp(max=1))  # log(1 - p), (U,)
        found = -torch.expm1(n_drawn * log_miss)
        low = torch.zeros((), dtype=torch.float64, device=log_miss.device)  # log10 of N; on the device: no waiting
        high = torch.full_like(low, math.log10(MAX_OF_TARGET))
        for _ in range(40):
            middle = (low + high) / 2
            expected = (-torch.expm1(10**middle * log_miss) / found).sum()
            enough = expected >= wanted
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return round(10 ** high.item())


def as_samples(
    wavefunction: AutoregressiveWavefunction,
    tokens: UInt8[Tensor, "U L"],
    counts: Int64[Tensor, " U"],
    log_p: Float64[Tensor, " U"],
    phase: Float64[Tensor, " U"],
) -> Samples:
    return Samples(
        configurations=tokens,
        weights=counts.double() / counts.sum(),
        log_modulus=log_p / 2,
        phase=phase + wavefunction.reference_phase(tokens),
        counts=counts,
    )


def grow(decoding: Decoding, frontier: Frontier, generator: torch.Generator, n_samples: int) -> Frontier:
    """The children of all prefixes that receive samples, in lexicographic order; n_samples of all prefixes at most."""
    length = frontier.tokens.shape[1]
    conditionals, state = decoding.step(frontier.tokens[:, -1] if length else None, frontier.state)
    d = conditionals.log_p.shape[1]
    child_counts = split_counts(frontier.counts, conditionals.log_p.exp(), generator, n_samples).flatten()
    children = child_counts.nonzero()[:, 0]
    rows = children.div(d, rounding_mode="floor")
    tokens = (children - d * rows).to(torch.uint8)
    counts = child_counts.index_select(0, children)
    if length + 1 < decoding.wavefunction.hilbert.n_sites:
        state = decoding.deal(state.branch(rows), counts)
    if decoding.wavefunction.has_phase:
        phase = (frontier.phase[:, None] + conditionals.phase).flatten().index_select(0, children)
    else:
        phase = frontier.phase.index_select(0, rows)
    return Frontier(
        tokens=torch.cat([frontier.tokens.index_select(0, rows), tokens[:, None]], dim=1),
        counts=counts,
        log_p=(frontier.log_p[:, None] + conditionals.log_p).flatten().index_select(0, children),
        phase=phase,
        state=state,
    )
