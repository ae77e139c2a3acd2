"""Autoregressive transformer wavefunction, psi(n) = sqrt(p(n)) exp(i phi(n)), normalised over its sector.

p(n) = prod_s p(n_s | n_1 .. n_{s-1}) and phi(n) = sum_s phi_s(n_s | n_1 .. n_{s-1}). The conditionals are a softmax
over logits plus the log conditionals of the uniform distribution over the sector: prefixes that cannot reach the
sector have probability exactly zero, every product of conditionals is normalised, and zero logits mean the uniform
superposition of the whole sector. Decoder-only; sampling and amplitudes as in Sharir et al., Phys. Rev.
Lett. 124, 020503 (2020), arXiv:1902.04057.

`nqs.models.inference.dense.DenseDecoder` defines decoding; `nqs.models.inference.decoder.Decoder` computes the same
faster.
"""

# Shapes: B configurations, L sites, D width, d local states.
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.attention import CausalSelfAttention
from nqs.models.block import Block
from nqs.models.factored_attention import FactoredAttention
from nqs.models.inference.decoder import Decoder
from nqs.models.inference.dense import DenseDecoder
from nqs.models.initialisation import initialise
from nqs.models.normalisation import LayerNorm
from nqs.models.references.conditionals import StartConditionals, StartingState
from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState, LogPsi, ReferencePhase
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.memory import require_memory
from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size, precision and seed of the network.

    Sizes have no defaults: `nqs.ground_state` chooses them for each problem, and `nqs.recipes.NetworkOptions` changes
    single ones.

    Attributes:
        width: embedding width D.
        layers: number of blocks.
        heads: attention heads; must divide width. None: one per channel with factored attention, else 4, which
            archives rely on; recipes name a number (nqs.recipes.model.HEADS, compared there).
        attention: "dot-product" (queries and keys) or "factored" (weights by position, nqs.models.factored_attention).
        displacements: class of every pair of sites, L x L, for factored attention: pairs of one class share weights, as
            those of one displacement in `Lattice.displacements`. None: every pair is a class of its own.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for a phase head, "zero" for a positive wavefunction.
        dtype: precision of the network; conditionals and amplitudes are always formed in float64. "mixed" is float64
            for samples and energies and float32 for the natural gradient, which needs fewer digits.
        seed: of the initial parameters.
        reference: fixed phase of every configuration, such as `MarshallSign`, added to the learned phase.
        initial_phases: typical size of the initial learned phase of a site: small where the reference is nearly right.
        start: |psi|^2 for zero logits: "uniform" over the sector, or that of the "reference", a `SlaterDeterminant` or
            a `ListedState`.
        initial_logits: size of the initial logits, in units of the usual one (nqs.models.initialisation): small where
            the start is nearly right.

    Raises:
        TypeError: a size is missing.
        ValueError: a value that is not allowed.
    """

    width: int
    layers: int
    heads: int | None = None
    attention: Literal["dot-product", "factored"] = "dot-product"
    displacements: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: int = 2
    phase: Literal["learned", "zero"] = "learned"
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0
    reference: ReferencePhase | None = None
    initial_phases: float = 1.0
    start: Literal["uniform", "reference"] = "uniform"
    initial_logits: float = field(default=1.0, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        sizes = ("width", "layers", "mlp_ratio", "n_heads")
        check_fields(self, positive=("initial_phases", "initial_logits"), at_least=dict.fromkeys(sizes, 1))
        if self.attention == "dot-product" and self.displacements is not None:
            raise ValueError("displacements are for attention='factored'; queries and keys have no use for them.")
        if self.start == "reference" and not isinstance(self.reference, StartingState):
            raise ValueError(
                "start='reference' needs a SlaterDeterminant or a ListedState as reference; choose start='uniform'."
            )
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.n_heads}; choose a multiple.")

    @property
    def n_heads(self) -> int:
        """Number of attention heads, with the default resolved."""
        default = self.width if self.attention == "factored" else 4
        return default if self.heads is None else self.heads

    @property
    def summary(self) -> str:
        layers = f"{self.layers} layer{'s' * (self.layers > 1)}"
        return f"width {self.width}, {layers}, {self.attention} attention, {self.dtype}"

    def n_parameters(self, n_sites: int, local_dim: int) -> int:
        """Number of parameters, without building the network."""
        D, hidden, outputs = self.width, self.mlp_ratio * self.width, local_dim * (2 if self.phase == "learned" else 1)
        attention = 4 * D * (D + 1)
        if self.attention == "factored":
            rows = self.displacements
            pairs = n_sites * (n_sites + 1) // 2  # of a site with itself and earlier ones
            classes = pairs if rows is None else len({c for i, row in enumerate(rows) for c in row[: i + 1]})
            attention = 2 * D * (D + 1) + self.n_heads * classes
        block = 4 * D + attention + 2 * D * hidden + hidden + D
        return (local_dim + 1 + n_sites) * D + self.layers * block + 2 * D + (D + 1) * outputs

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Transformer":
        return Transformer(hilbert, self, device=device)


class Transformer(AutoregressiveWavefunction[DecodingState]):
    """Decoder-only transformer over the local states of a sector.

    Args:
        hilbert: the sector; it fixes the number of sites and local states.
        config: size, precision and seed; keyword options override single fields, or are all of them without it.
        device: where the parameters live.

    >>> from nqs.hilbert import bosons
    >>> space = bosons(3, 3)
    >>> model = Transformer(space, width=8, layers=2, heads=2)
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
        self.config = config = TransformerConfig(**options) if config is None else replace(config, **options)
        self.width = config.width
        self.has_phase = config.phase == "learned"
        L, d, D = hilbert.n_sites, hilbert.local_dim, self.width
        number = config.n_parameters(L, d)
        what = f"a network with {number:.2g} parameters (width={D}, layers={config.layers})"
        require_memory(8 * number, what, "choose a narrower one", torch.device(device))
        # The layers draw initial values that `initialise` replaces: keep the global random state. (The meta device
        # would avoid the draws, but takes a second to import.)
        with torch.random.fork_rng(devices=[]), float32_by_default():
            self.token = nn.Embedding(d + 1, D)  # local state of the site before; d before the first site
            self.site = nn.Embedding(L, D)
            blocks = (Block(D, config.mlp_ratio * D, self._attention()) for _ in range(config.layers))
            self.blocks = cast(list[Block[CausalSelfAttention | FactoredAttention]], nn.ModuleList(blocks))
            self.norm = LayerNorm(D)
            self.head = nn.Linear(D, 2 * d if self.has_phase else d)  # logits, then phases
        initialise(self, hilbert, config.seed, phases=config.initial_phases, logits=config.initial_logits)
        self.start_from: StartConditionals | None = None
        if config.start == "reference":
            assert isinstance(config.reference, StartingState)
            self.start_from = config.reference.conditionals(d).to(torch.device(device))
        self.decoder: Decoder | DenseDecoder = Decoder(self)
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    def _attention(self) -> CausalSelfAttention | FactoredAttention:
        config = self.config
        if config.attention == "factored":
            return FactoredAttention(self.width, config.n_heads, self.hilbert.n_sites, config.displacements)
        return CausalSelfAttention(self.width, config.n_heads)

    # --- whole configurations ---------------------------------------------------------------------------------------

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        # Sites expanded per configuration: per-configuration gradients need the input rows of each.
        sites = torch.arange(self.hilbert.n_sites, device=n.device)
        x = self.embedded(self.previous(n), sites.expand(n.shape))
        for block in self.blocks:
            x = block(x)
        log_start = self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]
        if self.start_from is not None:
            log_start = self.start_from.of(n, log_start)
        return self.of_outputs(self.head(self.norm(x)), log_start)

    def embedded(self, previous: Int64[Tensor, "*B"], sites: Int64[Tensor, "*S"] | int) -> Float[Tensor, "*B D"]:
        """Input of the first block: embeddings of the site and of the local state of the site before it."""
        return self.token(previous) + (self.site.weight[sites] if isinstance(sites, int) else self.site(sites))

    def previous(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Local state of the site before, d before the first site."""
        first = torch.full_like(n[:, :1], self.hilbert.local_dim, dtype=torch.int64)
        return torch.cat([first, n[:, :-1].long()], dim=1)

    def of_outputs(self, outputs: Float[Tensor, "*B out"], log_start: Float64[Tensor, "*B d"]) -> Conditionals:
        """Conditionals from the outputs of the head, logits and phases; in float64 whatever the network's precision."""
        outputs = outputs.double()
        if self.has_phase:
            logits, phase = outputs.chunk(2, dim=-1)
        else:
            logits, phase = outputs, torch.zeros_like(outputs)
        logits = logits + log_start
        return Conditionals(logits.log_softmax(-1), phase)

    @property
    def bytes_per_configuration(self) -> int:
        # Per site at the widest point: residual, normed input, and q, k, v with attention or the hidden layer twice;
        # about six float64 tensors of the local states: outputs (logits, phases), start, their sum, conditionals, p.
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
