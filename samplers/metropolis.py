"""Metropolis sampling: Markov chains of any wavefunction, which need not be normalised; all walkers move together.

Each walker proposes moves that stay in the sector (nqs.samplers.moves), accepted with the Metropolis-Hastings
probability, so that the chain is stationary for |psi|^2. Metropolis et al., J. Chem. Phys. 21, 1087 (1953); Hastings,
Biometrika 57, 97 (1970).

Parallel tempering adds copies of the chains that are stationary for |psi|^(2 a) with powers a < 1. They cross between
peaks of the distribution, and exchange their configurations with those of the next larger power, accepted with

    min(1, (|psi(n')|^2 / |psi(n)|^2)^(a - a'))    for n at power a and n' at power a'.

Swendsen and Wang, Phys. Rev. Lett. 57, 2607 (1986); Geyer, Computing Science and Statistics 23, 156 (1991).
"""

# Shapes: C chains, W walkers, L sites.
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.protocols import Wavefunction
from nqs.samplers.markov_chains import ChainOptions, MarkovChains, Walkers, metropolis
from nqs.samplers.moves import Moves, Proposer, default_moves


@dataclass(frozen=True, kw_only=True)
class MetropolisSampler(ChainOptions):
    """Walkers that move by Metropolis steps, by default one for each site between two samples.

    Args:
        n_samples, n_chains, n_steps, n_discarded: as in `ChainOptions`.
        moves: kinds of moves, used in turn; () for `nqs.samplers.moves.default_moves`.
        powers: the powers a of parallel tempering, from 1 downwards; (1,) for none.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, heads=2, seed=0)
    >>> samples = MetropolisSampler(n_samples=1000, n_chains=100).build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_distinct, samples.r_hat < 1.5
    (1000, 35, True)
    """

    moves: tuple[Moves, ...] = ()
    powers: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "moves", tuple(self.moves))
        powers = tuple(float(power) for power in self.powers)
        object.__setattr__(self, "powers", powers)
        falling = all(a > b for a, b in itertools.pairwise(powers))
        if not powers or powers[0] != 1 or not falling or powers[-1] < 0:
            raise ValueError(f"powers={powers}: give falling numbers from 1 down to 0, such as (1, 0.7, 0.4).")

    def build(self, wavefunction: Wavefunction) -> "MetropolisSampling":
        """Raises ValueError: fewer steps than kinds of moves."""
        return MetropolisSampling(self, wavefunction)


class MetropolisSampling(MarkovChains):
    """Metropolis sampling of one wavefunction."""

    config: MetropolisSampler

    def __init__(self, config: MetropolisSampler, wavefunction: Wavefunction) -> None:
        self._moves = config.moves or default_moves(wavefunction.hilbert)
        n_steps = max(wavefunction.hilbert.n_sites, len(self._moves))
        super().__init__(config, wavefunction, n_steps, copies=len(config.powers))
        if self.n_steps < len(self._moves):
            raise ValueError(f"n_steps={self.n_steps} for {len(self._moves)} kinds of moves: give as many at least.")
        self._proposers: list[Proposer] = []

    def begin(self, device: torch.device) -> None:
        if not self._proposers:
            self._proposers = [moves.build(self.hilbert, device) for moves in self._moves]
            powers = torch.tensor(self.config.powers, dtype=torch.float64, device=device)
            self._powers = powers.repeat_interleave(self.config.n_chains)  # (W,)

    def step(self, walkers: Walkers, number: int, generator: torch.Generator) -> Bool[Tensor, " C"]:
        proposal = self._proposers[number % len(self._proposers)](walkers.n, generator)
        log_psi = log_psi_by_all_ranks(self.wavefunction, proposal.configurations)
        log_ratio = 2 * self._powers * (log_psi.log_modulus - walkers.log_modulus) + proposal.log_ratio
        accepted = metropolis(log_ratio, generator)
        walkers.move(accepted, proposal.configurations, log_psi)
        if len(self.config.powers) > 1:
            self._exchange(walkers, number % 2, generator)
        return accepted[: self.config.n_chains]

    def _exchange(self, walkers: Walkers, first: int, generator: torch.Generator) -> None:
        """Exchange the configurations of pairs of neighbouring powers, beginning with the pair (first, first + 1)."""
        K, C = len(self.config.powers), self.config.n_chains
        upper = torch.arange(first, K - 1, 2, device=walkers.n.device)
        if not len(upper):
            return
        rows = (upper[:, None] * C + torch.arange(C, device=walkers.n.device)).flatten()
        other = rows + C
        change = walkers.log_modulus[other] - walkers.log_modulus[rows]
        accepted = metropolis(2 * (self._powers[rows] - self._powers[other]) * change, generator)
        rows, other = rows[accepted], other[accepted]
        order = torch.arange(len(walkers.n), device=walkers.n.device)
        order[rows], order[other] = other, rows
        walkers.n, walkers.log_modulus, walkers.phase = (
            x[order] for x in (walkers.n, walkers.log_modulus, walkers.phase)
        )
