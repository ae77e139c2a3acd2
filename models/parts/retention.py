"""Retention: attention with exponential decay in place of the softmax.

    y_t = sum_{s <= t} g_h(t - s) (q_t . k_s) v_s / sqrt(E),        g_h(t - s) ~ exp(-(t - s) / memory_h),

with weights g that add up to 1, and gated. Sun et al., arXiv:2307.08621; in neural quantum states: arXiv:2411.03900.
There every head is also normalised, which is left out: where few positions are seen, the sign of q . k would turn the
whole output around. In this form for whole configurations the cost is that of attention.
"""

# Shapes: B configurations, T positions from the first one, D width, H heads, E = D / H.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.parts.attention import checked_heads
from nqs.models.parts.sizes import Sizes

NEAREST, FURTHEST = 4.0, 64.0  # memory of the first and the last head, in positions


@dataclass(frozen=True, kw_only=True)
class Retention:
    heads: int = 4

    def build(self, sizes: Sizes) -> nn.Module:
        return RetentionMixer(sizes.width, checked_heads(self.heads, sizes.width), sizes.n_positions)


class RetentionMixer(nn.Module):
    decay: Tensor  # (H, P, P)

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.inwards, self.out = nn.Linear(width, 4 * width), nn.Linear(width, width)
        memory = torch.logspace(0, 1, heads, base=FURTHEST / NEAREST) * NEAREST
        distance = torch.arange(length)[:, None] - torch.arange(length)
        decay = torch.exp(-distance.clamp(min=0) / memory[:, None, None]) * (distance >= 0)
        self.register_buffer("decay", decay / decay.sum(-1, keepdim=True), persistent=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        B, T, D = x.shape
        *qkv, gate = self.inwards(x).chunk(4, dim=-1)
        q, k, v = (part.view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in qkv)
        scores = q * (D // self.heads) ** -0.5 @ k.mT
        y = scores * self.decay[:, :T, :T].to(x.dtype) @ v
        return self.out(y.transpose(1, 2).flatten(2) * nn.functional.silu(gate))
