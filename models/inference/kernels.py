"""Inference kernels (no gradients) with fewer passes over memory than torch's on a CPU."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nqs.runtime.memory import max_chunk_rows

GELU_SCALE = 2 * math.sqrt(2 / math.pi)
TOKENS = 2**12  # sites evaluated together on a CPU
SHORT_ROW, LONG_ROW = 8, 64  # numbers
LEAST_EXPONENT = -700.0  # exp(-inf) takes four times as long; exp(-700) is negligible next to 1
GPU_BYTES = 2**33  # chunk of a large network on a GPU: smaller chunks underuse it


def tokens_at_once(device: torch.device, bytes_per_token: float) -> int:
    if device.type == "cpu":
        return TOKENS
    return max_chunk_rows(max(1, int(bytes_per_token)), device, gpu_bytes=GPU_BYTES)


def add_output_(layer: nn.Linear, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B E"]) -> Float[Tensor, "*B D"]:
    """x + layer(y), in place."""
    return add_product_(layer, x, y).add_(layer.bias)


def add_product_(layer: nn.Linear, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B E"]) -> Float[Tensor, "*B D"]:
    """x + layer(y) without the bias of the layer, in place."""
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), layer.weight.mT)
    return x


def take_rows(
    table: Float[Tensor, "R d"], rows: Int64[Tensor, " M"], out: Float[Tensor, "M d"] | None = None
) -> Float[Tensor, "M d"]:
    """`table[rows]`; short rows on a GPU element by element, because torch uses a whole block of threads per row."""
    if not table.is_cuda or table.shape[1] > SHORT_ROW:
        return torch.index_select(table, 0, rows, out=out)
    taken = table[rows[:, None], torch.arange(table.shape[1], device=table.device)]
    return taken if out is None else out.copy_(taken)


def softmax_(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Softmax over the last dimension; x may be overwritten. Every row has a finite entry."""
    if x.dtype != torch.float64 or x.is_cuda or x.shape[-1] >= LONG_ROW:
        return x.softmax(-1)
    # torch's kernel for float64 takes twice as long on shorter rows.
    x -= x.amax(-1, keepdim=True)
    x.clamp_(min=LEAST_EXPONENT).exp_()
    x /= x.sum(-1, keepdim=True)
    return x


def gelu(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x (1 + tanh u) / 2."""
    if x.is_cuda:
        return nn.functional.gelu(x, approximate="tanh")
    t = x * x
    torch.addcmul(x, t, x, value=0.044715, out=t)
    return t.mul_(GELU_SCALE).sigmoid_().mul_(x)
