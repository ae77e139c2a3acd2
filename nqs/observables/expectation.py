"""Expectation values with error bars."""

# Shapes: U samples, b samples of a chunk.
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor

from nqs.error_bars import ErrorWeights, Moments
from nqs.runtime.memory import max_chunk_rows
from nqs.samples import Samples


class Expectation(NamedTuple):
    """An estimate and its error bar (nqs.error_bars), element by element; nan where that cannot be determined."""

    value: Num[Tensor, "*shape"]
    error: Float64[Tensor, "*shape"]


class LocalValues(NamedTuple):
    """Local values of reversible moves, and numbers with the same mean as their squares but no rare large terms."""

    values: Num[Tensor, "b ..."]
    second: Float64[Tensor, "b ..."]


def means_of_values(samples: Samples, x: Num[Tensor, "U ..."], reach: float | Tensor | None = None) -> Expectation:
    """Mean and error of precomputed local values; `reach` as in `means`."""
    return means(samples, lambda rows: x[rows], 16 * max(1, x[0].numel()), reach=reach)


def means(
    samples: Samples,
    local_values: Callable[[Int64[Tensor, " b"]], Tensor | LocalValues],
    bytes_per_sample: int,
    cpu_bytes: int | None = None,
    reach: float | Tensor | None = None,
) -> Expectation:
    """Mean and error of local values that are computed in chunks: `local_values(rows)` has the shape (rows, ...).

    Args:
        reach: largest possible |x - <x>| of any configuration; None, or nan, if not known.
    """
    moments = Moments(ErrorWeights(samples))
    for rows in torch.arange(len(samples.weights), device=samples.weights.device).split(
        max_chunk_rows(bytes_per_sample, samples.weights.device, cpu_bytes)
    ):
        x = local_values(rows)
        moments.add(rows, *(x if isinstance(x, LocalValues) else (x,)))
    return Expectation(*moments.error(reach))
