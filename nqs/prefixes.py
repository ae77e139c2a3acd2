"""Amplitudes of many configurations near a set of known ones, with shared prefixes computed once.

An autoregressive model reads a configuration site by site, and what it computes for a site depends on the sites before
it alone. Connected configurations differ from their parents on few sites, often late ones, so most of them repeat the
beginning of a sample. In lexicographic order the sample with the longest common prefix is one of the two neighbours.
"""

# Shapes: K configurations, A anchors, L sites.
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.chunks import in_pieces, log_psi_in_chunks, rows_that_fit
from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction

SITE_COST = 1.2  # of a site after a shared prefix, in units of a site of a whole configuration: gathering keys, masks
MIN_ROWS = 64  # fewer configurations are evaluated faster at once
# Of a piece: it is evaluated in groups of equal prefix length, each far smaller. On a GPU that is also why it is large.
CPU_BYTES, GPU_BYTES = 2**28, 2**33


class Neighbours(NamedTuple):
    """For every configuration the anchor with the longest common prefix."""

    order: Int64[Tensor, " K"]  # lexicographic order of the configurations
    rows: Int64[Tensor, " K"]  # of the anchor, for each configuration
    shared: Int64[Tensor, " K"]  # length of the common prefix


def lexicographic_order(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
    """Stable: of equal configurations the first comes first."""
    words = hilbert.keys(n).T
    order = words[-1].argsort(stable=True)
    for word in words[:-1].flip(0):
        order = order[word[order].argsort(stable=True)]
    return order


def neighbours(hilbert: HilbertSpace, n: UInt8[Tensor, "K L"], anchors: UInt8[Tensor, "A L"]) -> Neighbours:
    """The closest of the anchors, at least one, for each configuration."""
    A = len(anchors)
    order = lexicographic_order(hilbert, torch.cat([anchors, n]))
    is_anchor = order < A
    place = torch.arange(len(order), device=n.device)
    last = torch.where(is_anchor, place, -1).cummax(0).values  # place of the last anchor up to here
    next_ = torch.where(is_anchor, place, len(order)).flip(0).cummin(0).values.flip(0)
    last, next_ = last[~is_anchor], next_[~is_anchor]
    # At the ends there is one neighbour only.
    last, next_ = torch.where(last < 0, next_, last), torch.where(next_ == len(order), last, next_)
    mine = order[~is_anchor] - A
    before, after = order[last], order[next_]
    shared_before, shared_after = (common_prefix(n[mine], anchors[rows]) for rows in (before, after))
    closer = shared_after > shared_before
    rows, shared = torch.empty_like(mine), torch.empty_like(mine)
    rows[mine] = torch.where(closer, after, before)
    shared[mine] = torch.where(closer, shared_after, shared_before)
    return Neighbours(mine, rows, shared)


def common_prefix(a: UInt8[Tensor, "K L"], b: UInt8[Tensor, "K L"]) -> Int64[Tensor, " K"]:
    """Number of equal sites before the first that differs; L where none does."""
    differs = torch.nn.functional.pad(a != b, (0, 1), value=True)
    return differs.to(torch.uint8).argmax(1)


@torch.no_grad()
def log_psi_sharing_prefixes(
    wavefunction: Wavefunction, n: UInt8[Tensor, "K L"], anchors: UInt8[Tensor, "A L"]
) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients; prefixes that anchors share are computed once where that saves work.

    Args:
        n: configurations.
        anchors: configurations that are close to many of them.
    """
    if not wavefunction.shares_prefixes or len(n) < MIN_ROWS or not len(anchors):
        return log_psi_in_chunks(wavefunction, n)
    L = n.shape[1]
    order, rows, shared = neighbours(wavefunction.hilbert, n, anchors)
    shared = shared.clamp(max=L - 1)  # an anchor itself
    # What is left to compute: the sites after the first that differs, and the anchors that are used.
    used = int(torch.zeros(len(anchors), dtype=torch.bool, device=n.device).index_fill_(0, rows, True).sum())
    if SITE_COST * int((L - 1 - shared).sum()) + L * used >= L * len(n):
        return log_psi_in_chunks(wavefunction, n)
    log_modulus, phase = (torch.empty(len(n), dtype=torch.float64, device=n.device) for _ in range(2))

    def evaluate(part: Tensor) -> None:
        needed, row = torch.unique(rows[part], return_inverse=True)
        log_modulus[part], phase[part] = wavefunction.log_psi_near(n[part], anchors[needed], row, shared[part])

    size = rows_that_fit(wavefunction.bytes_per_configuration, n.device, CPU_BYTES, GPU_BYTES)
    if n.is_cuda:
        size = size * len(n) // used  # so many anchors: few large pieces fill the device
    in_pieces(evaluate, order, size)  # neighbours in lexicographic order use the same anchors
    return LogPsi(log_modulus, phase)
