"""Causal self-attention over whole configurations."""

# Shapes: B configurations, L sites, D width, H heads, E = D / H.
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

MAX_ROWS = 2**15  # CUDA grids have at most 2^16 - 1 blocks along the batch


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a site attends to itself and to earlier sites. Vaswani et al., arXiv:1706.03762."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def projected(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "3 B H L E"]:
        """Queries, keys and values."""
        B, L, D = x.shape
        return self.qkv(x).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        q, k, v = self.projected(x)
        return self.out(_fused(q, k, v).transpose(1, 2).flatten(2))


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H L E"]:
    """torch's fused kernels, in chunks: on a GPU their batch is limited."""
    if not q.is_cuda or len(q) <= MAX_ROWS:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    chunks = zip(q.split(MAX_ROWS), k.split(MAX_ROWS), v.split(MAX_ROWS), strict=True)
    return torch.cat([scaled_dot_product_attention(*chunk, is_causal=True) for chunk in chunks])
