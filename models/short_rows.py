"""Which kernels layers use for short rows on a GPU: those of Triton, where there is Triton and a compiler for it."""

from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def kernels() -> Any:
    """`nqs.models.triton_kernels`; None where a kernel cannot be compiled."""
    from nqs.models import triton_kernels  # imports Triton

    if not triton_kernels.HAS_TRITON:
        return None
    x = torch.ones((1, 2), device="cuda")
    try:
        triton_kernels.layer_norm(x, x[0], x[0], 1e-5)
    except Exception:  # no C compiler, or no headers for it, or a GPU that Triton does not know
        return None
    return triton_kernels


def without_gradients(x: Tensor) -> Any:
    """Kernels for a tensor where no gradients are needed; None where torch's serve."""
    if not x.is_cuda or torch.is_grad_enabled():
        return None
    return kernels()
