r"""Vision transformer for spins (and other particles): patches of sites are tokens, attention goes by displacement.

    log psi(n) = sum_j log cosh(b_j + sum_i W_ji z_i),    z = mean over the patches of their features,

with complex W and b where phases are learned. Patches on a lattice without open boundaries know nothing of their place,
so that translations by a patch leave psi as it is; with `places` they do.

Viteritti, Rende and Becca, Phys. Rev. Lett. 130, 236401 (2023), arXiv:2211.05504; Rende et al., Commun. Phys. 7, 260
(2024), arXiv:2310.05715; attention weights by position: Rende and Viteritti, arXiv:2405.18874.
"""

# Shapes: B configurations, L sites, T patches, d local states, D width.
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.lattice import Lattice, hypercubic
from nqs.models.encoder import Encoder
from nqs.models.rbm import log_cosh
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields

MAX_STATES = 2**12  # of a patch


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Patches, size and seed; `on_patches` gives the first two for a lattice.

    Sizes have no defaults, and no recipe has this network: `nqs.ground_state` chooses another one, and its sizes
    (`nqs.recipes.NetworkOptions`).

    Attributes:
        patches: sites of every patch, each site once, patches of equal size; None: every site is a patch.
        displacements: class of every pair of patches: pairs of one class share weights. None: each is a class.
        places: patches know their place.
        width: embedding width D.
        layers: number of blocks.
        heads: attention heads; must divide the width. None: one per channel.
        mlp_ratio: hidden width of the feed-forward part, in units of width.
        phase: "learned" for complex weights at the end, "zero" for a positive wavefunction.
        seed: of the initial parameters.

    Raises:
        TypeError: a size is missing.
        ValueError: a value that is not allowed.
    """

    patches: tuple[tuple[int, ...], ...] | None = None
    displacements: tuple[tuple[int, ...], ...] | None = None
    places: bool = False
    width: int
    layers: int
    heads: int | None = None
    mlp_ratio: int = 2
    phase: Literal["learned", "zero"] = "learned"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, at_least=dict.fromkeys(("width", "layers", "mlp_ratio", "n_heads"), 1))
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.n_heads}; choose a multiple.")

    @property
    def n_heads(self) -> int:
        """Number of attention heads, with the default resolved."""
        return self.width if self.heads is None else self.heads

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Vision":
        return Vision(hilbert, self, device=device)


class Vision(Wavefunction):
    """Vision transformer over the local states of any sector.

    Raises:
        ValueError: patches that do not cover the sites once each, or with too many states.
    """

    config: VisionConfig
    normalised = False
    rowwise_layers = True
    capturable = True
    patches: Tensor  # (T, sites of a patch)
    powers: Tensor  # of the local states of a patch in its number

    def __init__(self, hilbert: HilbertSpace, config: VisionConfig, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config
        self.has_phase = config.phase == "learned"
        L, d, D = hilbert.n_sites, hilbert.local_dim, config.width
        patches = config.patches or tuple((site,) for site in range(L))
        sizes = {len(patch) for patch in patches}
        if sorted(itertools.chain(*patches)) != list(range(L)) or len(sizes) != 1:
            raise ValueError(
                f"patches of {sorted(sizes)} sites: every one of the {L} sites must be in one patch, all of one size; "
                "take on_patches of the same lattice."
            )
        size = sizes.pop()
        if d**size > MAX_STATES:
            raise ValueError(
                f"patches of {size} sites have {d**size:,} states, at most {MAX_STATES:,}: choose smaller."
            )
        self.register_buffer("patches", torch.tensor(patches), persistent=False)
        self.register_buffer("powers", d ** torch.arange(size), persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]), float32_by_default(), torch.no_grad():
            self.encoder = Encoder(
                d**size, len(patches), width=D, layers=config.layers, heads=config.n_heads,
                mlp_ratio=config.mlp_ratio, classes=config.displacements, places=config.places,
            )  # fmt: skip
            parts = ("real", "imaginary") if self.has_phase else ("real",)
            self.out = nn.ModuleDict({part: nn.Linear(D, D) for part in parts})
            self.to(torch.float64)
            self.encoder.initialise(generator)
            for parameter in self.out.parameters():
                parameter.normal_(0.0, D**-0.5 if parameter.ndim == 2 else 0.1, generator=generator)
        self.to(device)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        tokens = (n.long()[:, self.patches] * self.powers).sum(2)
        z = self.encoder(tokens).mean(1)  # (B, D)
        imaginary = self.out["imaginary"](z) if self.has_phase else None
        log_modulus, phase = log_cosh(self.out["real"](z), imaginary)
        return LogPsi(log_modulus.masked_fill(~self.hilbert.contains(n), -math.inf), phase)

    @property
    def bytes_per_configuration(self) -> int:
        return self.encoder.bytes_per_configuration(len(self.patches)) + 64 * self.config.width


def on_patches(lattice: Lattice, size: int = 2) -> dict[str, tuple[tuple[int, ...], ...]]:
    """`patches` and `displacements` of cubes of size^dimension sites: `VisionConfig(..., **on_patches(square(4, 4)))`.

    Args:
        lattice: hypercubic, one site per cell.

    Raises:
        ValueError: another lattice, or a length that is no multiple of the size.
    """
    shape = lattice.shape
    if size < 1 or not shape or lattice.n_sites != math.prod(shape) or any(length % size for length in shape):
        raise ValueError(
            f"patches of size {size} do not tile {lattice}: its lengths must be multiples of it, one site in each cell."
        )
    sites = np.arange(lattice.n_sites).reshape([k for length in shape for k in (length // size, size)])
    dimension = len(shape)
    order = [*range(0, 2 * dimension, 2), *range(1, 2 * dimension, 2)]
    patches = sites.transpose(order).reshape(-1, size**dimension)
    coarse = hypercubic(tuple(length // size for length in shape), lattice.boundary)
    return {
        "patches": tuple(map(tuple, patches.tolist())),
        "displacements": tuple(map(tuple, coarse.displacements().tolist())),
    }
