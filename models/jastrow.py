r"""Jastrow factor: a positive state with a factor for every pair of sites,

    log psi(n) = 1/2 sum_ij W_{class(i, j)}[n_i, n_j],

with the sum over all pairs i, j, equal ones (the factor of a single site) among them, and a table of all local states
for each class of pairs: on a lattice pairs with the same displacement. Symmetric in i and j by the sum.

Jastrow, Phys. Rev. 98, 1479 (1955); on lattices Gros, Ann. Phys. 189, 53 (1989).
"""

# Shapes: B configurations, L sites, d local states, C classes.
import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class JastrowConfig:
    """Classes of pairs, initial weights and seed.

    Sizes have no defaults, and no recipe has this network: `nqs.ground_state` chooses another one, and its sizes
    (`nqs.recipes.NetworkOptions`).

    Attributes:
        displacements: class of every pair of sites, L x L, as `Lattice.displacements`. None: every pair is a class.
        initial: typical size of the initial weights.
        seed: of the initial parameters.

    Raises:
        TypeError: the size of the initial weights is missing.
        ValueError: a size that is not positive.
    """

    displacements: tuple[tuple[int, ...], ...] | None = None
    initial: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, positive=("initial",))

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Jastrow":
        return Jastrow(hilbert, self, device=device)


class Jastrow(Wavefunction):
    """A factor for every pair of sites of any sector."""

    config: JastrowConfig
    has_phase = False
    normalised = False
    rowwise_layers = True
    capturable = True
    classes: Tensor  # (L, L)

    def __init__(self, hilbert: HilbertSpace, config: JastrowConfig, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config
        L, d = hilbert.n_sites, hilbert.local_dim
        given = torch.arange(L * L).view(L, L) if config.displacements is None else torch.tensor(config.displacements)
        if given.shape != (L, L):
            raise ValueError(
                f"displacements are classes of {tuple(given.shape)} pairs, but the sector has {L} sites: take "
                "lattice.displacements() of the same lattice."
            )
        present, classes = given.unique(return_inverse=True)
        self.register_buffer("classes", classes, persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]), float32_by_default(), torch.no_grad():
            self.pairs = nn.Embedding(len(present) * d * d, 1, dtype=torch.float64)
            self.pairs.weight.normal_(0.0, config.initial, generator=generator)
        self.to(device)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        d, states = self.hilbert.local_dim, n.long()
        index = (self.classes * d + states[:, :, None]) * d + states[:, None, :]  # (B, L, L)
        log_modulus = self.pairs(index.flatten(1)).sum((1, 2)) / 2
        return LogPsi(log_modulus.masked_fill(~self.hilbert.contains(n), -math.inf), torch.zeros_like(log_modulus))

    @property
    def bytes_per_configuration(self) -> int:
        return 24 * self.hilbert.n_sites**2
