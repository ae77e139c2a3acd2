"""Attention of the first block from lookup tables.

The first block reads embeddings, of a site and of the local state before it. Its queries, keys and values are
therefore rows of a table of L d rows: they are looked up, not recomputed for every configuration, and during sampling
only the row indices of a prefix are stored.
"""

# Shapes: B configurations, S sites so far, T last of them, L all sites, d local states, D width, H heads, E = D / H.
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nqs.models.attention import CausalSelfAttention
from nqs.models.inference.causal_products import causal_attention
from nqs.models.inference.kernels import softmax_
from nqs.models.normalisation import LayerNorm


def rows_of_tables(previous: Int64[Tensor, "B S"], local_dim: int) -> Int64[Tensor, "B S"]:
    """Table rows of sites and the local states before them; row 0 at the first site."""
    rows = previous + local_dim * torch.arange(previous.shape[1], device=previous.device)
    rows[:, 0] = 0
    return rows


class FirstAttention(NamedTuple):
    """Tables by site and local state before it; at the first site the rows of all local states are equal."""

    stream: Float[Tensor, "L d D"]  # embeddings, and the bias of the output
    queries: Float[Tensor, "L*d D"]
    keys_values: Float[Tensor, "L*d 2*D"]
    projected: Float[Tensor, "3 H L d E"]  # queries, keys, values once more, by head
    weight: Float[Tensor, "H E D"]  # of the output
    outputs: Float[Tensor, "H L d D"]  # of each value alone
    absent: Float[Tensor, "d d"]  # 0 where two local states agree, -inf where they differ

    @classmethod
    def of(cls, embedded: Float[Tensor, "L d D"], norm: LayerNorm, attention: CausalSelfAttention) -> "FirstAttention":
        L, d, D = embedded.shape
        H, E = attention.heads, D // attention.heads
        qkv = attention.qkv(norm(embedded)).flatten(0, 1)  # (L d, 3 D)
        projected = qkv.view(L, d, 3, H, E).permute(2, 3, 0, 1, 4).contiguous()
        weight = attention.out.weight.mT.contiguous().view(H, E, D)
        return cls(
            stream=embedded + attention.out.bias,
            queries=qkv[:, :D].contiguous(),
            keys_values=qkv[:, D:].contiguous(),
            projected=projected,
            weight=weight,
            outputs=(projected[2].flatten(1, 2) @ weight).view(H, L, d, D),
            absent=embedded.new_full((d, d), -torch.inf).fill_diagonal_(0),
        )

    def after_prefix(self, rows: Int64[Tensor, "B S"], T: int) -> Float[Tensor, "B T D"]:
        """Residual stream plus attention for the last T of S sites."""
        B, S = rows.shape
        D = self.stream.shape[2]
        last = rows[:, S - T :].flatten()
        q = self.queries.index_select(0, last).view(B, T, D)
        keys_values = self.keys_values.index_select(0, rows.flatten()).view(B, S, 2 * D)
        y = causal_attention(q, keys_values, len(self.weight)).view(B * T, D)
        return self.stream.flatten(0, 1).index_select(0, last).addmm_(y, self.weight.flatten(0, 1)).view(B, T, D)

    def at(self, site: int) -> "FirstAttentionAt":
        """Tables for a step at a site."""
        queries, keys = self.projected[0, :, site], self.projected[1, :, : site + 1]  # (H, d, E), (H, S, d, E)
        scores = (queries * queries.shape[2] ** -0.5) @ keys.flatten(1, 2).mT  # (H, d, S d)
        return FirstAttentionAt(
            stream=self.stream[site],
            scores=scores.transpose(0, 1).contiguous(),
            outputs=self.outputs[:, : site + 1].flatten(0, 2),
            absent=self.absent,
        )


class FirstAttentionAt(NamedTuple):
    """Tables of one site and the S - 1 sites before it."""

    stream: Float[Tensor, "d D"]
    scores: Float[Tensor, "d H S*d"]
    outputs: Float[Tensor, "H*S*d D"]
    absent: Float[Tensor, "d d"]

    def step(self, previous: Int64[Tensor, " B"], storage: Float[Tensor, "1 B 1 L d"]) -> Float[Tensor, "B D"]:
        """Residual stream plus attention of the new site.

        Args:
            previous: local state before the site, 0 at the first one. It is written to the storage, which holds 0 for
                the local state before a site and -inf for the others.
        """
        d, _, columns = self.scores.shape
        held = storage[0].flatten(2)[:, :, :columns]  # (B, 1, S d)
        held[:, 0, columns - d :] = self.absent.index_select(0, previous)
        scores = self.scores.index_select(0, previous)  # (B, H, S d)
        scores += held
        return self.stream.index_select(0, previous).addmm_(softmax_(scores).flatten(1), self.outputs)
