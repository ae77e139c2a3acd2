"""Communication between the ranks of a run: processes that torchrun starts, one a GPU (nqs.runtime.ranks).

All ranks run the same program on the same data. What a run decides from, samples with their amplitudes and local
energies, is small, and every rank holds all of it; the network evaluations behind it, and the rows of the Jacobian, are
split among the ranks and brought together here. Random numbers are drawn alike by all ranks, so that results do not
depend on their number, and numbers that differ from rank to rank, such as times, are those of rank 0.

Where work is split: prefixes of a draw (nqs.samplers.decoding, nqs.samplers.cuda_graph), gradients of norm-constrained
moves (nqs.samplers.norm_constrained), a proposal (nqs.samplers.proposal), amplitudes (nqs.amplitudes.evaluate), local
energies (nqs.estimators.local_energy), rows of the Jacobian and their products (nqs.optimisation.split_rows), the
factor of the kernel matrix (nqs.optimisation.cholesky), first-order gradients (nqs.optimisation.first_order). Rank 0
alone diagonalises, measures observables and writes.

On one process every method returns at once.
"""

# Shapes: N rows that all ranks have, R rows of a share, W columns.
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nqs.runtime.launched import RankError

Value = TypeVar("Value")


class Communicator:
    """The ranks of a run, this process being one of them.

    Attributes:
        rank: number of this process; rank 0 writes archives and messages.
        size: number of ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    # --- rows -------------------------------------------------------------------------------------------------

    def rows_of_share(self, number: int) -> int:
        """Rows of the largest share."""
        return math.ceil(number / self.size)

    def share(self, number: int) -> slice:
        """Which of so many rows this rank works on: blocks of equal size, the last ones shorter or empty."""
        rows = self.rows_of_share(number)
        return slice(min(number, self.rank * rows), min(number, (self.rank + 1) * rows))

    def gather(self, *shares: Tensor, number: int) -> tuple[Tensor, ...]:
        """All rows, from the share of each rank.

        Args:
            shares: tensors with the rows `share(number)`, of any types.
            number: of all rows.
        """
        if self.size == 1:
            return shares
        rows = self.rows_of_share(number)
        return tuple(x[:number] for x in self.gather_padded(*shares, rows=rows))

    def gather_padded(self, *parts: Tensor, rows: int) -> tuple[Tensor, ...]:
        """The rows of all ranks after each other, those of each filled up to `rows`, which is the same everywhere.

        Tensors travel as bytes: one message for all of them, also of types that a backend does not know.
        """
        if self.size == 1:
            return parts
        as_bytes = [_bytes(x) for x in parts]
        widths = [x.shape[1] for x in as_bytes]
        sent = torch.cat(as_bytes, dim=1) if len(parts) > 1 else as_bytes[0]
        sent = torch.nn.functional.pad(sent, (0, 0, 0, rows - len(sent)))
        received = sent.new_empty((self.size * rows, sent.shape[1]))
        # Its name in torch 2.13, where the earlier one warns.
        all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with _together():
            all_gather(received, sent)
        found = zip(parts, received.split(widths, dim=1), strict=True)
        return tuple(x.contiguous().view(like.dtype).view(len(x), *like.shape[1:]) for like, x in found)

    def to_columns(self, rows: Tensor) -> Tensor:
        """All rows of the columns of this rank, (size, R, W / size), from all columns of its rows, (R, W).

        R is the same on all ranks, and so is W, a multiple of their number.
        """
        if self.size == 1:
            return rows[None]
        sent = rows.view(len(rows), self.size, -1).transpose(0, 1).contiguous()
        received = torch.empty_like(sent)
        with _together():
            dist.all_to_all_single(received, sent)
        return received

    # --- sums and decisions -----------------------------------------------------------------------------------

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the ranks, in place; the same bits everywhere."""
        if self.size > 1:
            with _together():
                dist.all_reduce(torch.view_as_real(x) if x.is_complex() else x)
        return x

    def from_first(self, *tensors: Tensor) -> None:
        """Overwrite tensors of one device by those of rank 0, with one message for all of them."""
        if self.size == 1 or not tensors:
            return
        if len(tensors) == 1 and tensors[0].is_contiguous() and not tensors[0].is_complex():
            with _together():
                dist.broadcast(tensors[0], 0)
            return
        sent = torch.cat([_bytes(x.flatten()[None])[0] for x in tensors])
        with _together():
            dist.broadcast(sent, 0)
        for x, part in zip(tensors, sent.split([x.numel() * x.itemsize for x in tensors]), strict=True):
            x.copy_(part.clone().view(x.dtype).view(x.shape))

    def from_rank(self, source: int, x: Tensor) -> Callable[[], None]:
        """Begin to overwrite a contiguous tensor by that of a rank; the function returned waits for its end."""
        with _together():
            work = dist.broadcast(x, source, async_op=True)

        def wait() -> None:
            with _together():
                work.wait()

        return wait

    def numbers(self, *numbers: float) -> tuple[float, ...]:
        """The numbers of rank 0."""
        if self.size == 1:
            return numbers
        x = torch.tensor(numbers, dtype=torch.float64, device=_device())
        self.from_first(x)
        return tuple(x.tolist())

    def decided(self, choice: bool) -> bool:
        """What rank 0 has decided."""
        return choice if self.size == 1 else bool(self.numbers(float(choice))[0])

    def total(self, *numbers: int) -> tuple[int, ...]:
        """Sums of integers over the ranks."""
        if self.size == 1:
            return numbers
        return tuple(self.sum(torch.tensor(numbers, device=_device())).tolist())

    def largest(self, number: int) -> int:
        """The largest of the numbers of all ranks."""
        if self.size == 1:
            return number
        x = torch.tensor([number], device=_device())
        with _together():
            dist.all_reduce(x, dist.ReduceOp.MAX)
        return int(x.item())

    def any(self, flag: bool) -> bool:
        """Whether the flag of some rank is set."""
        return bool(self.largest(int(flag)))

    def smallest(self, number: int) -> int:
        """The smallest of the numbers of all ranks."""
        return -self.largest(-number)

    def of_first(self, function: Callable[[], Value]) -> Value:
        """What rank 0 finds by itself while the others wait, or the error that it raises."""
        if self.size == 1:
            return function()
        outcome: Any = None
        if self.is_first:
            try:
                with apart():
                    outcome = (function(), None)
            except Exception as error:
                outcome = (None, error)
        found, failure = self.value(outcome)
        if failure is not None:
            raise failure
        return found

    def value(self, value: Value) -> Value:
        """The object of rank 0, which must be one that can be pickled."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with _together():
            dist.broadcast_object_list(box, 0, device=_device())
        return box[0]


ALONE = Communicator()
_APART: ContextVar[bool] = ContextVar("apart", default=False)


def communicator() -> Communicator:
    """That of the process group of torch.distributed; a single rank without one, and inside `apart`."""
    if not dist.is_available() or not dist.is_initialized() or _APART.get():
        return ALONE
    return Communicator(dist.get_rank(), dist.get_world_size())


@contextmanager
def apart() -> Iterator[None]:
    """Context manager for work that one rank does by itself: inside, `communicator` is that of a single rank."""
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


def _device() -> torch.device:
    """Where a backend wants its tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _bytes(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    if flat.stride(0) != 1:  # of a single number with strides of its own, which counts as contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).view(len(x), math.prod(x.shape[1:]) * x.itemsize)


@contextmanager
def _together() -> Iterator[None]:
    """Errors of communication are those of a rank that has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankError("another rank of this run has ended, perhaps killed or out of memory.") from error
