"""Linear recurrence, computed for all positions by a parallel scan.

    h_t = (1 - z_t) h_{t-1} + z_t u_t,      z_t = sigmoid(A x_t + a),      u_t = B x_t + b,

in every channel: a gated recurrent network whose gates see the input but not the memory, so that the recurrence is
linear and needs log_2 T products of all positions in place of T steps (minGRU: Feng et al., arXiv:2410.01201).
"""

# Shapes: B configurations, T positions from the first one, D width.
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class LinearRecurrence:
    def build(self, sizes: Sizes) -> nn.Module:
        return LinearRecurrenceMixer(sizes.width)


class LinearRecurrenceMixer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inwards, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        z, u, gate = self.inwards(x).chunk(3, dim=-1)
        z = z.sigmoid()
        return self.out(scan(1 - z, z * u) * nn.functional.silu(gate))


def scan(a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """h_t = a_t h_{t-1} + b_t with h_{-1} = 0: pairs of maps combined at distances 1, 2, 4, ..

    Hillis and Steele, Commun. ACM 29, 1170 (1986).
    """
    distance = 1
    while distance < a.shape[1]:
        before_a = pad(a[:, :-distance], (0, 0, distance, 0), value=1.0)
        before_b = pad(b[:, :-distance], (0, 0, distance, 0))
        b = torch.addcmul(b, a, before_b)
        a = a * before_a
        distance *= 2
    return b
