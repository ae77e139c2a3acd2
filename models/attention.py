"""Causal self-attention over whole configurations, one site at a time, or over what follows a shared prefix."""

# Shapes: B configurations, T sites, S sites of a shared prefix, C rows of storage, D width, H heads, E = D / H.
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class KeysValues(NamedTuple):
    """Keys and values of one attention layer, by configuration and site."""

    keys: Float[Tensor, "B H T E"]
    values: Float[Tensor, "B H T E"]

    def select(self, rows: Int64[Tensor, " B2"]) -> "KeysValues":
        """A copy of some rows."""
        return KeysValues(self.keys[rows], self.values[rows])

    def grown(self, rows: int) -> "KeysValues":
        """The same contents at the front of a storage of at least so many rows, at least twice the present one."""
        bigger = (max(rows, 2 * len(self.keys)), *self.keys.shape[1:])
        keys, values = self.keys.new_empty(bigger), self.values.new_empty(bigger)
        keys[: len(self.keys)], values[: len(self.keys)] = self.keys, self.values
        return KeysValues(keys, values)

    def copy_rows(self, source: Int64[Tensor, " M"], target: Int64[Tensor, " M"], sites: int) -> None:
        """In place, the first `sites` sites; no row is source and target."""
        for storage in self:
            storage[target, :, :sites] = storage[source, :, :sites]


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
        return self.with_keys_values(x)[0]

    def with_keys_values(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], KeysValues]:
        """The output, and what later sites need of these."""
        q, k, v = self._project(x)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2)), KeysValues(k, v)

    def after_prefix(
        self, x: Float[Tensor, "B T D"], prefix: KeysValues, rows: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        """Attention of T sites to the S of a prefix and, causally, to themselves; `rows` says which prefix is whose."""
        q, k, v = self._project(x)
        T, S = x.shape[1], prefix.keys.shape[2]
        both = torch.cat([prefix.keys[rows], k], dim=2), torch.cat([prefix.values[rows], v], dim=2)
        visible = torch.ones((T, S + T), dtype=torch.bool, device=x.device).tril(S)
        y = scaled_dot_product_attention(q, *both, attn_mask=visible)
        return self.out(y.transpose(1, 2).flatten(2))

    def step(self, x: Float[Tensor, "B D"], storage: KeysValues, site: int) -> Float[Tensor, "B D"]:
        """Attention of a new site to itself and to those before it; its keys and values are written to the storage.

        Row b of x owns row b of the storage, which may have more rows.
        """
        q, k, v = self._project(x[:, None])
        keys, values = (part[: len(x), :, : site + 1] for part in storage)
        keys[:, :, site], values[:, :, site] = k[:, :, 0], v[:, :, 0]
        y = scaled_dot_product_attention(q, keys, values)  # (B, H, 1, E)
        return self.out(y.flatten(1))

    def storage(self, rows: int, sites: int) -> KeysValues:
        """Room for keys and values."""
        D = self.out.in_features
        shape = (rows, self.heads, sites, D // self.heads)
        return KeysValues(self.out.weight.new_empty(shape), self.out.weight.new_empty(shape))
