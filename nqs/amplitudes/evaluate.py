"""Log amplitudes of many configurations, in chunks that fit into memory."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.memory import in_chunks, max_chunk_rows


@torch.no_grad()
def log_psi_in_chunks(wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients, in chunks sized to memory."""
    if not len(n):
        return wavefunction.log_psi(n)
    chunks = in_chunks(wavefunction.log_psi, n, max_chunk_rows(wavefunction.bytes_per_amplitude, n.device))
    return LogPsi(torch.cat([p.log_modulus for p in chunks]), torch.cat([p.phase for p in chunks]))
