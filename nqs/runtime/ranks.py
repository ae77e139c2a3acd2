"""Start and end of the ranks of a run: one process a GPU, started by torchrun.

NCCL connects GPUs, gloo CPUs. Before they begin, the ranks compare their versions and count their GPUs. They end
together: the first error of any rank is told to all others through the key-value store of torchrun, and rank 0 alone
prints it. A rank that waits for another one, deep in a collective operation, hears neither errors nor signals, so that
a thread of each rank watches for both and ends its process if that has not ended by itself.
"""

import atexit
import json
import os
import platform
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from nqs.runtime.distributed import Communicator, communicator
from nqs.runtime.interruption import OUTSIDE, PATIENCE, Interrupted
from nqs.runtime.launched import (
    follows_rank_error,
    is_ending_for_another_rank,
    is_started_by_torchrun,
    rank_of_process,
)

WAITING = timedelta(minutes=30)  # longest that a rank waits for another one
STARTING = timedelta(minutes=5)
LOOKING = 0.5  # seconds between two looks of the watching thread
GRACE = 5.0  # seconds in which a process ends by itself after the failure of another rank
FAILURE = "nqs/failure"


def start(device: torch.device | str) -> Communicator:
    """Connect this process with the other ranks, if torchrun started it and it is not connected; else do nothing.

    On GPUs each rank gets the one of its number on its machine as the present device.

    Args:
        device: of the run, "cpu" or "cuda", the same on all ranks.

    Raises:
        ValueError: there are fewer GPUs than processes, or the ranks have different versions, or the device is a single
            GPU: models are built after this call.
    """
    if not is_started_by_torchrun() or dist.is_initialized():
        return communicator()
    kind, local = torch.device(device).type, int(os.environ["LOCAL_RANK"])
    if torch.device(device).index not in (None, local):
        raise ValueError(
            f"device {device} for rank {os.environ['RANK']}, whose GPU is number {local}: give the device 'cuda' "
            "without a number, and call nqs.runtime.ranks.start('cuda') before a model is built."
        )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if kind == "cuda" and local < torch.cuda.device_count():
        torch.cuda.set_device(local)  # before anything is allocated on another GPU
    store, _, _ = next(dist.rendezvous("env://", timeout=STARTING))
    _agree(store, rank, size, _about_this_process(kind))
    own = torch.device("cuda", local) if kind == "cuda" else None
    dist.init_process_group(
        "nccl" if own else "gloo", store=store, rank=rank, world_size=size, timeout=WAITING, device_id=own
    )
    _Watch.of_process = _Watch(rank)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    if rank:
        sys.excepthook = _silent
    else:
        sys.excepthook = _first
    atexit.register(finish)
    return communicator()


def finish() -> None:
    """Disconnect from the other ranks at the end of the process; nothing after an error, when they may be gone."""
    watch = _Watch.of_process
    if watch is None or not dist.is_initialized():
        return
    if not watch.is_ending:
        dist.destroy_process_group()
    watch.stop()


def failed(error: BaseException, code: int = 1, line: str | None = None) -> str | None:
    """Tell the other ranks that this one ends with an error, and learn what to print.

    Args:
        code: exit code that a rank which cannot end by itself gets.
        line: what is printed of it; by default its type and text.

    Returns:
        The line of the rank that failed first, on rank 0; None on other ranks, which print nothing.
    """
    line = f"{type(error).__name__}: {error}" if line is None else line
    watch = _Watch.of_process
    if watch is None:
        return line if rank_of_process() == 0 else None
    found = watch.report(line, code, consequence=follows_rank_error(error))
    return found if watch.rank == 0 else None


def end_after_failure(code: int) -> None:
    """End this process at once if it is connected with others: leaving the connection in order would wait for them."""
    if _Watch.of_process is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ------------------------------------------------------------------------------------------------------- start


def _about_this_process(kind: str) -> dict[str, Any]:
    try:
        of_nqs = version("nqs")
    except PackageNotFoundError:
        of_nqs = "not installed"
    return {
        "nqs": of_nqs,
        "torch": torch.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "device": "CPU" if kind == "cpu" else torch.cuda.get_device_name() if torch.cuda.device_count() else "no GPU",
        "processes": int(os.environ["LOCAL_WORLD_SIZE"]),
        "gpus": torch.cuda.device_count() if kind == "cuda" else None,
        "host": socket.gethostname(),
    }


def _agree(store: Any, rank: int, size: int, mine: Mapping[str, Any]) -> None:
    """Rank 0 reads what all ranks say about themselves, and its verdict is that of all.

    Raises:
        ValueError: on every rank, with the same text.
    """
    store.set(f"nqs/about/{rank}", json.dumps(dict(mine)))
    if rank == 0:
        all_of_them = [json.loads(store.get(f"nqs/about/{other}")) for other in range(size)]
        store.set("nqs/verdict", _verdict(all_of_them))
    if verdict := store.get("nqs/verdict").decode():
        raise ValueError(verdict)


def _verdict(ranks: list[dict[str, Any]]) -> str:
    """What keeps these ranks from running together; "" for nothing."""
    first = ranks[0]
    for name in ("nqs", "torch", "Python", "device"):
        for number, other in enumerate(ranks):
            if other[name] != first[name]:
                return (
                    f"rank 0 on {first['host']} has {name} {first[name]}, rank {number} on {other['host']} has "
                    f"{other[name]}: start all from the same environment, with the same options, on equal devices."
                )
    for number, one in enumerate(ranks):
        if one["gpus"] is not None and one["gpus"] < one["processes"]:
            return (
                f"{one['processes']} processes on {one['host']} (rank {number} among them) need a GPU each, and "
                f"PyTorch finds {one['gpus']} there: start as many processes as GPUs, or use --device cpu."
            )
    return ""


# --------------------------------------------------------------------------------------------------------- end


class _Watch:
    """A thread that ends this process if another rank has failed, or a signal has come, and nothing happens."""

    of_process: "_Watch | None" = None  # one in a process, as the process group of torch.distributed

    def __init__(self, rank: int) -> None:
        self.rank = rank
        # A client of its own: that of the process group may be busy for long.
        self._store = _client()
        self._lock = threading.Lock()
        self._failure: dict[str, Any] | None = None
        self.is_ending = False
        self._deadline, self._code, self._done = float("inf"), 1, False
        self._heard, wake = socket.socketpair()
        for end in (self._heard, wake):
            end.setblocking(False)
        self._wake = wake
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._look, name="nqs-watch", daemon=True)
        self._thread.start()

    def report(self, line: str, code: int, *, consequence: bool) -> str:
        """Tell the others, unless another rank was first; the line of that one."""
        self.is_ending = True
        mine = {"rank": self.rank, "line": line, "code": code, "consequence": consequence}
        if consequence:  # the rank that caused it may be about to say why
            end = time.monotonic() + 2 * LOOKING
            while time.monotonic() < end and self._read() is None:
                time.sleep(LOOKING / 10)
        with self._lock, suppress(RuntimeError):  # the store may be gone
            self._store.compare_set(FAILURE, "", json.dumps(mine))
        first = self._read() or mine
        self._end_soon(first)
        # Where all ranks end for one reason, each has a line of its own.
        return line if (self.rank == 0 and not consequence) or first["rank"] == self.rank else _of_other(first)

    def stop(self) -> None:
        """End the thread: one that comes back from the store while the interpreter ends would abort the process."""
        self._done = True
        if threading.current_thread() is threading.main_thread():
            with suppress(ValueError):
                signal.set_wakeup_fd(-1)
        with suppress(OSError):
            self._wake.send(b"\0")
        self._thread.join(GRACE)
        if not self._thread.is_alive():
            self._wake.close()
            self._heard.close()

    def _read(self) -> dict[str, Any] | None:
        """The failure that was told first; None if there is none."""
        with self._lock:
            try:
                return json.loads(self._store.get(FAILURE)) if self._store.check([FAILURE]) else None
            except RuntimeError:
                lost = "error: the launcher of the ranks, or rank 0, has ended."
                return None if self._done else {"rank": -1, "line": lost, "code": 1, "consequence": True}

    def _end_soon(self, failure: dict[str, Any]) -> None:
        self.is_ending = True
        if self._failure is None:
            self._failure, self._code = failure, failure["code"]
            self._deadline = min(self._deadline, time.monotonic() + GRACE)

    def _look(self) -> None:
        while not self._done:
            ready, _, _ = select.select([self._heard], [], [], LOOKING)
            if ready:
                for number in self._heard.recv(64):
                    if number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None)):
                        self._code = 128 + number
                        self._deadline = min(self._deadline, time.monotonic() + PATIENCE + GRACE)
            if self._failure is None and (failure := self._read()) is not None and failure["rank"] != self.rank:
                self._end_soon(failure)
            if time.monotonic() > self._deadline and not self._done:
                if self.rank == 0 and self._failure is not None:
                    os.write(2, f"{_of_other(self._failure)}\n".encode())
                os._exit(self._code)


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside runs; launchers send it to all ranks after the failure of one."""
    watch = _Watch.of_process
    if not (is_ending_for_another_rank() or (watch is not None and watch.is_ending)):
        raise Interrupted(f"{signal.Signals(number).name}: {OUTSIDE}", number)


def _of_other(failure: Mapping[str, Any]) -> str:
    return (
        failure["line"]
        if failure["rank"] <= 0 or failure["consequence"]
        else f"rank {failure['rank']}: {failure['line']}"
    )


def _client() -> dist.TCPStore:
    return dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=10)
    )


def _silent(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Uncaught errors of other ranks go to rank 0, with their traceback."""
    _, code = _told(kind, error, where)
    end_after_failure(code)


def _first(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Uncaught errors of rank 0, or of the rank that failed before it."""
    line, code = _told(kind, error, where)
    print(line, file=sys.stderr)
    end_after_failure(code)


def _told(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> tuple[str | None, int]:
    """What `failed` says of an uncaught error, told with its traceback, and the exit code."""
    if _Watch.of_process is not None:
        _Watch.of_process.is_ending = True  # before anything takes time, in which launchers send SIGTERM
    code = error.exit_code if isinstance(error, Interrupted) else 1
    return failed(error, code, "".join(traceback.format_exception(kind, error, where)).rstrip()), code
