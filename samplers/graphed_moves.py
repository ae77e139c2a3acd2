"""Moves of Markov chains, captured once as a CUDA graph and replayed for every round.

A graph holds one period of a sampler's moves: after it the kinds of moves, and of exchanges, come in the same order
again. Its moves equal those without it bit for bit, from the same state of the generator.

Several ranks each capture the moves of their own walkers (nqs.samplers.dealt_walkers), without messages. Where moves do
not keep walkers apart they share the evaluations, capture alike, messages included, and all replay at the same time.
"""

# Shapes: W walkers, L sites.
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.distributed import ALONE, Communicator, communicator
from nqs.runtime.launched import RankError
from nqs.runtime.memory import max_chunk_rows
from nqs.samplers.capture import Captured, alike, copied, on_side_stream, overwrite, waiting_operation
from nqs.samplers.markov_chains import Walkers

GRAPH_DEVICES = ("cuda",)
# Moves the walkers once through all kinds of moves; returns how many moves were accepted.
Period = Callable[[Wavefunction, Walkers, torch.Generator], Int64[Tensor, ""]]


class WaitingError(RuntimeError):
    """The moves, or the wavefunction, make the host wait, although they are declared capturable."""


class GraphedMoves:
    """One period of moves of all walkers as a CUDA graph.

    It works on a copy of the wavefunction, because a graph reads parameters at the addresses of its capture.

    Args:
        period: of fixed shapes, without host synchronisation.
        walkers: as many as those that are moved later.
        ranks: that share the evaluations.

    Raises:
        WaitingError: the period makes the host wait.
        RuntimeError, TypeError: it cannot be captured, or the wavefunction cannot be copied.
    """

    def __init__(
        self, period: Period, wavefunction: Wavefunction, walkers: Walkers, ranks: Communicator = ALONE
    ) -> None:
        device = walkers.n.device
        self.wavefunction = own = copied(wavefunction)
        generator = torch.Generator(device)
        self.walkers = buffers = Walkers(walkers.n, LogPsi(walkers.log_modulus, walkers.phase))
        buffers.n, buffers.log_modulus, buffers.phase = (
            torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x) for x in walkers.tensors
        )
        self.accepted = accepted = torch.zeros((), dtype=torch.int64, device=device)

        def move_once() -> None:
            moved = Walkers(buffers.n, LogPsi(buffers.log_modulus, buffers.phase))
            accepted.add_(period(own, moved, generator))
            buffers.overwrite(moved)

        on_side_stream(move_once, device)  # makes tables and handles
        if reason := waiting_operation(move_once, device):
            raise WaitingError(reason)
        self.captured = Captured(move_once, generator, ranks)

    def update(self, wavefunction: Wavefunction) -> None:
        """Take over the present parameters."""
        overwrite(self.wavefunction, wavefunction)

    def __call__(self, walkers: Walkers, periods: int, generator: torch.Generator) -> Int64[Tensor, ""]:
        """Move the walkers by so many periods; the number of accepted moves.

        The generator is advanced past the random numbers used.
        """
        self.walkers.overwrite(walkers)
        self.accepted.zero_()
        self.captured.replay(generator, periods)
        walkers.n, walkers.log_modulus, walkers.phase = (x.clone() for x in self.walkers.tensors)
        return self.accepted.clone()


class MoveGraphs:
    """CUDA graphs of the moves of one sampler, captured at first use.

    Attributes:
        is_refused: what was to be captured makes the host wait, so that it is not tried again.
    """

    def __init__(self) -> None:
        # By the number of ranks: all that share a graph replay it, also where one has moved alone in between.
        self._graphs: dict[int, GraphedMoves] = {}
        self.is_refused = False

    def update(self, wavefunction: Wavefunction) -> None:
        """Take over the present parameters; graphs for parameters of other shapes, types or devices are released."""
        self._graphs = {size: one for size, one in self._graphs.items() if alike(one.wavefunction, wavefunction)}
        for one in self._graphs.values():
            one.update(wavefunction)

    def graph(self, period: Period, wavefunction: Wavefunction, walkers: Walkers) -> GraphedMoves | None:
        """The graph of a period; None if the walkers need several chunks of memory, or the host has to wait.

        Raises:
            RuntimeError: the moves cannot be captured for another reason.
        """
        ranks, device = communicator(), walkers.n.device
        if self.is_refused:
            return None
        if ranks.size not in self._graphs:
            share = ranks.rows_of_share(len(walkers.n))
            if ranks.any(share > max_chunk_rows(wavefunction.bytes_per_amplitude, device, wanted=share)):
                return None
            try:
                self._graphs[ranks.size] = GraphedMoves(period, wavefunction, walkers, ranks)
            except WaitingError as error:
                self.is_refused = True
                warnings.warn(
                    f"Markov chains of {type(wavefunction).__name__} move without a CUDA graph, which takes longer: it "
                    f"is declared capturable, but the host has to wait for the GPU ({error}).",
                    stacklevel=2,
                )
                return None
            except RankError:
                raise
            except (RuntimeError, TypeError) as error:
                raise RuntimeError(
                    f"the moves of {type(wavefunction).__name__} cannot be captured as a CUDA graph ({error}): choose "
                    "use_cuda_graph=False for the sampler."
                ) from error
        return self._graphs[ranks.size]


def at_once(wavefunction: Wavefunction, n: Tensor) -> LogPsi:
    """`log_psi` of all configurations at once, whatever memory is free."""
    return wavefunction.log_psi(n)
