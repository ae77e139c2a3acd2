"""Masked multilayer perceptron over the positions: two triangular maps with a nonlinearity between them.

Germain et al., arXiv:1502.03509 (masks), Tolstikhin et al., arXiv:2105.01601 (mixing of positions, channel by channel).
"""

# Shapes: B configurations, T positions, D width, H heads.
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.factored_attention import Mixing
from nqs.models.parts.attention import Padded, checked_heads
from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class MaskedMLP:
    """
    Attributes:
        heads: groups of channels that share a map.
    """

    heads: int = 4

    def build(self, sizes: Sizes) -> nn.Module:
        heads = checked_heads(self.heads, sizes.width)
        return Padded(MaskedMixer(sizes.width, heads, sizes.n_positions), sizes.n_positions)


class MaskedMixer(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.inwards, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.first, self.second = Mixing(heads, length, None), Mixing(heads, length, None)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.out(self.second(nn.functional.gelu(self.first(self.inwards(x)))))
