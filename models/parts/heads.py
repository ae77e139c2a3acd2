"""De-embedding: numbers for each local state of the next site, from the vectors of the positions."""

# Shapes: B configurations, T positions, D width, U configurations of a gradient.
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Deembedding:
    """Where the next-token distribution comes from.

    Attributes:
        pooled: from the last position and the mean over all positions so far; False: from the last position alone.
        per_site: a linear map for each site; False: one for all.
    """

    pooled: bool = False
    per_site: bool = False

    def build(self, sizes: Sizes) -> nn.Module:
        return Pool(sizes.width) if self.pooled else nn.Identity()

    def linear(self, sizes: Sizes, outputs: int) -> "SiteLinear":
        """Map of (B, T, D) and sites (B, T) to (B, T, outputs)."""
        return SiteLinear(sizes.n_sites if self.per_site else 1, sizes.width, outputs)


class Pool(nn.Module):
    """x_t + A mean_{s <= t} x_s."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        number = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return x + self.linear(x.cumsum(1) / number[:, None])


class SiteLinear(nn.Module):
    """A linear map with weights for each site, or one for all."""

    def __init__(self, maps: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.by_site = maps > 1
        self.weight = nn.Parameter(torch.empty(maps, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(maps, outputs))

    def forward(self, x: Float[Tensor, "B T D"], *, first: int) -> Float[Tensor, "B T out"]:
        """For sites from `first` on."""
        if not self.by_site:
            return nn.functional.linear(x, self.weight[0], self.bias[0])
        sites = slice(first, first + x.shape[1])
        return torch.einsum("btd,tod->bto", x, self.weight[sites]) + self.bias[sites]

    def weight_gradients(self, x: Float[Tensor, "U T D"], g: Float[Tensor, "U T out"]) -> Tensor:
        """Gradients for each of U configurations, (U, maps, out, D); x and g are of all sites."""
        return torch.einsum("uto,utd->utod", g, x) if self.by_site else (g.mT @ x)[:, None]

    def bias_gradients(self, x: Float[Tensor, "U T D"], g: Float[Tensor, "U T out"]) -> Tensor:
        return g if self.by_site else g.sum(1, keepdim=True)

    parameter_gradients: ClassVar = {"weight": weight_gradients, "bias": bias_gradients}


class InnerSites(nn.Module):
    """Within a patch: the vector of a site, from that of the patch and the sites of it that are already chosen."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.patch, self.local_dim = sizes.patch, sizes.local_dim
        self.chosen = nn.Linear(sizes.patch * (sizes.local_dim + 1), sizes.width, bias=False)

    def forward(self, x: Float[Tensor, "B P D"], n: Int64[Tensor, "B S"]) -> Float[Tensor, "B S1 D"]:
        """For sites 0 .. S, given the local states of the first S."""
        S, p, d = n.shape[1], self.patch, self.local_dim
        padded = nn.functional.pad(n, (0, x.shape[1] * p - S))
        tokens = padded.view(len(n), x.shape[1], 1, p).expand(-1, -1, p, -1)  # by patch, site, site looked at
        later = torch.ones((p, p), dtype=torch.bool, device=n.device).triu()
        one_hot = (tokens.masked_fill(later, d)[..., None] == torch.arange(d + 1, device=n.device)).to(x.dtype)
        inner = self.chosen(one_hot.flatten(1, 2).flatten(2))
        return nn.functional.gelu(x.repeat_interleave(p, dim=1) + inner)[:, : S + 1]
