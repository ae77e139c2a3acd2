"""What a process knows of its launcher: whether torchrun started it, as which rank. Imports nothing large."""

import os
import sys

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(RuntimeError):
    """Another rank of the run has ended, so that this one cannot go on."""


def follows_rank_error(error: BaseException | None) -> bool:
    """Whether an error came after the end of another rank."""
    return error is not None and (isinstance(error, RankError) or follows_rank_error(error.__context__))


def is_ending_for_another_rank() -> bool:
    """Whether the end of another rank is being handled. Launchers send SIGTERM to all ranks after it: no news then."""
    return follows_rank_error(sys.exc_info()[1])


def is_started_by_torchrun() -> bool:
    """Whether this process is one of several ranks."""
    return all(name in os.environ for name in NEEDED) and int(os.environ["WORLD_SIZE"]) > 1


def rank_of_process() -> int:
    """Number of this process among those that torchrun started; 0 without it."""
    return int(os.environ["RANK"]) if is_started_by_torchrun() else 0


def only_rank_0_speaks() -> None:
    """Discard what Python prints on other ranks, whose errors are told to rank 0. For entry points."""
    if is_started_by_torchrun():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no traces of C++ where a rank has ended
    if rank_of_process():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
