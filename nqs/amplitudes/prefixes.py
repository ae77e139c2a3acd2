"""Amplitudes of many configurations, with shared prefixes evaluated once.

The output of an autoregressive model for a site depends only on the sites before it. In lexicographic order,
configurations with a common prefix are neighbours: together they form a tree whose nodes are the distinct prefixes.
Configurations connected to a batch of samples differ from these on few sites, so that most prefixes are shared.
"""

# Shapes: K configurations, L sites.
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.memory import in_chunks, max_chunk_rows

SITE_COST = 1.2  # of a site after a shared prefix relative to a site of a whole configuration: gathers keys, masks
MIN_ROWS = 64  # fewer configurations are faster without sharing
INDEX_BYTES = 64  # per site: indices of its configuration and of its place in storage
# Memory of one chunk. It is evaluated in groups of equal prefix length, each far smaller, so that chunks are large.
CPU_BYTES, GPU_BYTES = 2**28, 2**33


def common_prefix(a: UInt8[Tensor, "K L"], b: UInt8[Tensor, "K L"]) -> Int64[Tensor, " K"]:
    """Number of equal sites before the first that differs; L where none does."""
    differs = torch.nn.functional.pad(a != b, (0, 1), value=True)
    return differs.to(torch.uint8).argmax(1)


@torch.no_grad()
def log_psi_sharing_prefixes(wavefunction: Wavefunction, n: UInt8[Tensor, "K L"]) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients; common prefixes of neighbours are evaluated once if that saves work.

    Args:
        n: configurations, best in lexicographic order.
    """
    if not wavefunction.shares_prefixes or len(n) < MIN_ROWS:
        return log_psi_in_chunks(wavefunction, n)
    shared = torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0))
    # Number of sites in shared prefixes, and of sites kept because a later configuration shares them.
    repeats, repeated = torch.stack([shared.sum(), shared.diff().clamp(min=0).sum()]).tolist()
    if SITE_COST * (n.numel() - repeats) >= n.numel():
        return log_psi_in_chunks(wavefunction, n)

    def evaluate(part: Tensor) -> LogPsi:
        return wavefunction.log_psi_in_order(n[part], shared[part])

    kept = wavefunction.bytes_per_shared_site * repeated // len(n) + INDEX_BYTES * n.shape[1]
    size = max_chunk_rows(kept, n.device, CPU_BYTES, GPU_BYTES)
    chunks = in_chunks(evaluate, torch.arange(len(n), device=n.device), size)
    return LogPsi(torch.cat([p.log_modulus for p in chunks]), torch.cat([p.phase for p in chunks]))
