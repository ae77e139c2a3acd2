"""Attention without queries and keys: how much a site takes from those before it depends on where they are alone.

    y_i = sum_{j <= i} A_{h, class(i, j)} v_j

with one set of weights A for each head h and values v. Pairs of sites of one class share their weights: on a lattice
those with the same displacement, which is what a site learns from its neighbours once and not on every site anew.

Factored attention: Rende and Viteritti, Mach. Learn.: Sci. Technol. 6, 010501 (2025), arXiv:2405.18874, who find it as
accurate as queries and keys on the J1-J2 model; there without the causal order, which is what normalises states here.
"""

# Shapes: B configurations, T last of S sites, L all sites, N nodes of a tree of prefixes, C rows of storage, D width,
# H heads, E = D / H, K classes.
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.inference.prefix_tree import Branches


class Mixing(nn.Module):
    """y_i = sum_{j <= i} A_{h, class(i, j)} x_j, for whole configurations; linear in the weights, too.

    Args:
        classes: of the pairs of sites, L x L; None: every pair is a class of its own.
    """

    classes: Tensor  # (L, L), K for sites that come later

    def __init__(self, heads: int, n_sites: int, classes: Sequence[Sequence[int]] | None) -> None:
        super().__init__()
        self.heads = heads
        pairs = torch.arange(n_sites**2).view(n_sites, n_sites) if classes is None else torch.tensor(classes)
        earlier = torch.ones((n_sites, n_sites), dtype=torch.bool).tril()
        present, number = pairs[earlier].unique(return_inverse=True)
        self.weight = nn.Parameter(torch.empty(heads, len(present)))
        by_pair = torch.full_like(pairs, len(present)).masked_scatter_(earlier, number)
        self.register_buffer("classes", by_pair, persistent=False)

    def matrices(self, begin: int = 0, end: int | None = None) -> Float[Tensor, "H T S"]:
        """A of the T sites from `begin` and the S before `end` (None: all), 0 for sites that come later."""
        return nn.functional.pad(self.weight, (0, 1))[:, self.classes[begin:end, :end]]

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Of sites in their order, those of a configuration after those of the one before."""
        H, L = self.heads, len(self.classes)
        by_head = x.reshape(-1, L, H, x.shape[-1] // H).permute(2, 0, 3, 1)  # (H, B, E, L)
        mixed = torch.bmm(by_head.reshape(H, -1, L), self.matrices().mT)
        return mixed.view(by_head.shape).permute(1, 3, 0, 2).reshape(x.shape)


def gradients_of_mixing(
    layer: nn.Module, x: Float[Tensor, "U T D"], g: Float[Tensor, "U T D"]
) -> Float[Tensor, "U H K"]:
    """Of the weights, for each of U configurations: sums of g_i x_j over the pairs of a class, in all images."""
    assert isinstance(layer, Mixing)
    U, D, (H, K) = len(x), x.shape[2], layer.weight.shape
    L = len(layer.classes)
    by_head = [t.view(U, -1, L, H, D // H).permute(0, 3, 2, 1, 4).reshape(U * H, L, -1) for t in (g, x)]
    of_pairs = (by_head[0] @ by_head[1].mT).view(U, H, L * L)
    return g.new_zeros((U, H, K + 1)).index_add_(2, layer.classes.flatten(), of_pairs)[:, :, :K]


class FactoredAttention(nn.Module):
    """Values, mixed by position, and a linear layer on what heads found; the interface of `CausalSelfAttention`."""

    def __init__(self, width: int, heads: int, n_sites: int, classes: Sequence[Sequence[int]] | None) -> None:
        super().__init__()
        self.values = nn.Linear(width, width)
        self.mixing = Mixing(heads, n_sites, classes)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.out(self.mixing(self.values(x)))

    def after_prefix(
        self, x: Float[Tensor, "B T D"], storage: Float[Tensor, "D N"], part: Branches
    ) -> Float[Tensor, "B T D"]:
        """What heads find for the last T of S sites; values of those before are read from the storage."""
        B, T, D = x.shape
        own = values = torch.addmm(self.values.bias[:, None], self.values.weight, x.view(-1, D).mT)  # (D, B T)
        if part.begin:
            values = storage.index_select(1, part.read.flatten())
            values.view(D, B, -1)[:, :, part.begin :] = own.view(D, B, T)
        storage[:, part.nodes] = own.index_select(1, part.kept)
        A = self.mixing.matrices(part.begin, part.begin + T)  # (H, T, S)
        found = torch.bmm(values.view(len(A), -1, A.shape[2]), A.mT)  # (H, E B, T)
        return found.view(D, B, T).permute(1, 2, 0)

    def step(self, x: Float[Tensor, "B D"], storage: Float[Tensor, "1 C D L 1"], site: int) -> Float[Tensor, "B D"]:
        """The same for a new site, which is written to the storage."""
        B, D = x.shape
        held = storage[0, :B, :, : site + 1, 0]  # (B, D, S)
        held[:, :, site] = self.values(x)
        A = self.mixing.matrices(site, site + 1)  # (H, 1, S)
        of_channels = A.repeat_interleave(D // len(A), 0).mT
        return torch.bmm(held.transpose(0, 1), of_channels)[:, :, 0].T

    def storage(self, rows: int, sites: int) -> Float[Tensor, "1 C D L 1"]:
        """Room for values; a channel of a prefix is contiguous, because that is what a step reads."""
        return self.out.weight.new_empty((1, rows, self.out.in_features, sites, 1))

    def nodes(self, N: int) -> Float[Tensor, "D N"]:
        """Room for those of the nodes of a tree of prefixes; channels are contiguous, because they are mixed apart."""
        return self.out.weight.new_empty((self.out.in_features, N))
