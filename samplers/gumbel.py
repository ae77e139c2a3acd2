"""Sampling without replacement: a fixed number of distinct configurations, the likely ones with certainty.

Every configuration gets the key G(n) = log p(n) + Gumbel noise; the K configurations with the largest keys are a
sample without replacement (Gumbel top-k). They are found without enumeration: the largest key below a prefix
is itself log p(prefix) + Gumbel noise, so keys are drawn from the root downwards, children conditioned on their
maximum, and only the K + 1 largest prefixes survive each site (stochastic beam search; Kool, van Hoof, Welling,
arXiv:1903.06059). With kappa the (K + 1)-th largest key, a configuration was included with probability

    q(n) = P(G(n) > kappa) = 1 - exp(-exp(log p(n) - kappa)),

and sum p(n) / q(n) f(n) over the sample estimates <f> without bias (Kool, van Hoof, Welling, arXiv:2002.06043).
Configurations with p >> exp(kappa) enter with their exact probability: for equal numbers of distinct configurations the
noise is far below that of independent samples, and cost and memory are fixed in advance.
"""

# Shapes: F prefixes on the beam, L sites, d local states, K distinct configurations.
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.protocols import Wavefunction
from nqs.runtime.options import check_fields
from nqs.samplers.decoding import GROUPS, Decoding
from nqs.samplers.independent import Independent, autoregressive
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class GumbelSampler:
    """Distinct configurations drawn without replacement, weighted with their inverse inclusion probability.

    Args:
        n_distinct: number of distinct configurations; a smaller sector is enumerated exactly.
        groups: on several ranks, number of prefixes that are dealt to them (nqs.samplers.decoding).
    """

    n_distinct: int
    groups: int = field(default=GROUPS, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        check_fields(self, at_least={"n_distinct": 1, "groups": 1})

    @property
    def max_distinct(self) -> int:
        return self.n_distinct

    @property
    def summary(self) -> str:
        return f"about {self.n_distinct:,} distinct configurations"

    def build(self, wavefunction: Wavefunction) -> "GumbelSampling":
        """Raises TypeError: the wavefunction is not autoregressive."""
        return GumbelSampling(self, wavefunction)


class GumbelSampling(Independent):
    """Draws without replacement from one wavefunction."""

    def __init__(self, config: GumbelSampler, wavefunction: Wavefunction) -> None:
        self.n_distinct, self.groups = config.n_distinct, config.groups
        self.wavefunction = wavefunction
        self.base = autoregressive(wavefunction, config)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """n_distinct configurations with weights p / q, on the device of the generator."""
        wavefunction = self.base
        device, hilbert = generator.device, wavefunction.hilbert
        tokens = torch.empty((1, 0), dtype=torch.uint8, device=device)
        log_p = phase = torch.zeros(1, dtype=torch.float64, device=device)
        key = gumbel(log_p, generator)
        decoding = Decoding(wavefunction, self.groups)
        state = decoding.start(1)
        for site in range(hilbert.n_sites):
            conditionals, state = decoding.step(tokens[:, -1] if site else None, state)
            child_log_p = log_p[:, None] + conditionals.log_p  # (F, d)
            child_key = conditioned_on_maximum(child_log_p + gumbel(child_log_p, generator), key).flatten()
            possible = int((child_log_p != -torch.inf).sum())
            key, chosen = child_key.topk(min(self.n_distinct + 1, possible))
            rows, token = chosen // hilbert.local_dim, chosen % hilbert.local_dim
            tokens = torch.cat([tokens[rows], token[:, None].to(torch.uint8)], dim=1)
            log_p, phase = child_log_p[rows, token], phase[rows] + conditionals.phase[rows, token]
            if site + 1 < hilbert.n_sites:
                state = decoding.deal(state.branch(rows), log_p)
        inclusion, threshold = torch.ones_like(log_p), None
        if len(log_p) > self.n_distinct:  # keys are sorted, the last one is kappa
            inclusion = -torch.expm1(-(log_p[:-1] - key[-1]).exp())
            threshold = key[-1].exp().item()
            tokens, log_p, phase = tokens[:-1], log_p[:-1], phase[:-1]
        weights = log_p.exp() / inclusion
        samples = Samples(
            configurations=tokens,
            weights=weights / weights.sum(),
            log_modulus=log_p / 2,
            phase=phase + wavefunction.reference_phase(tokens),
            inclusion_probability=inclusion,
            threshold=threshold,
        )
        return self.wavefunction.from_base_samples(samples)


def gumbel(like: Tensor, generator: torch.Generator) -> Float64[Tensor, "..."]:
    """Standard Gumbel noise, -log(-log u), in the shape of `like`."""
    noise = torch.empty_like(like).exponential_(generator=generator)
    return -noise.log()


def conditioned_on_maximum(keys: Float64[Tensor, "F d"], maximum: Float64[Tensor, " F"]) -> Float64[Tensor, "F d"]:
    """Gumbel keys with their largest one moved to `maximum`; arXiv:1903.06059, appendix B.3, stable form."""
    top = keys.max(1, keepdim=True).values
    v = maximum[:, None] - keys + torch.log1p(-(keys - top).exp())
    return maximum[:, None] - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
