"""Expectation values with standard errors."""

# Shapes: U samples, b samples of a chunk.
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor

from nqs.runtime.memory import max_chunk_rows
from nqs.samples import Samples


class Expectation(NamedTuple):
    """An estimate and its standard error, element by element."""

    value: Num[Tensor, "*shape"]
    error: Float64[Tensor, "*shape"]


def means_of_values(samples: Samples, x: Num[Tensor, "U ..."]) -> Expectation:
    """Mean and error of precomputed local values."""
    return means(samples, lambda rows: x[rows], 16 * max(1, x[0].numel()))


def means(
    samples: Samples,
    local_values: Callable[[Int64[Tensor, " b"]], Tensor],
    bytes_per_sample: int,
    cpu_bytes: int | None = None,
) -> Expectation:
    """Mean and error of local values that are computed in chunks: `local_values(rows)` has the shape (rows, ...)."""
    weights, c = samples.weights, samples.error_weights
    origin: Tensor | None = None  # estimate of the mean that is subtracted, against cancellation between large sums
    for rows in torch.arange(len(weights), device=weights.device).split(
        max_chunk_rows(bytes_per_sample, weights.device, cpu_bytes)
    ):
        x = local_values(rows)
        shape, x = x.shape[1:], x.flatten(1) if x.ndim > 1 else x[:, None]
        w, e = weights[rows].to(x.dtype), c[rows].to(x.dtype)
        if origin is None:
            origin = (w @ x) / w.sum() if w.sum() != 0 else x[0]
            mean, first = torch.zeros_like(origin), torch.zeros_like(origin)
            second = torch.zeros(origin.shape, dtype=torch.float64, device=weights.device)
        x = x - origin
        mean = mean + w @ x
        first = first + e @ x
        second = second + c[rows] @ x.abs().square()
    assert origin is not None
    square = second - 2 * (mean.conj() * first).real + c.sum() * mean.abs().square()
    return Expectation((origin + mean).view(shape), square.clamp(min=0).sqrt().view(shape))
