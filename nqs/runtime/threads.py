"""Threads of the CPU. Nothing happens at import: entry points of commands and runs call these functions.

Idle OpenMP threads spin by default: on a busy machine that makes a step several times slower (measured: 5.1 s against
1.4 s on two loaded cores). They sleep where OMP_WAIT_POLICY is "passive" before torch is imported, which only the entry
point of the command line can do. In a process that imported torch before, one thread is the better choice, unless
OMP_NUM_THREADS or OMP_WAIT_POLICY says otherwise.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def let_idle_threads_sleep() -> None:
    """For entry points: sets OMP_WAIT_POLICY for this process, unless it is set, or torch is imported already."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def usable_threads() -> int:
    """As many as torch has set (one a core, unless OMP_NUM_THREADS says otherwise); one where idle ones would spin."""
    import torch

    return torch.get_num_threads() if any(name in os.environ for name in VARIABLES) else 1


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """So many threads between `with` and its end, afterwards as many as before.

    Raises:
        ValueError: less than one thread.
    """
    import torch

    checked_threads(number)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checked_threads(number: int) -> int:
    """The number.

    Raises:
        ValueError: less than one thread.
    """
    if number < 1:
        raise ValueError(f"threads={number}: at least one is needed; leave it out to have it chosen by size.")
    return number
