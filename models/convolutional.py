r"""Positive network for lattices: convolutions over all displacements, each followed by a layer of every site alone.

    log |psi(n)| = sum_i [ g(n_i) - 1/2 log n_i! + v . (x_i * y_i) + u . norm(z_i) ],

with x_i the features of the local state of site i, y_i = sum_j A_{h, class(i, j)} x_j, and z_i what residual blocks

    z_i <- z_i + mlp(norm(sum_j A_{h, class(i, j)} z_j))

make of x_i (features of the class of the site among them, where sites differ). The first
two terms are a Gutzwiller factor that begins as the condensate of free bosons, psi ~ prod_i
(n_i!)^(-1/2) (1/2 log n_i! is for bosons alone), the third is a Jastrow factor of all pairs, the last one the network.
Pairs of sites of one class share their weights, so that psi has all the symmetries that leave the classes as they are.
A sum over sites is extensive. Signs are those of a reference, such as Marshall's rule.

Residual convolutions and a Jastrow factor for bosons: Denis and Carleo, Quantum 9, 1772 (2025), arXiv:2404.07869; the
block is that of Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545. Occupation numbers that are rarely
seen have features like those of smaller ones, and Gutzwiller factors that fall as these do.
"""

# Shapes: B configurations, L sites, d local states, D width.
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.factored_attention import Mixing
from nqs.models.normalisation import LayerNorm
from nqs.protocols import LogPsi, ReferencePhase, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields

SMALL = 0.1  # initial Jastrow factor and network, per site: the state begins near the Gutzwiller factor


@dataclass(frozen=True, kw_only=True)
class ConvolutionalConfig:
    """Size, precision and seed.

    Sizes have no defaults: `nqs.ground_state` chooses them for each problem, and `nqs.recipes.NetworkOptions` changes
    single ones.

    Attributes:
        width: features of a site, D.
        layers: number of blocks.
        heads: convolutions with weights of their own; must divide the width. None: one per channel.
        displacements: class of every pair of sites, L x L, such as `Lattice.displacements`, or coarser classes of pairs
            that a symmetry turns into each other: pairs of one class share weights. None: every pair is a class.
        sites: class of every site: those of one class are alike. (): all are, and only what the convolution finds
            around them tells them apart.
        mlp_ratio: hidden width of the layer of a site, in units of width.
        reference: fixed phase of every configuration, such as `MarshallSign`.
        dtype: precision of the network; sums over sites are in float64. "mixed" is float64 for samples and energies and
            float32 for the natural gradient.
        seed: of the initial parameters.

    Raises:
        TypeError: a size is missing.
        ValueError: a value that is not allowed.
    """

    width: int
    layers: int
    heads: int | None = None
    displacements: tuple[tuple[int, ...], ...] | None = None
    sites: tuple[int, ...] = ()
    mlp_ratio: int = 2
    reference: ReferencePhase | None = None
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sites and min(self.sites) < 0:
            raise ValueError(f"sites={self.sites}: give a number from 0 for each site.")
        check_fields(self, at_least=dict.fromkeys(("width", "layers", "mlp_ratio", "n_heads"), 1))
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.n_heads}; choose a multiple.")

    @property
    def n_heads(self) -> int:
        """Number of different convolutions of a layer, with the default resolved."""
        return self.width if self.heads is None else self.heads

    @property
    def summary(self) -> str:
        layers = f"{self.layers} layer{'s' * (self.layers > 1)}"
        return f"convolutions of width {self.width}, {layers}, {self.dtype}"

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Convolutional":
        return Convolutional(hilbert, self, device=device)


class Convolutional(Wavefunction):
    """Residual convolutions over the local states of any sector; positive, or with the phase of a reference."""

    config: ConvolutionalConfig
    has_phase = False
    normalised = False
    rowwise_layers = True
    log_start: Tensor  # (L, d)
    classes: Tensor  # (L,), of the sites

    def __init__(
        self, hilbert: HilbertSpace, config: ConvolutionalConfig, *, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config
        d, D = hilbert.local_dim, config.width
        with torch.random.fork_rng(devices=[]), float32_by_default():
            self.states = OrdinalEmbedding(d, D)
            self.places = nn.Embedding(max(config.sites) + 1, D) if config.sites else None
            self.factors = OrdinalEmbedding(d, 1, order=2)
            self.pairs = nn.Linear(D, 1, bias=False)
            blocks = (ConvolutionalBlock(config, hilbert.n_sites) for _ in range(config.layers))
            self.blocks = cast(list[ConvolutionalBlock], nn.ModuleList(blocks))
            self.norm = LayerNorm(D)
            self.out = nn.Linear(D, 1, bias=False)
        start = condensate(hilbert)
        self.register_buffer("log_start", start, persistent=False)
        self._condensed = bool(start.any())
        if config.sites:
            if len(config.sites) != hilbert.n_sites:
                raise ValueError(
                    f"sites are classes of {len(config.sites)} sites, but the sector has {hilbert.n_sites}."
                )
            self.register_buffer("classes", torch.tensor(config.sites), persistent=False)
        self.to(torch.float64)
        self._initialise(torch.Generator().manual_seed(config.seed))
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.capturable = config.reference is None or getattr(config.reference, "capturable", False)
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Weights normal with variance 1 / inputs, a small Jastrow factor and head, no change of the single sites."""
        for name, parameter in self.named_parameters():
            if name == "states.weight":
                parameter.normal_(0.0, 1.0, generator=generator)
                parameter.div_(torch.arange(len(parameter)).clamp(min=1)[:, None])  # of the step from n - 1 to n
            elif name == "places.weight":
                parameter.normal_(0.0, 0.5, generator=generator)
            elif name == "factors.weight":
                parameter.zero_()
            elif parameter.ndim == 2:
                inputs = self.hilbert.n_sites if name.endswith("mixing.weight") else parameter.shape[1]
                scale = SMALL if name in ("pairs.weight", "out.weight") else 1.0
                parameter.normal_(0.0, scale * inputs**-0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    # --- amplitudes -------------------------------------------------------------------------------------------------

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        reference = self.config.reference
        return LogPsi(log_modulus, phase if reference is None else reference.phase(n))

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """log psi without the parameter-free reference phase."""
        tokens = n.long()
        inside = self.hilbert.contains(n)
        tokens = tokens.clamp(max=self.hilbert.local_dim - 1)
        x = self.states(tokens)
        if self.places is not None:
            # Places expanded per configuration: per-configuration gradients need the input rows of each.
            x = x + self.places(self.classes.expand(n.shape))
        first = x
        per_site = self.factors(tokens)
        for number, block in enumerate(self.blocks):
            mixed = block.mixing(x)
            if number == 0:
                per_site = per_site + self.pairs(first * mixed)
            x = x + block.of_site(mixed)
        per_site = (per_site + self.out(self.norm(x)))[..., 0].double()
        if self._condensed:
            per_site = per_site + self.log_start[torch.arange(n.shape[1], device=n.device), tokens]
        log_modulus = per_site.sum(1)
        return LogPsi(log_modulus.masked_fill(~inside, -math.inf), torch.zeros_like(log_modulus))

    @property
    def bytes_per_configuration(self) -> int:
        D, L = self.config.width, self.hilbert.n_sites
        return L * ((4 + 2 * self.config.mlp_ratio) * D * self.out.weight.element_size() + 48)


class ConvolutionalBlock(nn.Module):
    """A convolution of each channel, then a layer of every site alone."""

    def __init__(self, config: ConvolutionalConfig, n_sites: int) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        self.mixing = Mixing(config.n_heads, n_sites, config.displacements, causal=False)
        self.norm = LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))

    def of_site(self, mixed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What the block adds to the residual, from the convolution."""
        update: Tensor = self.mlp(self.norm(mixed))
        return update


class OrdinalEmbedding(nn.Embedding):
    """Vectors of ordered tokens: each is the one before plus a step of its own, or plus a step that changes so.

    The same functions as of a table, but a token that is rarely seen follows smaller ones.

    Args:
        tokens, width: as of nn.Embedding.
        order: 1: a token without weights of its own has the vector of the one before, sum_{k <= n} w_k; 2: it goes on
            as these did, sum_{k <= n} (n - k + 1) w_k.
    """

    def __init__(self, tokens: int, width: int, order: int = 1) -> None:
        super().__init__(tokens, width)
        self.order = order

    def forward(self, input: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        table = self.weight
        for _ in range(self.order):
            table = table.cumsum(0)
        return nn.functional.embedding(input, table)

    def weight_gradients(self, x: Int64[Tensor, "U T"], g: Float[Tensor, "U T D"]) -> Float[Tensor, "U tokens D"]:
        U, (tokens, D) = len(g), self.weight.shape
        row = (x + tokens * torch.arange(U, device=x.device)[:, None]).flatten()
        found = g.new_zeros((U * tokens, D)).index_add_(0, row, g.flatten(0, 1)).view(U, tokens, D).flip(1)
        for _ in range(self.order):
            found = found.cumsum(1)
        return found.flip(1)

    parameter_gradients: ClassVar[dict[str, Callable[..., Tensor]]] = {"weight": weight_gradients}


def condensate(hilbert: HilbertSpace) -> Float64[Tensor, "L d"]:
    """log of the factor (prod n!)^(-1/2) of every local state: free bosons all in the uniform orbital; 0 for others."""
    numbers = [hilbert.table(species.occupation) for species in hilbert.of_kind("boson")]
    found = np.zeros((hilbert.n_sites, hilbert.local_dim))
    for occupation in numbers:
        found -= np.vectorize(math.lgamma)(occupation + 1.0) / 2
    return torch.from_numpy(found)
