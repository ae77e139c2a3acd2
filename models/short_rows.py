"""Which kernels layers use for short rows on a GPU: those of Triton, where there is Triton and a compiler for it."""

from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def kernels(device: torch.device) -> Any:
    """`nqs.models.triton_kernels`; None where its kernels cannot be compiled for the device."""
    try:
        from nqs.models import triton_kernels  # imports Triton

        if not triton_kernels.HAS_TRITON:
            return None
        x = torch.ones((1, 6), dtype=torch.float64, device=device)
        triton_kernels.layer_norm(x, x[0], x[0], 1e-5)
        triton_kernels.attend(x, x.new_zeros((2, 1, 1, 1, 2)), 0)
    except Exception:  # no C compiler, or no headers for it, or a GPU that Triton does not know
        return None
    return triton_kernels


def without_gradients(x: Tensor) -> Any:
    """Kernels for a tensor where no gradients are needed; None where torch's serve.

    Kernels know nothing of torch.func: derivatives forwards, and vmap, need gradients enabled.
    """
    if not x.is_cuda or torch.is_grad_enabled():
        return None
    return kernels(x.device)
