"""Network evaluation in pieces that fit into memory."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from nqs.protocols import LogPsi, Wavefunction

CPU_BYTES = 2**28  # work set of one piece on a CPU: larger ones are not faster, smaller ones stay in cache
GPU_SHARE = 0.25  # of the free device memory


def rows_that_fit(bytes_per_row: int, device: torch.device) -> int:
    """How many rows of the given size to process at once on the device."""
    budget = GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else CPU_BYTES
    return max(1, int(budget / bytes_per_row))


@torch.no_grad()
def log_psi_in_chunks(wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]) -> LogPsi:
    """`wavefunction.log_psi(n)` without gradients, in pieces sized to memory."""
    rows = rows_that_fit(wavefunction.bytes_per_configuration, n.device)
    parts = [wavefunction.log_psi(chunk) for chunk in n.split(rows)]
    return LogPsi(torch.cat([p.log_modulus for p in parts]), torch.cat([p.phase for p in parts]))
