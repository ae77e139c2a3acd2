"""Causal self-attention over whole configurations, one site at a time, or over what follows a shared prefix."""

# Shapes: B configurations, T sites, L all sites, A anchors, C rows of storage, D width, H heads, E = D / H.
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

MAX_ROWS = 2**15  # CUDA grids have at most 2^16 - 1 blocks along the batch
KeysValues = Float[Tensor, "2 B H T E"]  # keys, then values, by configuration, head and site


def grown(storage: Float[Tensor, "2 B H L E"], rows: int) -> Float[Tensor, "2 C H L E"]:
    """The same contents at the front of a storage of at least so many rows, at least twice the present one."""
    _, C, H, L, E = storage.shape
    bigger = storage.new_empty((2, max(rows, 2 * C), H, L, E))
    bigger[:, :C] = storage
    return bigger


def copy_rows(
    storage: Float[Tensor, "2 C H L E"], source: Int64[Tensor, " M"], target: Int64[Tensor, " M"], sites: int
) -> None:
    """In place, the first `sites` sites; no row is source and target."""
    storage[:, target, :, :sites] = storage[:, source, :, :sites]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a site sees itself and the sites before it. Vaswani et al., arXiv:1706.03762."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _project(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "3 B H T E"]:
        """Queries, keys and values."""
        B, T, D = x.shape
        return self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.with_keys_values(x)[0]

    def with_keys_values(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], KeysValues]:
        """The output, and what later sites need of these."""
        qkv = self._project(x)
        q, k, v = qkv
        y = _fused(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2)), qkv[1:]

    def after_prefix(
        self, x: Float[Tensor, "B T D"], anchors: Float[Tensor, "2 A H L E"], rows: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        """Attention of the last T of L sites, causally to themselves and to the first L - T sites of an anchor each."""
        T, L = x.shape[1], anchors.shape[3]
        qkv = self._project(x)
        keys_values = anchors.index_select(1, rows)  # whole rows, which is faster than parts of them
        keys_values[:, :, :, L - T :] = qkv[1:]
        hidden = torch.ones((T, L), dtype=torch.bool, device=x.device).triu(L - T + 1)
        bias = x.new_zeros((T, L)).masked_fill_(hidden, -torch.inf)
        y = _attention(qkv[0], keys_values[0], keys_values[1], bias)
        return self.out(y.transpose(1, 2).flatten(2))

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "2 C H L E"], site: int) -> Float[Tensor, "B D"]:
        """Attention of a new site to itself and to those before it; its keys and values are written to the storage.

        Row b of x owns row b of the storage, which may have more rows.
        """
        qkv = self._project(x[:, None])
        storage[:, : len(x), :, site] = qkv[1:, :, :, 0]
        keys, values = storage[:, : len(x), :, : site + 1]
        y = _fused(qkv[0], keys, values)  # (B, H, 1, E)
        return self.out(y.flatten(1))

    def storage(self, rows: int, sites: int) -> Float[Tensor, "2 C H L E"]:
        """Room for keys and values."""
        D = self.out.in_features
        return self.out.weight.new_empty((2, rows, self.heads, sites, D // self.heads))


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Float[Tensor, "T L"]) -> Float[Tensor, "B H T E"]:
    """softmax(q k^T / sqrt(E) + bias) v."""
    if q.is_cuda:
        return _fused(q, k, v, attn_mask=bias)
    # Batched products are up to 1.8 times faster than the fused CPU kernel on problems this small (float32).
    B, H, T, E = q.shape
    scores = torch.baddbmm(bias.expand(B * H, *bias.shape), q.reshape(B * H, T, E), k.flatten(0, 1).mT, alpha=E**-0.5)
    return (scores.softmax(-1) @ v.flatten(0, 1)).view(B, H, T, E)


def _fused(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Float[Tensor, "B H T E"]:
    """torch's attention kernels, which take a limited number of rows on a GPU."""
    if not q.is_cuda or len(q) <= MAX_ROWS:
        return scaled_dot_product_attention(q, k, v, **options)
    pieces = zip(q.split(MAX_ROWS), k.split(MAX_ROWS), v.split(MAX_ROWS), strict=True)
    return torch.cat([scaled_dot_product_attention(*piece, **options) for piece in pieces])
