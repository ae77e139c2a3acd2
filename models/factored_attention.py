"""Factored attention: weights that depend on the positions of the two sites alone, without queries and keys.

    y_i = sum_{j <= i} A_{h, class(i, j)} v_j

with weights A for each head h and values v. Pairs of sites of one class share their weights: on a lattice pairs with
the same displacement, so that correlations with neighbours are learned once for all sites.

Rende and Viteritti, Mach. Learn.: Sci. Technol. 6, 010501 (2025), arXiv:2405.18874, as accurate as
queries and keys on the J1-J2 model; there without the causal order j <= i, which normalises autoregressive states.
"""

# Shapes: U and B configurations, T tokens (sites, times images of a symmetry), L sites, D width, H heads, E = D / H,
# K classes.
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

MATRIX_CLASSES = 4  # classes of pairs per site, at most, for which a matrix product adds up the pairs


class Mixing(nn.Module):
    """y_i = sum_{j <= i} A_{h, class(i, j)} x_j, for whole configurations; linear in the weights, too.

    Args:
        classes: class of every pair of sites, L x L; None: every pair is a class of its own.
        causal: the sum is over j <= i; False: over all sites.
    """

    classes: Tensor  # (L, L), K for later sites

    def __init__(
        self, heads: int, n_sites: int, classes: Sequence[Sequence[int]] | None, *, causal: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        if classes is not None and (len(classes) != n_sites or {len(row) for row in classes} != {n_sites}):
            raise ValueError(
                f"displacements are classes of {len(classes)} x {len(classes[0]) if classes else 0} pairs, but the "
                f"sector has {n_sites} sites: take lattice.displacements() of the same lattice."
            )
        # On the CPU whatever the default device: the number of classes is needed also where parameters are on "meta".
        each = torch.arange(n_sites**2, device="cpu").view(n_sites, n_sites)
        pairs = each if classes is None else torch.tensor(classes, device="cpu")
        everywhere = torch.ones((n_sites, n_sites), dtype=torch.bool, device="cpu")
        earlier = everywhere.tril() if causal else everywhere
        present, number = pairs[earlier].unique(return_inverse=True)
        self.weight = nn.Parameter(torch.empty(heads, len(present)))
        by_pair = torch.full_like(pairs, len(present)).masked_scatter_(earlier, number)
        self.register_buffer("classes", by_pair, persistent=False)

    def matrices(self, begin: int = 0, end: int | None = None) -> Float[Tensor, "H T S"]:
        """A between the T sites from `begin` and the S sites before `end` (None: all), 0 for later sites."""
        return nn.functional.pad(self.weight, (0, 1))[:, self.classes[begin:end, :end]]

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Rows are sites in order, one configuration after the other."""
        H, L = self.heads, len(self.classes)
        by_head = x.reshape(-1, L, H, x.shape[-1] // H).permute(2, 0, 3, 1)  # (H, B, E, L)
        mixed = torch.bmm(by_head.reshape(H, -1, L), self.matrices().mT)
        return mixed.view(by_head.shape).permute(1, 3, 0, 2).reshape(x.shape)

    def gradients(self, x: Float[Tensor, "U T D"], g: Float[Tensor, "U T D"]) -> Float[Tensor, "U H K"]:
        """Gradients of the weights per configuration: sums of g_i x_j over the pairs of a class and all images."""
        U, D, (H, K) = len(x), x.shape[2], self.weight.shape
        L = len(self.classes)
        by_head = [t.view(U, -1, L, H, D // H).permute(0, 3, 2, 1, 4).reshape(U * H, L, -1) for t in (g, x)]
        of_pairs = (by_head[0] @ by_head[1].mT).view(U, H, L * L)
        return sums_by_class(of_pairs, self.classes.flatten(), K)

    parameter_gradients: ClassVar = {"weight": gradients}


def sums_by_class(x: Float[Tensor, "U H pairs"], classes: Int64[Tensor, " pairs"], K: int) -> Float[Tensor, "U H K"]:
    """Sums over the pairs of each class; those of class K are left out.

    On a GPU by a matrix product where classes are few: many atomic additions to the same number take turns.
    """
    per_site = K / math.isqrt(len(classes))
    if x.is_cuda and per_site <= MATRIX_CLASSES:
        return x @ nn.functional.one_hot(classes, K + 1)[:, :K].to(x.dtype)
    return x.new_zeros((*x.shape[:2], K + 1)).index_add_(2, classes, x)[:, :, :K]


class FactoredAttention(nn.Module):
    """Linear values, mixed by position, and a linear output layer; arguments as of `Mixing`."""

    def __init__(
        self, width: int, heads: int, n_sites: int, classes: Sequence[Sequence[int]] | None, *, causal: bool = True
    ) -> None:
        super().__init__()
        self.values = nn.Linear(width, width)
        self.mixing = Mixing(heads, n_sites, classes, causal=causal)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.out(self.mixing(self.values(x)))
