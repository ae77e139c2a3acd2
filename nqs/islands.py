"""Particles with common ancestors: how many of them count as one independent draw.

Particles that were resampled descend from a few, of which their own scatter says nothing. They belong to islands that
were drawn independently of each other (Vergé, Dubarry, Del Moral, Moulines, Stat. Comput. 25, 243 (2015),
arXiv:1306.3911). With the sums A_g of w x and B_g of w over the particles of island g the mean is sum A_g / sum B_g, of
the variance (ratio estimate of clusters: Cochran, Sampling Techniques, 3rd ed. (1977), section 6.3)

    G / (G - 1) sum_g |A_g - <x> B_g|^2 / (sum B)^2.

Over the variance that as many independent draws would have, sum w^2 |x - <x>|^2 / (sum w)^2, it is the number of
particles that count as one. It is widened by Student's t for the number of islands, and never below 1.
"""

# Shapes: G islands, C particles of each, U distinct configurations, E quantities.
import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

FEW = 8.0  # islands of equal weight whose scatter can be trusted, at least
NORMAL = 1.959964  # half width of the 95 % interval of a normal distribution, in standard deviations
NUMBERS = 2**24  # of a chunk of quantities


class Islands(NamedTuple):
    """The particles of each island: rows of the samples, and weights that sum to 1, 0 where psi is 0."""

    rows: Int64[Tensor, "G C"]
    weights: Float64[Tensor, "G C"]

    @property
    def number(self) -> float:
        """Islands of equal weight with the same noise, (sum B)^2 / sum B^2."""
        return 1 / self.weights.sum(1).square().sum().item()

    def correlation(self, x: Float64[Tensor, "U E"]) -> float:
        """Number of particles that count as one independent draw, the largest one of all quantities.

        nan if too few islands carry the weight.
        """
        if self.number < FEW:
            return math.nan
        from scipy.special import stdtrit  # here, because importing scipy takes time

        G, found = len(self.rows), []
        for values in x.T.split(max(1, NUMBERS // self.rows.numel())):
            of_particles = values[:, self.rows]  # (e, G, C)
            mean = (of_particles * self.weights).sum((1, 2), keepdim=True)
            terms = (of_particles - mean) * self.weights
            clustered = G / (G - 1) * terms.sum(2).square().sum(1)
            independent = terms.square().sum((1, 2))
            constant = independent <= (1e-14 * values.abs().amax(1)).square()
            found.append(torch.where(constant, 1.0, clustered / independent))
        widening = (float(stdtrit(self.number - 1, 0.975)) / NORMAL) ** 2
        return max(1.0, widening * torch.cat(found).max().item())
