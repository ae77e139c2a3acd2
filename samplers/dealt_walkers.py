"""Walkers of Markov chains that several ranks move, each its own, with one message for a whole round.

Every rank proposes moves of all walkers with the same random numbers, and evaluates the network for its own ones. The
other rows go astray until they are overwritten by those of their rank at the end of the round. What a walker does is
therefore the same on any number of ranks.
"""

# Shapes: C chains, K copies of each with other powers (parallel tempering), W = K C walkers, w own ones.
from collections.abc import Callable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.distributed import Communicator, apart
from nqs.samplers.markov_chains import Walkers


class DealtWalkers:
    """The walkers of one rank: equal shares of neighbouring chains, with all their copies.

    Args:
        ranks: more than one.
    """

    def __init__(self, ranks: Communicator, n_chains: int, n_copies: int, device: torch.device) -> None:
        self.ranks, self.n_chains, self.n_copies = ranks, n_chains, n_copies
        self.chains = ranks.share(n_chains)
        copies = torch.arange(n_copies, device=device)[:, None] * n_chains
        self.rows = (copies + torch.arange(n_chains, device=device)[self.chains]).flatten()  # (w,)

    def log_psi(
        self,
        wavefunction: Wavefunction,
        walkers: Walkers,
        n: UInt8[Tensor, "W L"],
        evaluate: Callable[[Wavefunction, Tensor], LogPsi],
    ) -> LogPsi:
        """log psi of the proposals of own walkers; those of others keep what they have."""
        if not len(self.rows):
            return LogPsi(walkers.log_modulus, walkers.phase)
        with apart():
            own = evaluate(wavefunction, n[self.rows])
        return LogPsi(
            walkers.log_modulus.index_copy(0, self.rows, own.log_modulus),
            walkers.phase.index_copy(0, self.rows, own.phase),
        )

    def gather(self, walkers: Walkers, accepted: Int64[Tensor, ""]) -> Int64[Tensor, ""]:
        """Bring all walkers together, in place; the number of accepted moves on all ranks.

        Args:
            accepted: of own walkers.
        """
        counts = accepted.new_zeros(self.chains.stop - self.chains.start)
        counts[:1] = accepted
        by_chain = [
            x.unflatten(0, (self.n_copies, self.n_chains))[:, self.chains].transpose(0, 1) for x in walkers.tensors
        ]
        *found, counts = self.ranks.gather(*(x.contiguous() for x in by_chain), counts, number=self.n_chains)
        walkers.n, walkers.log_modulus, walkers.phase = (x.transpose(0, 1).flatten(0, 1) for x in found)
        return counts.sum()
