"""Configurations as integers: the digits of a number to the base d."""

import math

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

EXACT = 2**52  # integers that products in float64 leave exact
CPU_ROWS = 2**13  # rows whose float64 copy stays in the cache


def as_integers(n: UInt8[Tensor, "B L"], d: int) -> Int64[Tensor, " B"]:
    """sum_k n_k d^(L - 1 - k), exact below 2^63.

    Products in float64 are several times faster than those of integers, and exact for groups of sites below 2^52.
    """
    L, device = n.shape[1], n.device
    size = min(L, max(1, int(math.log(EXACT, max(2, d)))))
    powers = torch.full((size,), d, device=device)  # made there: no copy that waits for the device
    powers[:1].fill_(1)
    powers = powers.cumprod(0).flip(0).double()
    weights = torch.zeros((L, -(-L // size)), dtype=torch.float64, device=device)
    scales, found = [], []
    for group, first in enumerate(range(0, L, size)):
        last = min(L, first + size)
        weights[first:last, group] = powers[size - (last - first) :]
        scales.append(d ** (L - last))
    for part in n.split(CPU_ROWS if device.type == "cpu" else max(1, len(n))):
        groups = (part.double() @ weights).long()
        total = groups[:, 0] * scales[0]
        for group, scale in enumerate(scales[1:], start=1):
            total += groups[:, group] * scale
        found.append(total)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=device)
