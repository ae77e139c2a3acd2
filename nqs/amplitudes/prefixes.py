"""Amplitudes of many configurations, with the prefixes that they share computed once.

An autoregressive model reads a configuration site by site, and what it computes for a site depends on the sites before
it alone. In lexicographic order configurations with a common prefix stand next to each other: all of them together are
a tree, whose nodes are the distinct prefixes. Configurations connected to a batch of samples differ from these on few
sites, so that most of their prefixes are shared, by each other and by those connected to other samples.
"""

# Shapes: K configurations, L sites.
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.memory import in_chunks, max_chunk_rows

SITE_COST = 1.2  # of a site after a shared prefix, in units of a site of a whole configuration: gathering keys, masks
MIN_ROWS = 64  # fewer configurations are evaluated faster at once
INDEX_BYTES = 64  # of a site: numbers that say which configuration it belongs to, and where it is stored
# Of what a piece keeps: it is evaluated in groups of equal prefix length, each far smaller, so that a piece is large.
CPU_BYTES, GPU_BYTES = 2**28, 2**33


def common_prefix(a: UInt8[Tensor, "K L"], b: UInt8[Tensor, "K L"]) -> Int64[Tensor, " K"]:
    """Number of equal sites before the first that differs; L where none does."""
    differs = torch.nn.functional.pad(a != b, (0, 1), value=True)
    return differs.to(torch.uint8).argmax(1)


@torch.no_grad()
def log_psi_sharing_prefixes(wavefunction: Wavefunction, n: UInt8[Tensor, "K L"]) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients; prefixes of neighbours are computed once where that saves work.

    Args:
        n: configurations, in lexicographic order to save most.
    """
    if not wavefunction.shares_prefixes or len(n) < MIN_ROWS:
        return log_psi_in_chunks(wavefunction, n)
    shared = torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0))
    # Sites that repeat, and those that are repeated: from where a configuration is new to where the next one is.
    repeats, repeated = torch.stack([shared.sum(), shared.diff().clamp(min=0).sum()]).tolist()
    if SITE_COST * (n.numel() - repeats) >= n.numel():
        return log_psi_in_chunks(wavefunction, n)

    def evaluate(part: Tensor) -> LogPsi:
        return wavefunction.log_psi_in_order(n[part], shared[part])

    kept = wavefunction.bytes_per_shared_site * repeated // len(n) + INDEX_BYTES * n.shape[1]
    size = max_chunk_rows(kept, n.device, CPU_BYTES, GPU_BYTES)
    pieces = in_chunks(evaluate, torch.arange(len(n), device=n.device), size)
    return LogPsi(torch.cat([p.log_modulus for p in pieces]), torch.cat([p.phase for p in pieces]))
