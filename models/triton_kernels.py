"""Kernels in Triton (Tillet, Kung, Cox, MAPL 2019) for rows that are short: torch spends a block of threads on each.

Without gradients, and only where there is Triton (`nqs.models.short_rows`). Numbers that kernels get as arguments are
float32; those here are constants, which have the precision of what they are multiplied with.
"""

# Shapes: R rows, D width, B prefixes, H heads, L sites, E = D / H.
from __future__ import annotations  # those of kernels are for Triton, which may be missing

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    import triton
    import triton.language as tl

BLOCK = 1024  # numbers of a block of rows
MOST = 2**13  # numbers of the keys of a head, with sites and width rounded up to powers of 2


def jit(function: Any) -> Any:
    """A kernel, one for all sites and numbers of rows: none is compiled while a CUDA graph is captured.

    Without Triton the function as it is.
    """
    return triton.jit(function, do_not_specialize=["site", "part", "R"]) if HAS_TRITON else function


@jit
def _layer_norm(
    x, shift, weight, bias, y, R,
    eps: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    mask = (row < R) & (column < D)
    at = row * D + column
    value = tl.load(x + at, mask, other=0.0)
    if SHIFTED:
        value += tl.load(shift + column, column < D, other=0.0)
        tl.store(x + at, value, mask)
    centred = tl.where(mask, value - tl.sum(value, 1)[:, None] / D, 0.0)
    variance = tl.sum(centred * centred, 1)[:, None] / D
    w = tl.load(weight + column, column < D, other=0.0)
    b = tl.load(bias + column, column < D, other=0.0)
    tl.store(y + at, centred / tl.sqrt(variance + eps) * w + b, mask)


@jit
def _attend(
    qkv, storage, y, site, part, row, head,
    scale: tl.constexpr, H: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // H).to(tl.int64)
    h = tl.program_id(0) % H
    e = tl.arange(0, WIDTH)
    s = tl.arange(0, S)[:, None]
    own = qkv + b * 3 * H * E + h * E + e
    q = tl.load(own, e < E, other=0.0)
    k = tl.load(own + H * E, e < E, other=0.0)
    v = tl.load(own + 2 * H * E, e < E, other=0.0)
    keys = storage + b * row + h * head
    values = keys + part
    tl.store(keys + site * E + e, k, e < E)
    tl.store(values + site * E + e, v, e < E)
    earlier = (s < site) & (e[None, :] < E)
    every_k = tl.where(s == site, k[None, :], tl.load(keys + s * E + e[None, :], earlier, other=0.0))
    every_v = tl.where(s == site, v[None, :], tl.load(values + s * E + e[None, :], earlier, other=0.0))
    scores = tl.where(s <= site, tl.sum(every_k * q[None, :], 1)[:, None] * scale, float("-inf"))
    w = tl.exp(scores - tl.max(scores, 0)[None, :])
    found = tl.sum(w * every_v, 0) / tl.sum(w, 0)
    tl.store(y + b * H * E + h * E + e, found, e < E)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None = None) -> Tensor:
    """Layer norm over the last dimension of x, (..., D), after a shift has been added to x in place.

    With a shift x is contiguous.
    """
    D = x.shape[-1]
    if shift is None:
        x = x.contiguous()
    assert x.is_contiguous()
    y, number = torch.empty_like(x), x.numel() // D
    width = triton.next_power_of_2(D)
    rows, shifted = max(1, BLOCK // width), shift is not None
    with torch.cuda.device(x.device):
        grid = (triton.cdiv(number, rows),)
        _layer_norm[grid](x, bias if shift is None else shift, weight, bias, y, number, eps, D, rows, width, shifted)
    return y


def fits(site: int, E: int) -> bool:
    """Whether `attend` has room for the sites up to this one."""
    return triton.next_power_of_2(site + 1) * triton.next_power_of_2(E) <= MOST


def attend(qkv: Tensor, storage: Tensor, site: int) -> Tensor:
    """Attention of a new site to itself and to earlier sites, (B, D); its key and value are written to the storage.

    Args:
        qkv: queries, keys and values of the site, (B, 3 D).
        storage: keys and values of earlier sites, (2, B, H, L, E).
    """
    _, B, H, _, E = storage.shape
    y = torch.empty((B, H * E), dtype=qkv.dtype, device=qkv.device)
    part, row, head = storage.stride()[:3]
    width, S = triton.next_power_of_2(E), triton.next_power_of_2(site + 1)
    with torch.cuda.device(qkv.device):
        _attend[(B * H,)](qkv, storage, y, site, part, row, head, E**-0.5, H, E, width, S)
    return y
