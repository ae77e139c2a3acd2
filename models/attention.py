"""Causal self-attention over whole configurations, one site at a time, or over what follows a shared prefix."""

# Shapes: B configurations, T last of S sites, L all sites, N nodes of a tree of prefixes, C rows of storage, D width,
# W = 2 D, H heads, E = D / H.
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nqs.models.inference.kernels import softmax_
from nqs.models.inference.prefix_tree import Branches

MAX_ROWS = 2**15  # CUDA grids have at most 2^16 - 1 blocks along the batch
CPU_SITES = 32  # evaluated at once on a CPU
JOINT_WIDTH, JOINT_SITES = 64, 4  # on a GPU all heads at once, for networks as narrow as that or so few sites


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
        return self.out(_fused(q, k, v).transpose(1, 2).flatten(2))

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "N W"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        """What heads find for the last T of S sites, which see themselves and what is before them; without gradients.

        Keys and values of those before are read from the storage, and those of new nodes are written to it.
        """
        B, _, D = x.shape
        qkv = self.qkv(x)
        own = keys_values = qkv[..., D:]
        if part.begin:
            keys_values = storage.index_select(0, part.read.flatten()).view(B, -1, 2 * D)
            keys_values[:, part.begin :] = own
        part.keep_(storage, own.flatten(0, 1))
        return causal_attention(qkv[..., :D], keys_values, self.heads)

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "2 C H L E"], site: int) -> Float[Tensor, "B D"]:
        """The same for a new site, which sees itself and those before it; it is written to the storage.

        Row b of x owns row b of the storage, which may have more rows.
        """
        qkv = self._project(x[:, None])
        storage[:, : len(x), :, site] = qkv[1:, :, :, 0]
        keys, values = storage[:, : len(x), :, : site + 1]
        if not x.is_cuda:
            return scaled_dot_product_attention(qkv[0], keys, values).flatten(1)  # (B, H, 1, E) before
        scores = qkv[0] * keys.shape[-1] ** -0.5 @ keys.mT
        return (scores.softmax(-1) @ values).flatten(1)

    def storage(self, rows: int, sites: int) -> Float[Tensor, "2 C H L E"]:
        """Room for keys and values."""
        D = self.out.in_features
        return self.out.weight.new_empty((2, rows, self.heads, sites, D // self.heads))

    def nodes(self, N: int) -> Float[Tensor, "N W"]:
        """Room for those of the nodes of a tree of prefixes."""
        return self.out.weight.new_empty((N, 2 * self.out.in_features))


def causal_bias(T: int, S: int, like: Tensor) -> Float[Tensor, "T S"]:
    """0 where the last T of S sites may look, -inf for sites after them."""
    return like.new_full((T, S), -torch.inf).triu_(S - T + 1)


def causal_attention(
    q: Float[Tensor, "B T D"], keys_values: Float[Tensor, "B S W"], heads: int
) -> Float[Tensor, "B T D"]:
    """softmax(q k^T / sqrt(E)) v of the last T of S sites in every head; without gradients.

    Batched products, which are several times faster than torch's fused kernels on heads as narrow as these. All heads
    of a configuration at once, with queries that are zero in the others, are faster than head by head where that leaves
    the products small. On a CPU many sites are halved, because the first half has no use for the keys of the second.
    """
    if q.is_cuda and q.shape[2] > JOINT_WIDTH and q.shape[1] > JOINT_SITES:
        return head_by_head(q, keys_values, heads)
    B, T, D = q.shape
    S, E = keys_values.shape[1], D // heads
    if T > CPU_SITES and not q.is_cuda:
        halves = (slice(0, T // 2), S - T + T // 2), (slice(T // 2, T), S)
        return torch.cat([causal_attention(q[:, part], keys_values[:, :end], heads) for part, end in halves], 1)
    own_head = torch.eye(heads, dtype=q.dtype, device=q.device).mul_(E**-0.5)[:, :, None]
    queries = (q.view(B, T, 1, heads, E) * own_head).view(B, T * heads, D)
    scores = torch.bmm(queries, keys_values[..., :D].mT)
    if T > 1:
        scores.view(B, T, heads, S)[..., S - T + 1 :] += causal_bias(T, S, q)[:, None, S - T + 1 :]
    y = torch.bmm(softmax_(scores), keys_values[..., D:]).view(B, T, heads, heads, E)
    return y.diagonal(dim1=2, dim2=3).transpose(2, 3).reshape(B, T, D)


def head_by_head(q: Float[Tensor, "B T D"], keys_values: Float[Tensor, "B S W"], heads: int) -> Float[Tensor, "B T D"]:
    B, T, D = q.shape
    S, E = keys_values.shape[1], D // heads
    queries, k, v = (t.view(B, -1, heads, E).transpose(1, 2) for t in (q * E**-0.5, *keys_values.chunk(2, dim=2)))
    scores = queries @ k.mT  # (B, H, T, S)
    scores[..., S - T + 1 :] += causal_bias(T, S, q)[:, S - T + 1 :]
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T E"]:
    """torch's attention kernels, which take a limited number of rows on a GPU."""
    if not q.is_cuda or len(q) <= MAX_ROWS:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    pieces = zip(q.split(MAX_ROWS), k.split(MAX_ROWS), v.split(MAX_ROWS), strict=True)
    return torch.cat([scaled_dot_product_attention(*piece, is_causal=True) for piece in pieces])
