"""Absolute positions, added to the token embeddings; relative ones belong to the mixers (rotary, by displacement)."""

# Shapes: B configurations, T positions from the first one, D width.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class LearnedPositions:
    """A learned vector for each position."""

    def build(self, sizes: Sizes) -> nn.Module:
        return Learned([torch.arange(sizes.n_positions)], sizes.width)


@dataclass(frozen=True, kw_only=True)
class GridPositions:
    """A learned vector for each row plus one for each column of a two-dimensional lattice."""

    def build(self, sizes: Sizes) -> nn.Module:
        site = torch.arange(sizes.n_positions) * sizes.patch
        return Learned([site // sizes.shape[1], site % sizes.shape[1]], sizes.width)


class Learned(nn.Module):
    """The sum of a learned vector for each coordinate."""

    def __init__(self, coordinates: list[Tensor], width: int) -> None:
        super().__init__()
        self.register_buffer("coordinates", torch.stack(coordinates), persistent=False)
        self.tables = nn.ModuleList(nn.Embedding(int(x.max()) + 1, width) for x in coordinates)

    def forward(self, batch: int, length: int) -> Float[Tensor, "B T D"]:
        # Positions expanded per configuration: per-configuration gradients need the input rows of each.
        coordinates: Tensor = self.coordinates  # type: ignore[assignment]
        parts = (t(x[:length].expand(batch, length)) for t, x in zip(self.tables, coordinates, strict=True))
        return sum(parts, torch.zeros((), device=coordinates.device))


@dataclass(frozen=True, kw_only=True)
class NoPositions:
    """Tokens alone; the causal order is all that tells positions apart."""

    def build(self, sizes: Sizes) -> nn.Module:
        return Zero(sizes.width)


class Zero(nn.Module):
    """Vectors of zeros."""

    vector: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("vector", torch.zeros(width), persistent=False)

    def forward(self, batch: int, length: int) -> Float[Tensor, "B T D"]:
        return self.vector.expand(batch, length, -1)
