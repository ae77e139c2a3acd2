"""Available memory, and work in chunks that fit into it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

# Chunk size in bytes on a CPU, about its L2/L3 cache; smaller chunks cost more calls.
CPU_BYTES = 2**25
GPU_FRACTION, GPU_BYTES = 0.25, 2**31  # fraction of the free device memory, and upper limit

Chunk = TypeVar("Chunk")


def max_chunk_rows(
    bytes_per_row: int, device: torch.device, cpu_bytes: int | None = None, gpu_bytes: int | None = None
) -> int:
    """Number of rows of the given size to process at once on the device, at least 1.

    Args:
        cpu_bytes, gpu_bytes: largest chunk in bytes; by default `CPU_BYTES` and `GPU_BYTES`.
    """
    on_cpu = CPU_BYTES if cpu_bytes is None else cpu_bytes
    on_gpu = GPU_BYTES if gpu_bytes is None else gpu_bytes
    if device.type == "cuda":
        return max(1, int(min(on_gpu, GPU_FRACTION * free_memory(device)) / bytes_per_row))
    return max(1, on_cpu // bytes_per_row)


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, including those that torch's allocator holds in reserve."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def available_memory() -> int | None:
    """Bytes of main memory that this process can allocate without swapping; None if the system does not say."""
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


def check_fits(needed: int, device: torch.device | str, what: str, advice: str) -> None:
    """
    Raises:
        ValueError: more bytes are needed than the device has free.
    """
    on = torch.device(device)
    free = free_memory(on) if on.type == "cuda" else available_memory()
    if free is not None and needed > free:
        raise ValueError(f"{what} needs about {needed / 2**30:.3g} GiB, but {free / 2**30:.3g} GiB are free: {advice}.")


def in_chunks(evaluate: Callable[[Tensor], Chunk], rows: Tensor, size: int) -> list[Chunk]:
    """`evaluate` of consecutive chunks of `size` rows each; the results as a list.

    If the device runs out of memory, this chunk and the following ones are halved.

    Raises:
        torch.OutOfMemoryError: even a single row does not fit.
    """
    chunks: list[Chunk] = []
    start = 0
    while start < len(rows):
        try:
            chunks.append(evaluate(rows[start : start + size]))
        except torch.OutOfMemoryError:
            size = min(size, len(rows) - start)
            if size == 1:
                raise
        else:
            start += size
            continue
        size = (size + 1) // 2  # outside the except block: the exception keeps the tensors of the failed chunk alive
        torch.cuda.empty_cache()
    return chunks
