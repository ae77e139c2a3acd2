"""Token embeddings: what the network sees of the sites before.

Every module maps the local states of the token before each position, (B, T, patch) with d before the first one, to
vectors (B, T, D).
"""

# Shapes: B configurations, T positions, D width, d local states, F features of a site, S species.
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nqs.models.parts.sizes import Sizes

MAX_TOKENS = 2**12  # rows of an embedding table


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A learned vector for each local state, or for each combination of local states of a patch."""

    def build(self, sizes: Sizes) -> nn.Module:
        """
        Raises:
            ValueError: too many combinations for a table.
        """
        return CategoricalTokens(sizes)


class CategoricalTokens(nn.Module):
    weights: Tensor  # (patch,)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        d, self.combinations = sizes.local_dim, sizes.local_dim**sizes.patch
        if self.combinations > MAX_TOKENS:
            raise ValueError(
                f"a patch of {sizes.patch} sites with {d} local states has {self.combinations:,} values: at most "
                f"{MAX_TOKENS:,} have a table; choose smaller patches, a cutoff, or OneHot()."
            )
        self.local_dim = d
        self.table = nn.Embedding(self.combinations + 1, sizes.width)
        self.register_buffer("weights", d ** torch.arange(sizes.patch), persistent=False)

    def forward(self, before: Int64[Tensor, "B T p"]) -> Float[Tensor, "B T D"]:
        index = (before * self.weights).sum(-1)
        return self.table(torch.where(before[..., 0] == self.local_dim, self.combinations, index))


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """A linear map of the one-hot local states of all sites of a token."""

    def build(self, sizes: Sizes) -> nn.Module:
        return LinearTokens(torch.eye(sizes.local_dim + 1), sizes)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Several one-hot groups a site, one for the occupation by each species: occupation and spin apart."""

    def build(self, sizes: Sizes) -> nn.Module:
        return LinearTokens(by_species(sizes), sizes)


def by_species(sizes: Sizes) -> Float[Tensor, "d1 F"]:
    """One-hot occupation by each species of every local state, and a mark before the first site.

    Raises:
        ValueError: sites differ, or the species are not known.
    """
    hilbert = sizes.hilbert
    if not hilbert.species or hilbert.sites_differ:
        raise ValueError(f"Groups() needs species, the same on every site, but the space is {hilbert}: use OneHot().")
    groups = []
    for species in hilbert.species:
        values = species.twice_sz if species.kind == "spin" else species.occupation
        numbers = torch.from_numpy(hilbert.table(values if values is not None else species.occupation)[0].copy())
        groups.append(nn.functional.one_hot(numbers.unique(return_inverse=True)[1]).float())
    features = torch.cat([*groups, torch.zeros(hilbert.local_dim, 1)], dim=1)
    first = nn.functional.one_hot(torch.tensor([features.shape[1] - 1]), features.shape[1]).float()
    return torch.cat([features, first])


@dataclass(frozen=True, kw_only=True)
class Ordinal:
    """The index of a local state read as a number: an occupation number, or S^z of a spin.

    Attributes:
        features: 1: the number itself, in units of the largest one; more: as many Gaussians of it, evenly spaced, each
            as wide as their distance. Their number does not grow with the cutoff.

    Raises:
        ValueError: fewer than one feature.
    """

    features: int = 8

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features={self.features}: give at least 1.")

    def build(self, sizes: Sizes) -> nn.Module:
        n = torch.arange(sizes.local_dim) / max(1, sizes.local_dim - 1)  # 0 .. 1
        if self.features == 1:
            smooth = n[:, None]
        else:
            centres = torch.linspace(0, 1, self.features)
            smooth = (-0.5 * ((n[:, None] - centres) * (self.features - 1)).square()).exp()
        table = torch.zeros(sizes.local_dim + 1, self.features + 1)
        table[:-1, :-1], table[-1, -1] = smooth, 1.0
        return LinearTokens(table, sizes)


class LinearTokens(nn.Module):
    """A linear map of fixed features of the local states.

    Args:
        features: of every local state, and of the empty place before the first site.
    """

    features: Tensor

    def __init__(self, features: Float[Tensor, "d1 F"], sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.linear = nn.Linear(sizes.patch * features.shape[1], sizes.width)

    def forward(self, before: Int64[Tensor, "B T p"]) -> Float[Tensor, "B T D"]:
        return self.linear(self.features[before].flatten(-2).to(self.linear.weight.dtype))
