"""Number of CPU threads. Importing this file changes nothing: the entry points of commands and runs call it.

Idle OpenMP threads spin by default, which makes a step several times slower on a busy machine (measured: 5.1 s against
1.4 s on two loaded cores). They sleep if OMP_WAIT_POLICY is "passive" before torch is imported, which only the entry
point of the command line can ensure. In a process that imported torch before, one thread is faster, unless
OMP_NUM_THREADS or OMP_WAIT_POLICY is set.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def let_idle_threads_sleep() -> None:
    """Set OMP_WAIT_POLICY of this process, unless it is set or torch is imported already. For entry points."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def usable_cores() -> int:
    """Cores that this process may run on, those of its affinity (taskset, batch jobs) where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def usable_threads() -> int:
    """Number of threads set in torch (by default one per usable core); 1 if idle threads would spin."""
    import torch

    return torch.get_num_threads() if any(name in os.environ for name in VARIABLES) else 1


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Context manager that sets the number of threads and restores it afterwards.

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
    """The number of threads, if it is valid.

    Raises:
        ValueError: less than one thread.
    """
    if number < 1:
        raise ValueError(f"threads={number}: at least one is needed; leave it out for the default.")
    return number
