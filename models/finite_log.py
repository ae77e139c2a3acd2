"""Logarithms of sums that may vanish."""

import math

from jaxtyping import Float64
from torch import Tensor

SMALLEST = 1e-300


def finite_log(x: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """log x for x >= 0; -inf where x = 0, with the gradient 0: amplitudes that vanish have no weight in any sum."""
    return x.clamp(min=SMALLEST).log().masked_fill(x == 0, -math.inf)
