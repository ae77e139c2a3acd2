"""The block of all transformers here."""

# Shapes: B configurations, T tokens (sites, or patches of sites), D width.
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.normalisation import LayerNorm

Attention = TypeVar("Attention", bound=nn.Module)


class Block(nn.Module, Generic[Attention]):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm form as in GPT-2 (Radford et al. 2019)."""

    def __init__(self, width: int, hidden: int, attention: Attention) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attention = attention
        self.norm2 = LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
