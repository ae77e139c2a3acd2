"""Self-normalised importance sampling: independent draws of an autoregressive proposal, weighted with |psi|^2 / q.

Estimates are means with the weights w = |psi|^2 / q over their sum. They count as

    n_effective = (sum w)^2 / sum w^2

samples. It is bounded from below: batches are drawn until the bound is reached. If it is not, a few configurations
carry all of the weight, and error bars are not determinable.
"""

# Shapes: B draws, U distinct configurations, L sites.
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import folded_by_all_ranks, log_psi_by_all_ranks
from nqs.protocols import Wavefunction
from nqs.runtime.options import check_fields
from nqs.samplers.proposal import Proposal
from nqs.samples import Samples, distinct


@dataclass(frozen=True, kw_only=True)
class ImportanceSampler:
    """Draws of the proposal with importance weights.

    Args:
        n_samples: draws of a batch.
        n_effective: wanted effective number of samples; None: a tenth of the draws of a batch.
        n_batches: largest number of batches.
        proposal: an autoregressive model; by default the wavefunction itself.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> sampler = ImportanceSampler(n_samples=1000, n_batches=8, proposal=Proposal(power=0.5))
    >>> samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_effective > 500
    (1000, True)
    """

    n_samples: int
    n_effective: int | None = None
    n_batches: int
    proposal: Proposal = field(default_factory=Proposal)

    def __post_init__(self) -> None:
        check_fields(self, at_least={"n_samples": 1, "n_batches": 1})
        if self.n_effective is not None and not 1 <= self.n_effective <= self.n_samples * self.n_batches:
            raise ValueError(
                f"n_effective={self.n_effective}: choose 1 to {self.n_samples * self.n_batches}, n_samples * n_batches."
            )

    @property
    def max_distinct(self) -> int:
        return self.n_samples * self.n_batches

    @property
    def summary(self) -> str:
        return f"{self.n_samples:,} weighted draws"

    def build(self, wavefunction: Wavefunction) -> "ImportanceSampling":
        """Raises TypeError: the proposal is not autoregressive."""
        return ImportanceSampling(self, wavefunction)


class Draws(NamedTuple):
    """Draws of the proposal with their amplitudes and log |psi|^2 / q."""

    n: UInt8[Tensor, "B L"]
    log_modulus: Float64[Tensor, " B"]
    phase: Float64[Tensor, " B"]
    log_weight: Float64[Tensor, " B"]


class ImportanceSampling:
    """Importance sampling of one wavefunction."""

    def __init__(self, config: ImportanceSampler, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.hilbert = wavefunction.hilbert
        self.proposal = config.proposal.build(wavefunction)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """Weighted configurations, representatives of a symmetric state; the proposal is trained on them afterwards.

        Raises:
            ValueError: psi is zero on all draws.
        """
        config = self.config
        if not self.proposal.updates:
            for _ in range(self.proposal.n_first):
                self._train([self.draw(generator)], 1)
        wanted = config.n_samples / 10 if config.n_effective is None else config.n_effective
        batches: list[Draws] = []
        while len(batches) < config.n_batches:
            batches.append(self.draw(generator))
            samples = self._weighted(batches, wanted)
            if samples.n_effective >= wanted:
                break
        self._train(batches, self.proposal.n_updates)
        return samples

    def draw(self, generator: torch.Generator) -> "Draws":
        """One batch; amplitudes of equal configurations are evaluated once."""
        shape = self.config.n_samples, self.hilbert.n_sites
        n = torch.zeros(shape, dtype=torch.uint8, device=generator.device)
        log_q = torch.zeros(shape, dtype=torch.float64, device=generator.device)
        n, log_q = self.proposal.draw(n, log_q, 0, generator)
        first, classes = distinct(self.hilbert, n)
        log_modulus, phase = log_psi_by_all_ranks(self.wavefunction, n[first])
        return Draws(n, log_modulus[classes], phase[classes], 2 * log_modulus[classes] - log_q.sum(1))

    def _weighted(self, batches: list["Draws"], wanted: float) -> Samples:
        """The draws of all batches, equal configurations or orbits together."""
        n, log_modulus, phase, log_weight = (torch.cat(part) for part in zip(*batches, strict=True))
        if not bool((log_weight > -torch.inf).any()):
            raise ValueError(f"psi is zero on all {len(n):,} draws of the proposal: it must reach where psi is not 0.")
        every = (log_weight - log_weight.max()).exp()
        folded, angle = folded_by_all_ranks(self.wavefunction, n)
        possible = every > 0
        folded, w = folded[possible], every[possible]
        first, classes = distinct(self.hilbert, folded)
        weights = torch.zeros(len(first), dtype=torch.float64, device=n.device).index_add_(0, classes, w / w.sum())
        squares = torch.zeros_like(weights).index_add_(0, classes, (w / w.sum()).square())
        rows = torch.zeros(len(n), dtype=torch.int64, device=n.device).masked_scatter_(possible, classes)
        samples = Samples(
            configurations=folded[first],
            weights=weights,
            log_modulus=log_modulus[possible][first],
            phase=(phase - angle)[possible][first],
            # Draws of one orbit may have different weights: so many equal ones have the same sum of squares.
            weighted_counts=weights.square() / squares,
            n_drawn=len(n),
            log_norm=log_weight.logsumexp(0).item() - math.log(len(n)),
            normalised=self.wavefunction.normalised,
        )
        return self.with_errors(samples, rows, every / w.sum(), wanted)

    def with_errors(
        self, samples: Samples, rows: Int64[Tensor, " B"], weights: Float64[Tensor, " B"], wanted: float
    ) -> Samples:
        """The samples with what their error bars need, not determinable where fewer are effective than wanted.

        Args:
            rows: of the samples, for every draw; any for those with the weight 0.
            weights: of every draw.
        """
        return samples if samples.n_effective >= wanted else replace(samples, autocorrelation_time=math.nan)

    def _train(self, batches: list["Draws"], number: int) -> None:
        """Updates of the proposal towards the weighted draws, equal ones together."""
        if not (number and self.proposal.is_trained):
            return
        n, log_weight = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("n", "log_weight"))
        first, classes = distinct(self.hilbert, n)
        weights = torch.zeros(len(first), dtype=torch.float64, device=n.device)
        weights.index_add_(0, classes, log_weight.softmax(0))
        self.proposal.train(n[first], weights, number)

    def state_dict(self) -> dict[str, Tensor]:
        return self.proposal.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.proposal.load_state_dict(state)

    def warm_start(self, state: dict[str, Tensor], generator: torch.Generator) -> None:
        """With the trained proposal."""
        self.load_state_dict(state)
