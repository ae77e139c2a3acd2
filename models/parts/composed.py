"""Autoregressive wavefunction composed of interchangeable parts: to compare answers to one design question.

psi(n) = sqrt(p(n)) exp(i phi(n)) with p(n) = prod_s p(n_s | n_1 .. n_{s-1}), as `nqs.models.transformer`, whose
conditionals are the same function with the parts that are the default here. Every part is a frozen dataclass with
`build(sizes)`; one of your own is passed in its place. Decoding evaluates the prefix anew at every site.
"""

# Shapes: B configurations, L sites, S sites chosen so far, T positions, D width, d local states.
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.block import Block
from nqs.models.normalisation import LayerNorm
from nqs.models.parts.attention import Attention
from nqs.models.parts.globals import GlobalEmbedding
from nqs.models.parts.heads import Deembedding, InnerSites, SiteLinear
from nqs.models.parts.initial import LOGITS, initialise
from nqs.models.parts.phases import TokenPhase, WholePhases
from nqs.models.parts.positions import LearnedPositions
from nqs.models.parts.prefix import Prefix
from nqs.models.parts.sizes import Sizes
from nqs.models.parts.tokens import Categorical
from nqs.models.references.conditionals import StartConditionals, StartingState
from nqs.protocols import AutoregressiveWavefunction, Conditionals, LogPsi, ReferencePhase
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class ComposedConfig:
    """Parts and sizes of a composed wavefunction.

    Attributes:
        tokens, positions, mixer, deembedding, phase: parts, dataclasses of nqs.models.parts; phase None: positive.
        whole: numbers that are the same for a whole configuration, or None.
        width: of the network, D.
        layers: number of blocks.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        patch: consecutive sites in one token; must divide the number of sites. Within a patch the sites are chosen one
            after the other by a small network.
        shape: rows and columns of the sites in the order of decoding, for two-dimensional parts; None: one row.
        dtype: as of `TransformerConfig`.
        seed: of the initial parameters.
        reference: fixed phase of every configuration, such as `MarshallSign`.
        start: |psi|^2 for zero logits: "uniform" over the sector, or that of the "reference", which must be a
            `SlaterDeterminant`.
        initial_phases: size of the initial learned phase of a site.

    Raises:
        ValueError: a size out of range, or something that is no part.
    """

    tokens: Any = field(default_factory=Categorical)
    positions: Any = field(default_factory=LearnedPositions)
    mixer: Any = field(default_factory=Attention)
    deembedding: Deembedding = field(default_factory=Deembedding)
    phase: Any = field(default_factory=TokenPhase)
    whole: GlobalEmbedding | None = None
    width: int = 32
    layers: int = 2
    mlp_ratio: int = 2
    patch: int = 1
    shape: tuple[int, int] | None = None
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0
    reference: ReferencePhase | None = None
    start: Literal["uniform", "reference"] = "uniform"
    initial_phases: float = 1.0

    def __post_init__(self) -> None:
        sizes = ("width", "layers", "mlp_ratio", "patch")
        check_fields(self, positive=("initial_phases",), at_least=dict.fromkeys(sizes, 1))
        for name in ("tokens", "positions", "mixer", "deembedding", "phase", "whole"):
            part = getattr(self, name)
            if not (hasattr(part, "build") or (part is None and name in ("phase", "whole"))):
                raise ValueError(
                    f"{name}={part!r} is no part: give one of nqs.models.parts, or a dataclass with build(sizes)."
                )
        if self.start == "reference" and not isinstance(self.reference, StartingState):
            raise ValueError("start='reference' needs a SlaterDeterminant as reference; choose start='uniform'.")

    def sizes(self, hilbert: HilbertSpace) -> Sizes:
        """
        Raises:
            ValueError: the patch or the shape does not fit the number of sites.
        """
        L = hilbert.n_sites
        shape = self.shape or (1, L)
        if L % self.patch:
            raise ValueError(f"patch={self.patch} does not divide the {L} sites.")
        if shape[0] * shape[1] != L:
            raise ValueError(f"shape={shape} holds {shape[0] * shape[1]} sites, but the sector has {L}.")
        return Sizes(hilbert, self.width, self.patch, shape)

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Composed":
        return Composed(hilbert, self, device)


class Composed(AutoregressiveWavefunction[Prefix]):
    """An autoregressive wavefunction of parts.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models.parts import LinearRecurrence
    >>> space = bosons(3, 3)
    >>> model = ComposedConfig(width=8, mixer=LinearRecurrence()).build(space)
    >>> print(f"{(2 * model.log_psi(space.configurations()).log_modulus).exp().sum().item():.12f}")
    1.000000000000
    """

    config: ComposedConfig
    head: SiteLinear
    phase: Any  # a module of nqs.models.parts.phases, or None
    rowwise_layers = True

    def __init__(self, hilbert: HilbertSpace, config: ComposedConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert, self.config = hilbert, config
        self.has_phase = config.phase is not None
        self.sizes = sizes = config.sizes(hilbert)
        with torch.random.fork_rng(devices=[]), float32_by_default():
            self.token = config.tokens.build(sizes)
            self.position = config.positions.build(sizes)
            self.whole = None if config.whole is None else config.whole.build(sizes)
            D = config.width
            self.blocks = nn.ModuleList(
                Block(D, config.mlp_ratio * D, config.mixer.build(sizes)) for _ in range(config.layers)
            )
            self.pool = config.deembedding.build(sizes)
            self.inner = InnerSites(sizes) if config.patch > 1 else None
            self.norm = LayerNorm(D)
            self.head = config.deembedding.linear(sizes, hilbert.local_dim)
            self.phase = None if config.phase is None else config.phase.build(sizes, config.deembedding)
        initialise(self, config.seed)
        with torch.no_grad():
            self.head.weight.mul_(LOGITS)
            if self.phase is not None:
                self.phase.head.weight.mul_(self.phase.gain * config.initial_phases)
        self.start_from: StartConditionals | None = None
        if config.start == "reference":
            assert isinstance(config.reference, StartingState)
            self.start_from = config.reference.conditionals(hilbert.local_dim).to(torch.device(device))
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    # --- the network ------------------------------------------------------------------------------------------------

    def outputs(
        self, n: UInt8[Tensor, "B S"], first: int = 0, features: Float[Tensor, "B F"] | None = None
    ) -> tuple[Float64[Tensor, "B T d"], Float64[Tensor, "B T d"]]:
        """Logits and phases of the sites first .. S, from the local states of the first S sites.

        Args:
            features: of `GlobalEmbedding`, in place of its own.
        """
        B, S = n.shape
        p, d = self.config.patch, self.hilbert.local_dim
        T = S // p + 1
        before = nn.functional.pad(n[:, : (T - 1) * p].long(), (p, 0), value=d)
        x = self.token(before.view(B, T, p))
        x = x + self.position(B, T).to(x.dtype)
        if self.whole is not None:
            x = x + self.whole(B, features)
        for block in self.blocks:
            x = block(x)
        x = self.pool(x)
        if self.inner is not None:
            x = self.inner(x, n.long())
        x = self.norm(x[:, first:])
        logits = self.head(x, first=first)
        if self.phase is None or isinstance(self.phase, WholePhases):
            phase = torch.zeros_like(logits)
        else:
            phase = self.phase(x, logits, first)
        return logits.double(), phase.double()

    def _conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        """Without the phase of a separate network."""
        logits, phase = self.outputs(n[:, :-1])
        sites = torch.arange(self.hilbert.n_sites, device=n.device)
        log_start = self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]
        if self.start_from is not None:
            log_start = self.start_from.of(n, log_start)
        return Conditionals((logits + log_start).log_softmax(-1), phase)

    # --- whole configurations ---------------------------------------------------------------------------------------

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        log_p, phase = self._conditionals(n)
        if isinstance(self.phase, WholePhases):
            last = self.phase.of_last_site(n).double()
            phase = torch.cat([phase[:, :-1], last[:, None]], dim=1)
        return Conditionals(log_p, phase)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_p, phase = self._conditionals(n)
        chosen = n.long()[..., None]
        log_modulus, phase = log_p.gather(-1, chosen).sum((1, 2)) / 2, phase.gather(-1, chosen).sum((1, 2))
        if isinstance(self.phase, WholePhases):
            phase = phase + self.phase(n).double()
        return LogPsi(log_modulus, phase)

    @property
    def bytes_per_configuration(self) -> int:
        # Per site at the widest point: residual, normed input, hidden layers of mixer and feed-forward part.
        widest = 4 + 2 * max(4, self.config.mlp_ratio)
        itemsize = next(self.parameters()).element_size()
        return self.hilbert.n_sites * (widest * self.config.width * itemsize + 8 * 8 * self.hilbert.local_dim)

    # --- site by site -----------------------------------------------------------------------------------------------

    def start(self, batch: int) -> Prefix:
        device = next(self.parameters()).device
        remainder = torch.full((batch,), self.hilbert.start, device=device)
        begun = None if self.start_from is None else self.start_from.start(batch)
        return Prefix(torch.empty((batch, 0), dtype=torch.uint8, device=device), remainder, begun)

    @torch.no_grad()
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Prefix) -> tuple[Conditionals, Prefix]:
        n, remainder, begun = state
        tables = self.hilbert.tables(n.device)
        if tokens is not None:
            chosen = tokens.long()
            remainder = tables.after(n.shape[1], remainder, chosen)
            if begun is not None:
                assert self.start_from is not None
                self.start_from.extend_(begun, n.shape[1], chosen)
            n = torch.cat([n, tokens[:, None]], dim=1)
        site = n.shape[1]
        logits, phase = (part[:, 0] for part in self.outputs(n, site))
        log_start = tables.log_uniform[site, remainder]
        if begun is not None:
            assert self.start_from is not None
            log_start = self.start_from.log_start_(begun, site, log_start)
        if isinstance(self.phase, WholePhases) and site == self.hilbert.n_sites - 1:
            phase = self.phase.of_last_site(nn.functional.pad(n, (0, 1))).double()
        return Conditionals((logits + log_start).log_softmax(-1), phase), Prefix(n, remainder, begun)
