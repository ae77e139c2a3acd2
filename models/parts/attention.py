"""Mixers with attention: queries and keys, rotary positions, weights by position."""

# Shapes: B configurations, T positions from the first one, D width, H heads, E = D / H.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from nqs.models.attention import MAX_ROWS, CausalSelfAttention
from nqs.models.factored_attention import FactoredAttention
from nqs.models.parts.sizes import Sizes

ROTARY_BASE = 100.0  # longest wavelength of rotary positions, in units of 2 pi sites: lattices are short


def checked_heads(heads: int, width: int) -> int:
    if heads < 1 or width % heads:
        raise ValueError(f"width={width} is not divisible by heads={heads}; choose a multiple.")
    return heads


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Causal self-attention with queries and keys, as in the default transformer."""

    heads: int = 4

    def build(self, sizes: Sizes) -> nn.Module:
        return CausalSelfAttention(sizes.width, checked_heads(self.heads, sizes.width))


@dataclass(frozen=True, kw_only=True)
class RotaryAttention:
    """Queries and keys are turned by angles proportional to the position. Su et al., arXiv:2104.09864."""

    heads: int = 4

    def build(self, sizes: Sizes) -> nn.Module:
        """
        Raises:
            ValueError: the width of a head is odd.
        """
        each = sizes.width // checked_heads(self.heads, sizes.width)
        if each % 2:
            raise ValueError(
                f"heads of width {each} = {sizes.width} / {self.heads} cannot turn: choose an even number."
            )
        return Rotary(sizes.width, self.heads, sizes.n_positions)


class Rotary(CausalSelfAttention):
    angles: Tensor  # (P, E / 2)

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__(width, heads)
        pairs = width // heads // 2
        rates = ROTARY_BASE ** (-torch.arange(pairs) / pairs)
        self.register_buffer("angles", torch.arange(length)[:, None] * rates, persistent=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.projected(x)
        angles = self.angles[: x.shape[1]].to(x.dtype)
        cos, sin = angles.cos(), angles.sin()
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        parts = zip(q.split(MAX_ROWS), k.split(MAX_ROWS), v.split(MAX_ROWS), strict=True)
        found = [scaled_dot_product_attention(*part, is_causal=True) for part in parts]
        return self.out(torch.cat(found).transpose(1, 2).flatten(2))


def turned(
    x: Float[Tensor, "B H T E"], cos: Float[Tensor, "T half"], sin: Float[Tensor, "T half"]
) -> Float[Tensor, "B H T E"]:
    """Channel pairs (i, i + E / 2) rotated."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


@dataclass(frozen=True, kw_only=True)
class ByPosition:
    """Factored attention: weights by position alone, without queries and keys (nqs.models.factored_attention).

    Attributes:
        heads: None: one a channel.
        classes: of all pairs of positions, such as `Lattice.displacements`; None: each pair has its own weight.
    """

    heads: int | None = None
    classes: tuple[tuple[int, ...], ...] | None = None

    def build(self, sizes: Sizes) -> nn.Module:
        heads = checked_heads(self.heads or sizes.width, sizes.width)
        return Padded(FactoredAttention(sizes.width, heads, sizes.n_positions, self.classes), sizes.n_positions)


class Padded(nn.Module):
    """A causal mixer of a fixed number of positions, for the first ones."""

    def __init__(self, mixer: nn.Module, length: int) -> None:
        super().__init__()
        self.mixer, self.length = mixer, length

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        T = x.shape[1]
        if self.length == T:
            return self.mixer(x)
        return self.mixer(pad(x, (0, 0, 0, self.length - T)))[:, :T]
