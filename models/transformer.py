"""Autoregressive transformer wavefunction, psi(n) = sqrt(p(n)) exp(i phi(n)), normalised over its sector.

p(n) = prod_s p(n_s | n_1 .. n_{s-1}) and phi(n) = sum_s phi_s(n_s | n_1 .. n_{s-1}). The conditionals are a softmax
over logits plus the log conditionals of the uniform distribution over the sector: what cannot lead into the sector
has probability exactly zero, every product of conditionals is normalised, and zero logits mean the uniform
superposition of the whole sector. Decoder-only, pre-norm blocks as in GPT-2 (Radford et al. 2019); sampling and
amplitudes as in Sharir et al., arXiv:1902.04057.

This file defines the network, `DenseDecoder` what decoding means. `nqs.models.inference` computes the same faster.
"""

# Shapes: B configurations, L sites, S sites chosen so far, D width, d local states.
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.attention import CausalSelfAttention
from nqs.models.factored_attention import FactoredAttention
from nqs.models.inference.decoder import Decoder
from nqs.models.inference.kernels import log_softmax_
from nqs.models.initialisation import initialise
from nqs.models.normalisation import LayerNorm
from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState, LogPsi, ReferencePhase

WIDTH, HEADS = 32, 4  # where none are given


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size and start of the network.

    Attributes:
        width: embedding width D. None: 32; the scripts take less where a step would be long (nqs.recipes).
        layers: number of blocks.
        heads: attention heads; must divide width. None: 4, or one a channel in factored attention.
        attention: "dot-product" (queries and keys) or "factored" (weights that depend on positions alone, see
            nqs.models.factored_attention). None: "dot-product"; the scripts take "factored" for averages over images.
        displacements: class of every pair of sites, L x L, for factored attention: pairs of one class share weights, as
            those of one displacement do in `Lattice.displacements`. None: every pair has its own.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a positive wavefunction.
        dtype: precision of the network; conditionals and amplitudes are always formed in float64. "mixed" is float64
            for samples and energies and float32 for the natural gradient, which needs fewer digits. None: "mixed"; the
            scripts take "float32" where noise is larger (nqs.recipes).
        seed: of the initial parameters.
        reference: fixed phase of every configuration, such as `MarshallSign`, which the learned phase adds to.
    """

    width: int | None = WIDTH
    layers: int = 2
    heads: int | None = None
    attention: Literal["dot-product", "factored"] | None = "dot-product"
    displacements: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: int = 2
    phase: Literal["learned", "zero"] = "learned"
    dtype: Literal["float64", "float32", "mixed"] | None = "float64"
    seed: int = 0
    reference: ReferencePhase | None = None

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_ratio"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1.")
        if self.attention not in ("dot-product", "factored", None):
            raise ValueError(f"attention={self.attention!r}: choose 'dot-product' or 'factored'.")
        if self.attention == "dot-product" and self.displacements is not None:
            raise ValueError("displacements are for attention='factored'; queries and keys have no use for them.")
        width, heads = self.width or WIDTH, self.n_heads
        if width % heads and (self.heads or self.attention):
            raise ValueError(f"{width=} is not divisible by {heads=}; choose a multiple.")
        if self.phase not in ("learned", "zero"):
            raise ValueError(f"phase={self.phase!r}: choose 'learned' or 'zero'.")
        if self.dtype not in ("float64", "float32", "mixed", None):
            raise ValueError(f"dtype={self.dtype!r}: choose 'float64', 'float32' or 'mixed'.")

    @property
    def n_heads(self) -> int:
        """Attention heads, also where none are given."""
        return self.heads or ((self.width or WIDTH) if self.attention == "factored" else HEADS)

    def completed(self) -> "TransformerConfig":
        """With values for what was None, apart from displacements."""
        attention, dtype = self.attention or "dot-product", self.dtype or "mixed"
        return replace(self, width=self.width or WIDTH, heads=self.n_heads, attention=attention, dtype=dtype)

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Transformer":
        """The network on a sector."""
        return Transformer(hilbert, self, device=device)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, n_sites: int) -> None:
        super().__init__()
        D, heads = config.width or WIDTH, config.n_heads
        hidden = config.mlp_ratio * D
        self.norm1 = LayerNorm(D)
        self.attention: CausalSelfAttention | FactoredAttention
        if config.attention == "factored":
            self.attention = FactoredAttention(D, heads, n_sites, config.displacements)
        else:
            self.attention = CausalSelfAttention(D, heads)
        self.norm2 = LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(AutoregressiveWavefunction[DecodingState]):
    """Decoder-only transformer over the local states of a sector.

    Args:
        hilbert: the sector; it fixes the number of sites and local states.
        config: size, precision and seed; keyword options override single fields: `Transformer(hilbert, width=48)`.
        device: where the parameters live.

    >>> from nqs.hilbert import bosons
    >>> space = bosons(3, 3)
    >>> model = Transformer(space, width=8, heads=2)
    >>> log_modulus, phase = model.log_psi(space.configurations())
    >>> print(f"{(2 * log_modulus).exp().sum().item():.12f}")  # normalised without a Markov chain
    1.000000000000
    """

    config: TransformerConfig
    shares_prefixes = True
    rowwise_layers = True

    def __init__(
        self,
        hilbert: HilbertSpace,
        config: TransformerConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config = replace(config or TransformerConfig(), **options).completed()
        self.width = config.width or WIDTH
        self.has_phase = config.phase == "learned"
        L, d, D = hilbert.n_sites, hilbert.local_dim, self.width
        # torch draws initial values of its own, which `initialise` replaces; global random numbers stay as they were.
        # (On the meta device nothing would be drawn, but that loads a second's worth of Python modules.)
        with torch.random.fork_rng(devices=[]):
            self.token = nn.Embedding(d + 1, D)  # local state of the site before; d before the first site
            self.site = nn.Embedding(L, D)
            self.blocks = cast(list[Block], nn.ModuleList(Block(config, L) for _ in range(config.layers)))
            self.norm = LayerNorm(D)
            self.head = nn.Linear(D, 2 * d if self.has_phase else d)  # logits, then phases
        initialise(self, self.head, n_sites=L, local_dim=d, seed=config.seed)
        self.decoder: Decoder | DenseDecoder = Decoder(self)
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    # --- whole configurations ---------------------------------------------------------------------------------------

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        # A row of sites for each configuration: gradients of one configuration need its own input of the layer.
        sites = torch.arange(self.hilbert.n_sites, device=n.device)
        x = self.embedded(self.previous(n), sites.expand(n.shape))
        for block in self.blocks:
            x = block(x)
        log_uniform = self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]
        return self.of_outputs(self.head(self.norm(x)), log_uniform)

    def embedded(self, previous: Int64[Tensor, "*B"], sites: Int64[Tensor, "*S"]) -> Float[Tensor, "*B D"]:
        """Input of the first block: what a site is, and what the site before it holds."""
        return self.token(previous) + self.site(sites)

    def previous(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Local state of the site before, d before the first site."""
        first = torch.full_like(n[:, :1], self.hilbert.local_dim, dtype=torch.int64)
        return torch.cat([first, n[:, :-1].long()], dim=1)

    def of_outputs(self, outputs: Float[Tensor, "*B out"], log_uniform: Float64[Tensor, "*B d"]) -> Conditionals:
        """Conditionals from what the head returns, logits and phases; in float64 whatever the network's precision."""
        outputs = outputs.double()
        if self.has_phase:
            logits, phase = outputs.chunk(2, dim=-1)
        else:
            logits, phase = outputs, torch.zeros_like(outputs)
        logits = logits + log_uniform
        return Conditionals(logits.log_softmax(-1) if torch.is_grad_enabled() else log_softmax_(logits), phase)

    @property
    def bytes_per_configuration(self) -> int:
        # Per site at the widest point: residual, normed input, and q, k, v with attention or the hidden layer twice.
        widest = 2 + max(4, 2 * self.config.mlp_ratio)
        itemsize = self.site.weight.element_size()
        return self.hilbert.n_sites * (widest * self.width * itemsize + 6 * 8 * self.hilbert.local_dim)

    # --- site by site -----------------------------------------------------------------------------------------------

    def start(self, batch: int) -> DecodingState:
        return self.decoder.start(batch)

    def step(self, tokens: UInt8[Tensor, " B"] | None, state: DecodingState) -> tuple[Conditionals, DecodingState]:
        return self.decoder.step(tokens, cast(Any, state))

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        return self.decoder.log_psi_in_order(n, shared)

    @property
    def bytes_per_shared_site(self) -> int:
        return self.decoder.bytes_per_shared_site


class Chosen(NamedTuple):
    """Decoding state of `DenseDecoder`: the local states chosen so far."""

    n: UInt8[Tensor, "B S"]

    def select(self, indices: Int64[Tensor, " B2"]) -> Self:
        return self._replace(n=self.n[indices])

    def branch(self, indices: Int64[Tensor, " B2"]) -> Self:
        return self.select(indices)


class DenseDecoder:
    """Decoding by definition: every step evaluates whole configurations, in which the sites to come hold anything."""

    bytes_per_shared_site = 0

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer

    def start(self, batch: int) -> Chosen:
        return Chosen(torch.empty((batch, 0), dtype=torch.uint8, device=self.transformer.site.weight.device))

    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Chosen) -> tuple[Conditionals, Chosen]:
        n = state.n if tokens is None else torch.cat([state.n, tokens[:, None]], dim=1)
        site = n.shape[1]
        log_p, phase = self.transformer.conditionals(nn.functional.pad(n, (0, self.transformer.hilbert.n_sites - site)))
        return Conditionals(log_p[:, site], phase[:, site]), Chosen(n)

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        return self.transformer.log_psi(n)
