"""Attention of a new site, or of the sites after a shared prefix, with stored keys and values of earlier sites.

Both kinds of attention have one interface: `storage` and `step` while samples grow, `nodes` and `after_prefix` for a
tree of prefixes. They return the concatenated heads, before the linear layer `out`; all without gradients.
"""

# Shapes: B configurations, T last of S sites, L all sites, N nodes of a tree of prefixes, C rows of storage, D width,
# W = 2 D, H heads, E = D / H.
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nqs.models.attention import CausalSelfAttention
from nqs.models.factored_attention import FactoredAttention
from nqs.models.inference.causal_products import causal_attention
from nqs.models.inference.prefix_tree import Branches
from nqs.models.short_rows import without_gradients


class CachedDotProduct:
    """`CausalSelfAttention` with stored keys and values."""

    def __init__(self, attention: CausalSelfAttention) -> None:
        self.attention = attention
        self.width = attention.out.in_features
        self.stored_per_site = 2 * self.width  # numbers

    def scores_per_site(self, n_sites: int) -> int:
        """Temporary numbers of `after_prefix` per evaluated site, besides the input."""
        return 2 * self.attention.heads * n_sites

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "N W"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        """For the last T of S sites, which attend to themselves and to earlier sites.

        Keys and values of earlier sites are read from the storage, those of new nodes are written to it.
        """
        B, _, D = x.shape
        qkv = self.attention.qkv(x)
        own = keys_values = qkv[..., D:]
        if part.begin:
            keys_values = storage.index_select(0, part.read.flatten()).view(B, -1, 2 * D)
            keys_values[:, part.begin :] = own
        part.keep_(storage, own.flatten(0, 1))
        return causal_attention(qkv[..., :D], keys_values, self.attention.heads)

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "2 C H L E"], site: int) -> Float[Tensor, "B D"]:
        """For a new site, which attends to itself and to earlier sites; it is written to the storage.

        Row b of x owns row b of the storage, which may have more rows.
        """
        held, (B, D) = storage[:, : len(x)], x.shape
        kernels = without_gradients(x)
        if kernels is not None and kernels.fits(site, storage.shape[-1]):
            found: Tensor = kernels.attend(self.attention.qkv(x), held, site)
            return found
        qkv = self.attention.projected(x[:, None])
        held[:, :, :, site] = qkv[1:, :, :, 0]
        keys, values = held[:, :, :, : site + 1]
        if not x.is_cuda:
            return scaled_dot_product_attention(qkv[0], keys, values).flatten(1)  # (B, H, 1, E) before
        q, keys, values = (t.flatten(0, 1) for t in (qkv[0], keys, values))  # views
        scores = torch.baddbmm(q.new_empty(()), q, keys.mT, beta=0, alpha=q.shape[-1] ** -0.5)
        return torch.bmm(scores.softmax(-1), values).view(B, D)

    def storage(self, rows: int, sites: int) -> Float[Tensor, "2 C H L E"]:
        """Storage of keys and values."""
        heads = self.attention.heads
        return self.attention.out.weight.new_empty((2, rows, heads, sites, self.width // heads))

    def nodes(self, N: int) -> Float[Tensor, "N W"]:
        """Storage for the nodes of a prefix tree."""
        return self.attention.out.weight.new_empty((N, 2 * self.width))


class CachedFactored:
    """`FactoredAttention` with stored values."""

    def __init__(self, attention: FactoredAttention) -> None:
        self.attention = attention
        self.width = self.stored_per_site = attention.out.in_features

    def scores_per_site(self, n_sites: int) -> int:
        return 0

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "D N"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        B, T, D = x.shape
        layer = self.attention.values
        own = values = torch.addmm(layer.bias[:, None], layer.weight, x.view(-1, D).mT)  # (D, B T)
        if part.begin:
            values = storage.index_select(1, part.read.flatten())
            values.view(D, B, -1)[:, :, part.begin :] = own.view(D, B, T)
        storage[:, part.nodes] = own.index_select(1, part.kept)
        A = self.attention.mixing.matrices(part.begin, part.begin + T)  # (H, T, S)
        mixed = torch.bmm(values.view(len(A), -1, A.shape[2]), A.mT)  # (H, E B, T)
        return mixed.view(D, B, T).permute(1, 2, 0)

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "1 C D L 1"], site: int) -> Float[Tensor, "B D"]:
        B, D = x.shape
        held = storage[0, :B, :, : site + 1, 0]  # (B, D, S)
        held[:, :, site] = self.attention.values(x)
        A = self.attention.mixing.matrices(site, site + 1)  # (H, 1, S)
        of_channels = A.repeat_interleave(D // len(A), 0).mT
        return torch.bmm(held.transpose(0, 1), of_channels)[:, :, 0].T

    def storage(self, rows: int, sites: int) -> Float[Tensor, "1 C D L 1"]:
        """Storage of values; the channels of a prefix are contiguous because a step reads them."""
        return self.attention.out.weight.new_empty((1, rows, self.width, sites, 1))

    def nodes(self, N: int) -> Float[Tensor, "D N"]:
        """Storage for the nodes of a prefix tree; channels are contiguous because each is mixed separately."""
        return self.attention.out.weight.new_empty((self.width, N))
