"""Work in pieces that fit into memory."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

# Work set of one piece of a network evaluation on a CPU: larger ones leave its cache, smaller ones cost calls.
CPU_BYTES = 2**25
GPU_SHARE, GPU_BYTES = 0.25, 2**31  # of the free device memory, and at most so much

Piece = TypeVar("Piece")


def max_chunk_rows(
    bytes_per_row: int, device: torch.device, cpu_bytes: int | None = None, gpu_bytes: int | None = None
) -> int:
    """How many rows of the given size to process at once on the device."""
    on_cpu = CPU_BYTES if cpu_bytes is None else cpu_bytes
    on_gpu = GPU_BYTES if gpu_bytes is None else gpu_bytes
    if device.type == "cuda":
        return max(1, int(min(on_gpu, GPU_SHARE * free_memory(device)) / bytes_per_row))
    return max(1, on_cpu // bytes_per_row)


def free_memory(device: torch.device) -> int:
    """Bytes on a GPU that nothing uses, with those that torch holds for later tensors."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def available_memory() -> int | None:
    """Bytes of main memory that this process can take without swapping; None where the system does not say."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
        group = Path("/sys/fs/cgroup")  # the limit of a container
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, or no limit
        pass
    return min(limits, default=None)


def in_chunks(evaluate: Callable[[Tensor], Piece], rows: Tensor, size: int) -> list[Piece]:
    """`evaluate` of consecutive pieces of `rows`, `size` of them each.

    Where the device runs out of memory, that piece and all that follow are halved.
    """
    pieces: list[Piece] = []
    start = 0
    while start < len(rows):
        try:
            pieces.append(evaluate(rows[start : start + size]))
        except torch.OutOfMemoryError:
            size = min(size, len(rows) - start)
            if size == 1:
                raise
        else:
            start += size
            continue
        size = (size + 1) // 2  # here the exception, which holds on to the tensors of the failed piece, is gone
        torch.cuda.empty_cache()
    return pieces
