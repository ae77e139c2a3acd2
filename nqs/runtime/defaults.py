"""Settings of PyTorch that a program may have changed for all of the process."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Context manager: torch.get_default_dtype() is float32, whatever the program has set.

    Random numbers of the default type depend on it: without this, a seed would give other parameters after
    torch.set_default_dtype(torch.float64).
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
