"""Gated recurrent mixers, along the sites or along both directions of a lattice.

    r, z = sigmoid(A x_t + a + B h),    c = tanh(C x_t + c + r * (D h)),    h_t = (1 - z) h + z c

(Cho et al., arXiv:1406.1078). In one dimension h is the memory of the position before. In two dimensions it is the mean
of that memory and of the memory one row above, which has just seen the site above: the neighbour on the lattice is then
one step away, and not a whole row. Recurrent wavefunctions: Hibat-Allah et al., arXiv:2002.02973.
"""

# Shapes: B configurations, T positions from the first one, D width.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """
    Attributes:
        grid: two-dimensional; sites must be in the order row by row.

    Raises:
        ValueError: when it is built on a grid with patches.
    """

    grid: bool = False

    def build(self, sizes: Sizes) -> nn.Module:
        if self.grid and sizes.patch > 1:
            raise ValueError(f"patch={sizes.patch}: a two-dimensional recurrence goes site by site; choose patch=1.")
        return RecurrentMixer(sizes.width, sizes.shape[1] if self.grid else None)


class RecurrentMixer(nn.Module):
    """
    Args:
        columns: of the lattice; None in one dimension.
    """

    def __init__(self, width: int, columns: int | None) -> None:
        super().__init__()
        self.inwards = nn.Linear(width, 3 * width)
        self.memory = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.columns = columns

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        inputs = self.inwards(x).unbind(1)
        memories = [torch.zeros_like(x[:, 0])]  # before the first position
        for position, given in enumerate(inputs):
            h = memories[-1]
            # Position s has seen the site s - 1: that of the site above is s - columns + 1.
            if self.columns is not None and self.columns > 1 and position >= self.columns:
                h = (h + memories[position - self.columns + 2]) / 2
            r, z, c = given.chunk(3, dim=-1)
            from_r, from_z, from_c = self.memory(h).chunk(3, dim=-1)
            z = (z + from_z).sigmoid()
            c = torch.tanh(c + (r + from_r).sigmoid() * from_c)
            memories.append(h + z * (c - h))
        return self.out(torch.stack(memories[1:], dim=1))
