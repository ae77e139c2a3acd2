"""Available memory, and work in chunks that fit into it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

# Chunk size in bytes on a CPU, about its L2/L3 cache; smaller chunks cost more calls.
CPU_BYTES = 2**25
GPU_FRACTION, GPU_BYTES = 0.25, 2**31  # fraction of the free device memory, and upper limit
SMALL = 2**29  # bytes on a GPU for which the driver is not asked what is free, before each of many small batches

Chunk = TypeVar("Chunk")


def max_chunk_rows(
    bytes_per_row: int,
    device: torch.device,
    cpu_bytes: int | None = None,
    gpu_bytes: int | None = None,
    *,
    wanted: int | None = None,
) -> int:
    """Number of rows of the given size to process at once on the device, at least 1.

    Args:
        cpu_bytes, gpu_bytes: largest chunk in bytes; by default `CPU_BYTES` and `GPU_BYTES`.
        wanted: rows that there are: all of them on a GPU if they are small, whatever memory is free; for `in_chunks`,
            which halves them if they do not fit.
    """
    on_cpu = CPU_BYTES if cpu_bytes is None else cpu_bytes
    on_gpu = GPU_BYTES if gpu_bytes is None else gpu_bytes
    if device.type == "cuda":
        if wanted is not None and wanted * bytes_per_row <= min(SMALL, on_gpu):
            return max(1, wanted)
        return max(1, int(min(on_gpu, GPU_FRACTION * free_memory(device)) / bytes_per_row))
    return max(1, on_cpu // bytes_per_row)


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, including those that torch's allocator holds in reserve, within `using_gpu_memory`."""
    allocated = torch.cuda.memory_allocated(device)
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(_fraction(device) * total) - allocated
    return max(0, min(free + torch.cuda.memory_reserved(device) - allocated, allowed))


@contextmanager
def using_gpu_memory(gib: float | None, device: torch.device | str) -> Iterator[None]:
    """Context manager in which this process allocates at most so much of a GPU; None: no bound.

    Chunks become smaller, and what does not fit is treated as on a GPU of that size.

    Raises:
        ValueError: a bound for a CPU, or one that is not positive.
    """
    place = torch.device(device)
    if gib is None:
        yield
        return
    checked_gpu_memory(gib, place)
    before, total = _fraction(place), torch.cuda.mem_get_info(place)[1]
    torch.cuda.set_per_process_memory_fraction(min(before, gib * 2**30 / total), place.index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, place.index)


def checked_gpu_memory(gib: float | None, device: torch.device | str) -> float | None:
    """The bound, if it is valid for a run on the device.

    Raises:
        ValueError: it is not.
    """
    if gib is None:
        return None
    if not gib > 0:
        raise ValueError(f"gpu_memory={gib:g}: give a positive number of GiB, or leave it out.")
    if torch.device(device).type != "cuda":
        raise ValueError(
            f"gpu_memory={gib:g} bounds the memory of a GPU, but the run is on a CPU, where chunks are small: leave it "
            "out."
        )
    return gib


def _fraction(device: torch.device) -> float:
    """Of a GPU's memory that this process may allocate; before torch 2.8 there is no way to ask for it."""
    asked = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if asked is None else float(asked(device.index))  # a device without a number is refused, None is not


def available_memory() -> int | None:
    """Bytes of main memory that this process can allocate without swapping; None if the system does not say.

    The least of what the system has free, what its control groups (containers, batch jobs) leave, and its own limits
    (ulimit -v, ulimit -d).
    """
    free = [1024 * _field("/proc/meminfo", "MemAvailable:"), *_left_by_control_groups(), *_left_by_own_limits()]
    known = [number for number in free if number >= 0]
    return min(known, default=None)


def require_memory(needed: float, what: str, advice: str, device: torch.device | None = None) -> None:
    """Refuse work that does not fit into the memory that is free now; call it just before.

    Args:
        needed: bytes at the peak.
        what: such as "the matrix of dimension 5".
        device: of which the free memory counts as well; on "meta" nothing is allocated.

    Raises:
        ValueError: with needed and available memory.
    """
    if device is not None and device.type == "meta":
        return
    found = [available_memory(), free_memory(device) if device is not None and device.type == "cuda" else None]
    available = min((number for number in found if number is not None), default=None)
    if available is not None and needed > available:
        raise ValueError(
            f"{what} needs {needed / 2**30:.2f} GiB of memory, and {available / 2**30:.2f} GiB are available: {advice}."
        )


def _field(path: str | Path, name: str) -> int:
    """The number after a name in a file of the system; -1 without one."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # another system
        return -1
    found = (line.split()[1] for line in lines if line.startswith(name) and len(line.split()) > 1)
    return int(next(found, -1))


def _left_by_control_groups() -> Iterator[int]:
    """Limit less use, of the groups of this process and of those above them; caches of files can be freed."""
    layouts = {
        "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
        "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    }
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in {"", "memory"} & set(controllers.split(",")):
            root, limit, used, cache = layouts[controller]
            group = Path(root, path.lstrip("/"))
            while True:
                try:
                    in_use = int((group / used).read_text()) - max(0, _field(group / "memory.stat", cache))
                    yield max(0, int((group / limit).read_text()) - in_use)
                except (OSError, ValueError):  # no such file here, or "max"
                    pass
                if group == Path(root):
                    break
                group = group.parent


def _left_by_own_limits() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    for limit, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        allowed, in_use = resource.getrlimit(limit)[0], 1024 * _field("/proc/self/status", name)
        if allowed != resource.RLIM_INFINITY and in_use >= 0:
            yield max(0, allowed - in_use)


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
