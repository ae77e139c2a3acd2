"""Causal self-attention over whole configurations, one site at a time, or over what follows a shared prefix."""

# Shapes: B configurations, T sites, L all sites, A anchors, C rows of storage, D width, H heads, E = D / H.
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nqs.models.inference import softmax_

MAX_ROWS = 2**15  # CUDA grids have at most 2^16 - 1 blocks along the batch
KeysValues = Float[Tensor, "2 B H T E"]  # keys, then values, by configuration, head and site


def grown(storage: Float[Tensor, "parts B heads L E"], rows: int) -> Float[Tensor, "parts C heads L E"]:
    """The same contents at the front of a storage of at least so many rows, at least twice the present one."""
    parts, C, *rest = storage.shape
    bigger = storage.new_empty((parts, max(rows, 2 * C), *rest))
    bigger[:, :C] = storage
    return bigger


def copy_rows(
    storage: Float[Tensor, "parts C heads L E"], source: Int64[Tensor, " M"], target: Int64[Tensor, " M"], sites: int
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
        q, k, v = self._project(x)
        return self.out(_fused(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    def add_output_(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """x + out(y), in place and without gradients."""
        x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), self.out.weight.mT)
        return x.add_(self.out.bias)

    def with_keys_values(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], KeysValues]:
        """What heads find before the output layer, and what later sites need of these; without gradients."""
        q, k, v = qkv = self._project(x).contiguous()
        if x.is_cuda:
            y = _fused(q, k, v, is_causal=True)
        else:
            y = causal_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(q.shape)
        return y.transpose(1, 2).flatten(2), qkv[1:]

    def after_prefix(
        self, x: Float[Tensor, "B T D"], anchors: Float[Tensor, "2 A H L E"], rows: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        """The same for the last T of L sites, which see each other and the first L - T sites of an anchor each."""
        T, L = x.shape[1], anchors.shape[3]
        qkv = self._project(x)
        keys_values = anchors.index_select(1, rows)  # whole rows, which is faster than parts of them
        keys_values[:, :, :, L - T :] = qkv[1:]
        k, v = keys_values
        if x.is_cuda:
            y = _fused(qkv[0], k, v, attn_mask=causal_bias(T, L, x))
        else:
            q = qkv[0].contiguous()
            y = causal_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(q.shape)
        return y.transpose(1, 2).flatten(2)

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "2 C H L E"], site: int) -> Float[Tensor, "B D"]:
        """The same for a new site, which sees itself and those before it; it is written to the storage.

        Row b of x owns row b of the storage, which may have more rows.
        """
        qkv = self._project(x[:, None])
        storage[:, : len(x), :, site] = qkv[1:, :, :, 0]
        keys, values = storage[:, : len(x), :, : site + 1]
        return _fused(qkv[0], keys, values).flatten(1)  # (B, H, 1, E) before

    def storage(self, rows: int, sites: int) -> Float[Tensor, "2 C H L E"]:
        """Room for keys and values."""
        D = self.out.in_features
        return self.out.weight.new_empty((2, rows, self.heads, sites, D // self.heads))


def causal_bias(T: int, L: int, like: Tensor) -> Float[Tensor, "T L"]:
    """0 where the last T of L sites may look, -inf for sites after them."""
    hidden = torch.ones((T, L), dtype=torch.bool, device=like.device).triu(L - T + 1)
    return like.new_zeros((T, L)).masked_fill_(hidden, -torch.inf)


def causal_attention(
    q: Float[Tensor, "N T E"], k: Float[Tensor, "N L E"], v: Float[Tensor, "N L E"]
) -> Float[Tensor, "N T E"]:
    """softmax(q k^T / sqrt(E)) v of the last T of L sites, which uses q up; without gradients, on a CPU.

    Batched products are several times faster than torch's fused kernel on problems this small.
    """
    T, L = q.shape[1], k.shape[1]
    scores = q.mul_(q.shape[2] ** -0.5) @ k.mT
    scores[:, :, L - T + 1 :] += causal_bias(T, L, q)[:, L - T + 1 :]
    return softmax_(scores) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Float[Tensor, "B H T E"]:
    """torch's attention kernels, which take a limited number of rows on a GPU."""
    if not q.is_cuda or len(q) <= MAX_ROWS:
        return scaled_dot_product_attention(q, k, v, **options)
    pieces = zip(q.split(MAX_ROWS), k.split(MAX_ROWS), v.split(MAX_ROWS), strict=True)
    return torch.cat([scaled_dot_product_attention(*piece, **options) for piece in pieces])
