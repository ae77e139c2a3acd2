"""Global sequence embedding: particle numbers, lattice size and couplings, added to every position.

One set of parameters then serves a family of Hamiltonians: `nqs.models.parts.family`.
"""

# Shapes: B configurations, F features, D width.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class GlobalEmbedding:
    """A small network of the numbers that are the same for a whole configuration.

    Attributes:
        couplings: parameters of the Hamiltonian, of order 1.
        sector: also the number of sites, as 1 / L, and the conserved charges per site.
    """

    couplings: tuple[float, ...] = ()
    sector: bool = True

    def features(self, sizes: Sizes) -> Float[Tensor, " F"]:
        hilbert = sizes.hilbert
        charges = [charge.target for charge in hilbert.charges if charge.target is not None]
        numbers = [1 / hilbert.n_sites, *(charge / hilbert.n_sites for charge in charges)] if self.sector else []
        return torch.tensor([*self.couplings, *numbers])

    def build(self, sizes: Sizes) -> nn.Module:
        """
        Raises:
            ValueError: there is nothing to embed.
        """
        features = self.features(sizes)
        if not len(features):
            raise ValueError("GlobalEmbedding(couplings=(), sector=False) embeds nothing: leave it out.")
        return Global(features, sizes.width)


class Global(nn.Module):
    """gelu(features A + a) B, for the features of the configuration or for given ones."""

    own: Tensor

    def __init__(self, features: Float[Tensor, " F"], width: int) -> None:
        super().__init__()
        self.register_buffer("own", features, persistent=False)
        self.inwards, self.outwards = nn.Linear(len(features), width), nn.Linear(width, width, bias=False)

    def forward(self, batch: int, features: Float[Tensor, "B F"] | None = None) -> Float[Tensor, "B 1 D"]:
        x = self.own.expand(batch, -1) if features is None else features
        x = x.to(self.outwards.weight.dtype)
        return self.outwards(nn.functional.gelu(self.inwards(x)))[:, None]
