"""Linear layers that are equivariant under a group: from sites to group elements, and between group elements.

Features x_g of a configuration n become those of h n by x_g(h n) = x_{g h}(n).
"""

# Shapes: B and U configurations, L sites, d local states, J local features of all sites, G group elements, D width,
# T elements of an abelian subgroup, P and Q cosets of it, K pairs of conjugate characters.
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nqs.models.abelian import characters, largest_abelian_subgroup, real_transform
from nqs.runtime.memory import max_chunk_rows
from nqs.symmetry.group import Symmetry

# Features x_{k g} of all pairs whose products with gradients are formed at once: a cache of a CPU, memory of a GPU.
CPU_BYTES, GPU_BYTES = 2**22, 2**31


class Lift(nn.Module):
    """x_g = sum_j w_j sigma_j(g n) + b, from the local features sigma of n, the same ones in each of G rows.

    Args:
        permutations, maps: of the group elements, as in `Symmetry`; with two local states sigma is odd under their
            exchange, one number a site, else d numbers.
        width: D.
        bias: with b.
    """

    index: Tensor  # (G, J), feature that j of n is in g n
    moved: Tensor  # (G, J), the inverse
    sign: Tensor  # (G, 1)

    def __init__(self, permutations: np.ndarray, maps: np.ndarray, width: int, *, bias: bool) -> None:
        super().__init__()
        G, d = maps.shape
        if d == 2:
            moved, sign = permutations, 1.0 - 2.0 * maps[:, :1]
        else:
            before = np.argsort(maps, axis=1)  # (g n)_s = q where n on site perm_g[s] is before_g[q]
            moved = (permutations[:, :, None] * d + before[:, None]).reshape(G, -1)
            sign = np.ones((G, 1))
        self.register_buffer("moved", torch.from_numpy(moved), persistent=False)
        self.register_buffer("index", torch.from_numpy(np.argsort(moved, axis=1)), persistent=False)
        self.register_buffer("sign", torch.from_numpy(sign), persistent=False)
        self.weight = nn.Parameter(torch.empty(width, moved.shape[1]))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x: Float[Tensor, "B G J"]) -> Float[Tensor, "B G D"]:
        matrix = self.weight[:, self.index] * self.sign.to(self.weight.dtype)  # (D, G, J)
        D, G, J = matrix.shape
        y = (x[:, 0] @ matrix.transpose(0, 1).reshape(G * D, J).mT).view(-1, G, D)
        return y if self.bias is None else y + self.bias

    def weight_gradients(self, x: Float[Tensor, "U G J"], g: Float[Tensor, "U G D"]) -> Float[Tensor, "U D J"]:
        return g.mT @ (x[:, 0, self.moved] * self.sign.to(x.dtype))

    def bias_gradients(self, x: Float[Tensor, "U G J"], g: Float[Tensor, "U G D"]) -> Float[Tensor, "U D"]:
        return g.sum(1)

    parameter_gradients: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "weight": weight_gradients,
        "bias": bias_gradients,
    }


class GroupConvolution(nn.Module):
    """y_g = sum_k W_k x_{k g} + b, for group elements in the order of `in_cosets`.

    With g = p t, and t of an abelian subgroup, y_{p t} = sum_{q u} W_{q u p^-1} x_{q u t}: in the Fourier space of the
    subgroup these are products of matrices between cosets. On a square of 6 x 6 sites (288 elements, width 6) 15 to 20
    us a configuration on one core, where one matrix of all pairs takes 54 us.

    Args:
        width: D.
        products: index of the element g h, (G, G).
        n_abelian: T.
    """

    table: Tensor  # (G G,), index of k g: of all k for the first g, then of the next one
    kernel: Tensor  # (Q, T, P), index of q u p^-1
    transform: Tensor  # (2 K, T), cosines, then sines
    back: Tensor  # (T, 2 K)

    def __init__(self, width: int, products: np.ndarray, n_abelian: int) -> None:
        super().__init__()
        G, T = len(products), n_abelian
        P = G // T
        inverse = np.argsort(products, axis=1)[:, 0]
        kernel = products[:, inverse[:P]].reshape(T, P, P).transpose(1, 0, 2).copy()
        cosine, sine, number = real_transform(characters(products[::P, ::P] // P))
        transform = np.concatenate([cosine, sine])
        back = (transform * np.tile(number, 2)[:, None] / T).T.copy()
        self.register_buffer("table", torch.from_numpy(products.T.reshape(-1)), persistent=False)
        self.register_buffer("kernel", torch.from_numpy(kernel), persistent=False)
        self.register_buffer("transform", torch.from_numpy(transform), persistent=False)
        self.register_buffer("back", torch.from_numpy(back), persistent=False)
        self.weight = nn.Parameter(torch.empty(width, G, width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "B G D"]) -> Float[Tensor, "B G D"]:
        (P, T, _), (D, G, _), K = self.kernel.shape, self.weight.shape, len(self.transform) // 2
        # Tables are rounded with the weights, where gradients have less precision.
        transform, back = self.transform.to(x.dtype), self.back.to(x.dtype)
        by_element = x.reshape(-1, T, P * D).transpose(0, 1).reshape(T, -1)
        real, imaginary = (transform @ by_element).view(2, K, -1, P * D)
        kernel = self.weight[:, self.kernel].permute(2, 1, 4, 3, 0).reshape(T, -1)  # (T, Q D P D)
        of_cosine, of_sine = (transform @ kernel).view(2, K, P * D, P * D)
        # The kernel is transformed with the conjugate characters.
        y = torch.stack([real @ of_cosine + imaginary @ of_sine, imaginary @ of_cosine - real @ of_sine])
        y = (back @ y.view(2 * K, -1)).view(T, -1, P * D).transpose(0, 1)
        return y.reshape(-1, G, D) + self.bias

    def weight_gradients(self, x: Float[Tensor, "U G D"], g: Float[Tensor, "U G D"]) -> Float[Tensor, "U D G D"]:
        """Gradients of W_k for each of U configurations: sum_g of the products of gradients at g with x_{k g}."""
        U, G, D = x.shape
        found = x.new_empty((U, D, G * D))
        rows = max_chunk_rows(G * G * D * x.element_size(), x.device, CPU_BYTES, GPU_BYTES)
        for part, gradient, out in zip(x.split(rows), g.split(rows), found.split(rows), strict=True):
            torch.bmm(gradient.mT, part.index_select(1, self.table).view(-1, G, G * D), out=out)
        return found.view(U, D, G, D)

    def bias_gradients(self, x: Float[Tensor, "U G D"], g: Float[Tensor, "U G D"]) -> Float[Tensor, "U D"]:
        return g.sum(1)

    parameter_gradients: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "weight": weight_gradients,
        "bias": bias_gradients,
    }


def in_cosets(group: Symmetry) -> tuple[Int64[np.ndarray, " G"], int]:
    """The elements p t, of cosets p of an abelian subgroup of elements t, all p for the first t, then for the next one.

    Returns:
        Their numbers, the identity (0) first, and the order of the subgroup.
    """
    products = group.products
    unmoved = (np.array(group.permutations) == np.arange(group.n_sites)).sum(1)
    # Translations, which move all sites, first.
    abelian = largest_abelian_subgroup(products, np.argsort(unmoved, kind="stable"))
    cosets: list[np.ndarray] = []
    seen = np.zeros(group.order, dtype=bool)
    for g in range(group.order):
        if not seen[g]:
            cosets.append(products[g, abelian])
            seen[cosets[-1]] = True
    return np.array(cosets).T.reshape(-1), len(abelian)
