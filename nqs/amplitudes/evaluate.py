"""Log amplitudes of many configurations, in chunks that fit into memory."""

from collections.abc import Callable

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.distributed import apart, communicator
from nqs.runtime.memory import in_chunks, max_chunk_rows


@torch.no_grad()
def log_psi_in_chunks(wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients, in chunks sized to memory."""
    if not len(n):
        return wavefunction.log_psi(n)
    rows = max_chunk_rows(wavefunction.bytes_per_amplitude, n.device, wanted=len(n))
    chunks = in_chunks(wavefunction.log_psi, n, rows)
    if len(chunks) == 1:
        return chunks[0]
    return LogPsi(torch.cat([p.log_modulus for p in chunks]), torch.cat([p.phase for p in chunks]))


def folded_by_all_ranks(
    wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]
) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
    """`wavefunction.fold(n)` where all ranks have the configurations: each finds those of its share."""
    if wavefunction.symmetry is None:
        return wavefunction.fold(n)
    ranks = communicator()
    representatives, angle = ranks.gather(*wavefunction.fold(n[ranks.share(len(n))]), number=len(n))
    return representatives, angle


@torch.no_grad()
def log_psi_by_all_ranks(
    wavefunction: Wavefunction,
    n: UInt8[Tensor, "B L"],
    evaluate: Callable[[Wavefunction, Tensor], LogPsi] = log_psi_in_chunks,
) -> LogPsi:
    """The same where all ranks have the configurations: each evaluates its share, and all get all amplitudes.

    Args:
        evaluate: what each rank calls for its share, such as `log_psi_sharing_prefixes`.
    """
    ranks = communicator()
    if ranks.size == 1 or not len(n):
        return evaluate(wavefunction, n)
    share = ranks.share(len(n))
    number = share.stop - share.start
    with apart():
        own = evaluate(wavefunction, n[share] if number else n[:1])
    return LogPsi(*ranks.gather(*(x[:number] for x in own), number=len(n)))
