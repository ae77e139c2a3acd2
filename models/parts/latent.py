"""A mixture over latent tokens: a few discrete values drawn before the sequence and summed over exactly.

    p(n) = sum_z p(z) p(n | z),        p(n_s | prefix) = sum_z p(z | prefix) p(n_s | prefix, z),

with p(z | prefix) by Bayes' rule, so that the state stays normalised and is sampled site by site as every other one.
The phase of a token is the mean over z, weighted with p(z | prefix and token). The cost is that of as many networks as
z has values.
"""

# Shapes: B configurations, K latent values, L sites, d local states.
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.inference.dense import DenselyDecoded
from nqs.models.parts.composed import ComposedConfig
from nqs.models.parts.globals import GlobalEmbedding
from nqs.models.parts.phases import WholePhase
from nqs.protocols import Conditionals


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """
    Attributes:
        component: the network of p(n | z), without numbers of the whole configuration, which z takes the place of.
        latents: number of values of z.
        seed: of the initial parameters; overrides that of the base.

    Raises:
        ValueError: no latent value, or a base that has a global embedding, a separate phase network or a start.
    """

    component: ComposedConfig = field(default_factory=ComposedConfig)
    latents: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise ValueError(f"latents={self.latents}: give at least 1.")
        if (
            self.component.whole is not None
            or self.component.start != "uniform"
            or isinstance(self.component.phase, WholePhase)
        ):
            raise ValueError("the base of a mixture has whole=None, start='uniform' and no WholePhase().")

    @property
    def reference(self) -> object:
        return self.component.reference

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Latent":
        return Latent(hilbert, self, device)


class Latent(DenselyDecoded):
    """A mixture of autoregressive wavefunctions with one network."""

    config: LatentConfig
    rowwise_layers = True
    features: Tensor  # (K, K)

    def __init__(self, hilbert: HilbertSpace, config: LatentConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert, self.config = hilbert, config
        K = config.latents
        one_hot = GlobalEmbedding(couplings=(0.0,) * K, sector=False)
        self.component = replace(config.component, whole=one_hot, seed=config.seed).build(hilbert, device)
        self.has_phase, self.gradient_dtype = self.component.has_phase, self.component.gradient_dtype
        with torch.random.fork_rng(devices=[]):
            self.weights = nn.Linear(1, K, bias=False, device=device, dtype=self.component.norm.weight.dtype)
        nn.init.zeros_(self.weights.weight)
        self.register_buffer("features", torch.eye(K, device=device, dtype=self.weights.weight.dtype), persistent=False)

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        (B, L), K = n.shape, self.config.latents
        features = self.features.to(self.weights.weight.dtype).repeat(B, 1)
        logits, phase = self.component.outputs(n[:, :-1].repeat_interleave(K, 0), features=features)
        sites = torch.arange(L, device=n.device)
        log_start = self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]
        impossible = log_start.isneginf()
        log_p = (logits.view(B, K, L, logits.shape[-1]) + log_start[:, None]).log_softmax(-1)
        log_p = log_p.masked_fill(impossible[:, None], 0.0)  # the same for all z; -inf would give nan below
        chosen = log_p.gather(-1, n.long()[:, None, :, None].expand(-1, K, -1, -1))[..., 0]
        before = chosen.cumsum(2) - chosen
        ones = torch.ones((B, 1), device=n.device, dtype=self.weights.weight.dtype)
        prior = self.weights(ones).double().log_softmax(-1)
        posterior = (before + prior[..., None]).log_softmax(1)
        joint = posterior[..., None] + log_p
        mixed = joint.logsumexp(1).masked_fill(impossible, -torch.inf)
        return Conditionals(mixed, (joint.softmax(1) * phase.view(B, K, L, phase.shape[-1])).sum(1))

    @property
    def bytes_per_configuration(self) -> int:
        return (self.config.latents + 1) * self.component.bytes_per_configuration
