"""Causal self-attention over whole configurations or one site at a time with cached keys and values."""

# Shapes: B configurations, T sites seen so far, D width, H heads, E = D / H.
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class KeyValueCache(NamedTuple):
    """Keys and values of the sites that one attention layer has seen."""

    keys: Float[Tensor, "B H T E"]
    values: Float[Tensor, "B H T E"]

    def select(self, indices: Int64[Tensor, " B2"]) -> "KeyValueCache":
        return KeyValueCache(self.keys[indices], self.values[indices])


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a site sees itself and the sites before it. Vaswani et al., arXiv:1706.03762."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _project(self, x: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, T, E) each."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self._project(x)
        return self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    def step(self, x: Float[Tensor, "B D"], cache: KeyValueCache) -> tuple[Float[Tensor, "B D"], KeyValueCache]:
        """Attention of one new site to itself and to the cached ones."""
        q, k, v = self._project(x[:, None])
        keys, values = torch.cat([cache.keys, k], dim=2), torch.cat([cache.values, v], dim=2)
        y = scaled_dot_product_attention(q, keys, values)  # (B, H, 1, E)
        return self.out(y.flatten(1)), KeyValueCache(keys, values)

    def empty_cache(self, batch: int) -> KeyValueCache:
        D = self.out.in_features
        empty = self.out.weight.new_empty((batch, self.heads, 0, D // self.heads))
        return KeyValueCache(empty, empty)
