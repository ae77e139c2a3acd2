"""Functions of fixed shapes on a GPU, captured as CUDA graphs.

Kernels of a small network take a few microseconds each, less than their launch; a graph launches all of them at once.
What is captured reads and writes at fixed addresses: it works on a copy of the wavefunction, whose parameters are
overwritten before a replay, and on buffers of its own. Random numbers are those of one generator, whose state is set
before a replay and read after it, so that a replay gives what the function would give.
"""

import atexit
import copy
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nqs.protocols import Wavefunction
from nqs.runtime.distributed import ALONE, Communicator

Result = TypeVar("Result")
State = TypeVar("State", bound=Wavefunction)


class Captured(Generic[Result]):
    """A function as a CUDA graph.

    Call it before with `on_side_stream`: tables and handles that it makes cannot be made during a capture.

    Args:
        generator: whose random numbers the function uses, and no other ones.
        ranks: with which it exchanges messages.

    Attributes:
        result: what the function returned, overwritten by each replay.

    Raises:
        RuntimeError: what the function does cannot be captured.
    """

    result: Result

    def __init__(self, function: Callable[[], Result], generator: torch.Generator, ranks: Communicator = ALONE) -> None:
        self.generator = generator
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        # The thread that watches over the messages of several ranks asks for events meanwhile.
        mode = "thread_local" if dist.is_available() and dist.is_initialized() else "global"
        with torch.cuda.graph(self.graph, capture_error_mode=mode):
            self.result = function()
        if ranks.size > 1:  # a graph must be gone before the connection that its messages use
            atexit.register(_reset, weakref.ref(self))

    def replay(self, generator: torch.Generator, times: int = 1) -> None:
        """With the random numbers of a generator, which is advanced past them."""
        self.generator.set_state(generator.get_state())
        for _ in range(times):
            self.graph.replay()
        generator.set_state(self.generator.get_state())


def _reset(captured: "weakref.ref[Captured[Any]]") -> None:
    found = captured()
    if found is not None:
        found.graph.reset()


def on_side_stream(function: Callable[[], Result], device: torch.device) -> Result:
    """What the function returns, which runs on a stream of its own, as it will during a capture."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        result = function()
    torch.cuda.current_stream(device).wait_stream(side)
    return result


def waiting_operation(function: Callable[[], object], device: torch.device) -> str:
    """Why the function cannot be captured: an operation for which the host waits; "" if there is none.

    A capture that fails leaves torch's allocator in a state that cannot be repaired; this leaves none.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it does not find all such operations
        torch.cuda.set_sync_debug_mode("error")
    try:
        on_side_stream(function, device)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


def copied(wavefunction: State) -> State:
    """A wavefunction with parameters and buffers of its own, without gradients, on the same Hilbert space."""
    shared = {id(wavefunction.hilbert): wavefunction.hilbert}
    return copy.deepcopy(wavefunction, shared).requires_grad_(False)


def tensors_of(wavefunction: Wavefunction) -> list[Tensor]:
    """Parameters and buffers, in an order that is that of a copy."""
    return [*wavefunction.parameters(), *wavefunction.buffers()]


def alike(one: Wavefunction, other: Wavefunction) -> bool:
    """Whether parameters and buffers have the same shapes, types and devices."""

    def kinds(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device]]:
        return [(x.shape, x.dtype, x.device) for x in tensors]

    return kinds(tensors_of(one)) == kinds(tensors_of(other))


@torch.no_grad()
def overwrite(copy: Wavefunction, wavefunction: Wavefunction) -> None:
    """Copy parameters and buffers of a wavefunction into those of its copy."""
    own, given = tensors_of(copy), tensors_of(wavefunction)
    assert len(own) == len(given)
    if own:
        torch._foreach_copy_(own, given)  # one launch for many
