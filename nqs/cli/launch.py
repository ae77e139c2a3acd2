"""--gpus N: the same command on N GPUs of this machine, started by torchrun."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from nqs.cli.errors import ExitCode
from nqs.runtime.launched import is_started_by_torchrun
from nqs.runtime.threads import usable_cores


def is_launch_wanted(gpus: int | None) -> bool:
    """Whether this process is to start others; not one that was started itself."""
    return gpus is not None and gpus != 1 and not is_started_by_torchrun()


def launch(gpus: int, program: Sequence[str]) -> int:
    """Run a program on several GPUs until all of its ranks have ended.

    Args:
        program: arguments of Python: "-m", "nqs", .., or the path of a script and its arguments.

    Returns:
        The exit code of rank 0, or of the first rank that failed.

    Raises:
        ValueError: so many GPUs are not there.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    present = torch.cuda.device_count()
    if not 1 <= gpus <= present:
        raise ValueError(
            f"--gpus {gpus}: PyTorch finds {present} GPUs here; give at most as many. On CPUs, or on several machines, "
            "start the ranks with torchrun (docs/several_gpus.md)."
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // gpus)))
    if sys.platform == "linux":  # one machine: no name of it has to be known in any network
        for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
            os.environ.setdefault(variable, "lo")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks say themselves what happened
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    try:
        torchrun(["--nnodes", "1", "--nproc-per-node", str(gpus), *place, *program])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        if killed := killed_rank(codes):
            rank, name = killed
            print(
                f"rank {rank} was ended by {name} from outside, perhaps for lack of memory; repeat the command or "
                "resume to continue from the last state that was saved.",
                file=sys.stderr,
            )
            return 128 - codes[rank]
        code = codes.get(0, error.get_first_failure()[1].exitcode)
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + int(error.sigval)
    return ExitCode.FINISHED


def killed_rank(codes: Mapping[int, int]) -> tuple[int, str] | None:
    """The rank that a signal ended before it could say anything, and the signal; SIGTERM is what follows for others.

    Args:
        codes: exit code of each rank that failed, negative for a signal.
    """
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGTERM:
            return rank, signal.Signals(-code).name
    return None


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
