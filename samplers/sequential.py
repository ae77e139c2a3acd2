"""Sequential Monte Carlo along the sites: particles that are drawn site by site, weighted, and resampled on the way.

A particle draws its next site from the conditionals q of the proposal (nqs.samplers.proposal), and its weight takes the
ratio to intermediate targets,

    w <- w p(n_s | n_<s) / q(n_s | n_<s).

These are the probabilities of prefixes of psi, where psi is autoregressive; else those of the proposal's network, which
is worth while with tempered conditionals: a power of 1 leaves all weights equal, and this is importance sampling. The
last target is |psi|^2, of any psi. Where the effective number of the particles of an island, (sum w)^2 / sum w^2, falls
below a fraction of them, they are drawn again from each other in proportion to their weights, by one random number
(systematic resampling), and share their mean weight. Doucet, de Freitas, Gordon, Sequential Monte Carlo Methods in
Practice (2001); Del Moral, Feynman-Kac Formulae (2004), section 7.4: the mean weight is an unbiased estimate of the
norm, sum |psi|^2, and so are sums of w x, whatever the fraction.

Resampled particles have ancestors in common. Error bars come from the scatter of islands, which never exchange
particles (nqs.islands).
"""

# Shapes: G islands, C particles of each, B = G C, L sites.
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.islands import FEW, Islands
from nqs.protocols import AutoregressiveWavefunction, Wavefunction
from nqs.samplers.decoding import Decoding
from nqs.samplers.importance import Draws, ImportanceSampler, ImportanceSampling
from nqs.samples import Samples, distinct


@dataclass(frozen=True, kw_only=True)
class SequentialSampler(ImportanceSampler):
    """Particles drawn site by site and resampled on the way.

    Args:
        n_samples: particles of a batch, rounded up to a multiple of n_islands.
        n_effective, n_batches, proposal: as in `ImportanceSampler`.
        n_islands: independent groups of a batch.
        resample_below: an island is resampled where its effective number falls below this fraction of its particles; 0:
            never.

    Raises:
        ValueError: a number out of range.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> from nqs.samplers import Proposal
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> sampler = SequentialSampler(
    ...     n_samples=1000, n_batches=8, n_islands=32, resample_below=0.5, proposal=Proposal(power=0.5)
    ... )
    >>> samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_effective > 300
    (1024, True)
    """

    n_islands: int
    resample_below: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not FEW <= self.n_islands <= self.n_samples / 2:
            raise ValueError(
                f"n_islands={self.n_islands} of n_samples={self.n_samples}: choose at least {FEW:.0f}, from whose "
                "scatter error bars come, with two particles or more in each."
            )
        if not 0 <= self.resample_below <= 1:
            raise ValueError(f"resample_below={self.resample_below}: give a fraction from 0 to 1.")

    @property
    def n_of_island(self) -> int:
        return math.ceil(self.n_samples / self.n_islands)

    @property
    def max_distinct(self) -> int:
        return self.n_islands * self.n_of_island * self.n_batches

    @property
    def summary(self) -> str:
        return f"{self.n_islands * self.n_of_island:,} particles on {self.n_islands:,} islands"

    def build(self, wavefunction: Wavefunction) -> "SequentialSampling":
        """Raises TypeError: the proposal is not autoregressive."""
        return SequentialSampling(self, wavefunction)


class SequentialSampling(ImportanceSampling):
    """Sequential Monte Carlo of one wavefunction.

    Attributes:
        resampled: how often an island was resampled in the last batch, in the mean.
    """

    config: SequentialSampler

    def __init__(self, config: SequentialSampler, wavefunction: Wavefunction) -> None:
        super().__init__(config, wavefunction)
        self.targets = self.proposal.model
        if isinstance(wavefunction, AutoregressiveWavefunction):
            self.targets = wavefunction
        self.resampled = 0.0

    def draw(self, generator: torch.Generator) -> Draws:
        """One batch of particles, island after island."""
        G, C, device = self.config.n_islands, self.config.n_of_island, generator.device
        n = torch.zeros((G * C, self.hilbert.n_sites), dtype=torch.uint8, device=device)
        log_target = torch.zeros(G * C, dtype=torch.float64, device=device)
        log_weight = torch.zeros((G, C), dtype=torch.float64, device=device)
        decodings = [Decoding(model) for model in dict.fromkeys((self.proposal.model, self.targets))]
        states = [decoding.start_shared(G * C, device) for decoding in decodings]
        tokens, self.resampled = None, 0.0
        for site in range(self.hilbert.n_sites):
            steps = [decoding.step(tokens, state) for decoding, state in zip(decodings, states, strict=True)]
            states = [state for _, state in steps]
            log_q, log_p = self.proposal.tempered(steps[0][0].log_p), steps[-1][0].log_p
            token = torch.multinomial(log_q.exp(), 1, generator=generator)
            of_target = log_p.gather(1, token)[:, 0]
            n[:, site] = token[:, 0]
            log_target = log_target + of_target
            log_weight = log_weight + (of_target - log_q.gather(1, token)[:, 0]).view(G, C)
            if site < self.hilbert.n_sites - 1:
                log_weight, ancestors = self._resampled(log_weight, generator)
                if ancestors is not None:
                    n, log_target = n[ancestors], log_target[ancestors]
                    states = [state.branch(ancestors) for state in states]
            tokens = n[:, site]
        first, classes = distinct(self.hilbert, n)
        log_modulus, phase = (x[classes] for x in log_psi_by_all_ranks(self.wavefunction, n[first]))
        last = log_weight.flatten() + 2 * log_modulus - log_target
        # Of prefixes that psi never has, target and weight are 0.
        return Draws(n, log_modulus, phase, torch.where(log_target > -torch.inf, last, -torch.inf))

    def _resampled(
        self, log_weight: Float64[Tensor, "G C"], generator: torch.Generator
    ) -> tuple[Float64[Tensor, "G C"], Int64[Tensor, " B"] | None]:
        """Weights, and the ancestor of every particle; None where no island needs it."""
        G, C = log_weight.shape
        w = log_weight.softmax(1)
        needed = 1 / w.square().sum(1) < self.config.resample_below * C
        if not bool(needed.any()):
            return log_weight, None
        self.resampled += needed.double().mean().item()
        own = torch.arange(C, device=w.device)
        chosen = torch.where(needed[:, None], systematic(w, generator), own)
        shared = (log_weight.logsumexp(1, keepdim=True) - math.log(C)).expand(G, C)
        first = C * torch.arange(G, device=w.device)[:, None]
        return torch.where(needed[:, None], shared, log_weight), (first + chosen).flatten()

    def with_errors(
        self, samples: Samples, rows: Int64[Tensor, " B"], weights: Float64[Tensor, " B"], wanted: float
    ) -> Samples:
        """With the islands; the effective number is that of log|psi| or of a local state, whichever is smallest."""
        C = self.config.n_of_island
        islands = Islands(rows.view(-1, C), weights.view(-1, C))
        every = torch.cat([samples.log_modulus[:, None], samples.configurations.double()], dim=1)
        samples = replace(samples, islands=islands, autocorrelation_time=islands.correlation(every) / 2)
        return samples if samples.n_effective >= wanted else replace(samples, autocorrelation_time=math.nan)


def systematic(w: Float64[Tensor, "G C"], generator: torch.Generator) -> Int64[Tensor, "G C"]:
    """Ancestors in proportion to weights: those at (c + u) / C of their sum, with one uniform number u of an island.

    Each is chosen C w times in the mean, and never more than one off. Carpenter, Clifford, Fearnhead, IEE Proc. Radar
    Sonar Navig. 146, 2 (1999).
    """
    G, C = w.shape
    u = torch.rand((G, 1), dtype=torch.float64, generator=generator, device=w.device)
    places = (torch.arange(C, device=w.device) + u) / C
    sums = w.cumsum(1)
    return torch.searchsorted(sums / sums[:, -1:], places, right=True).clamp(max=C - 1)
