"""Metropolis sampling: Markov chains of any wavefunction, which need not be normalised; all walkers move together.

Each walker proposes moves that stay in the sector (nqs.samplers.moves), accepted with the Metropolis-Hastings
probability, so that the chain is stationary for |psi|^2. Metropolis et al., J. Chem. Phys. 21, 1087 (1953); Hastings,
Biometrika 57, 97 (1970).

Parallel tempering adds copies of the chains that are stationary for |psi|^(2 a) with powers a < 1. They cross between
peaks of the distribution, and exchange their configurations with those of the next larger power, accepted with

    min(1, (|psi(n')|^2 / |psi(n)|^2)^(a - a'))    for n at power a and n' at power a'.

Swendsen and Wang, Phys. Rev. Lett. 57, 2607 (1986); Geyer, Computing Science and Statistics 23, 156 (1991).

Where the first power is below 1 already, samples are drawn from |psi|^(2 a) and weighted with |psi|^(2 - 2 a): also
configurations on which psi is small are seen, and moved away from zero, where samples of |psi|^2 leave a wrong sign or
a missing amplitude as it is. Inui, Kato and Motome, Phys. Rev. Research 3, 043126 (2021) (a = 1/2 for neural
quantum states); Misery et al., arXiv:2507.05352.

Several ranks move equal shares of the chains, and send the walkers to each other once a round
(nqs.samplers.dealt_walkers).
"""

# Shapes: C chains, W walkers, L sites, P pairs of walkers.
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks, log_psi_in_chunks
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.distributed import communicator
from nqs.samplers.correlated import weighted
from nqs.samplers.dealt_walkers import DealtWalkers
from nqs.samplers.graphed_moves import GRAPH_DEVICES, MoveGraphs, at_once
from nqs.samplers.markov_chains import ChainOptions, MarkovChains, Walkers, metropolis
from nqs.samplers.moves import Moves, Proposer, default_moves
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class MetropolisSampler(ChainOptions):
    """Walkers that move by Metropolis steps, by default one for each site between two samples.

    Args:
        n_samples, n_chains, n_steps, n_discarded: as in `ChainOptions`.
        moves: kinds of moves, used in turn; () for `nqs.samplers.moves.default_moves`.
        powers: the powers a of parallel tempering, falling from the first one, which samples are drawn with: 1, or less
            for weighted samples. (1,): neither.
        use_cuda_graph: on a GPU, replay the moves as a CUDA graph (nqs.samplers.graphed_moves) where the wavefunction
            and the moves are `capturable` and all walkers are evaluated at once: the same samples, faster for small
            networks.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> sampler = MetropolisSampler(n_samples=1000, n_chains=100, n_discarded=16)
    >>> samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_distinct, samples.r_hat < 1.5
    (1000, 35, True)
    """

    moves: tuple[Moves, ...] = ()
    powers: tuple[float, ...] = (1.0,)
    use_cuda_graph: bool = field(default=True, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "moves", tuple(self.moves))
        powers = tuple(float(power) for power in self.powers)
        object.__setattr__(self, "powers", powers)
        falling = all(a > b for a, b in itertools.pairwise(powers))
        if not powers or powers[0] > 1 or not falling or powers[-1] < 0:
            raise ValueError(f"powers={powers}: give falling numbers between 1 and 0, such as (1, 0.7, 0.4) or (0.5,).")

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
        self._graphs = MoveGraphs()
        self._shares: dict[int, DealtWalkers] = {}  # by the number of ranks; captured graphs read their rows
        self._dealt: DealtWalkers | None = None

    def begin(self, device: torch.device) -> None:
        if not self._proposers:
            self._proposers = [moves.build(self.hilbert, device) for moves in self._moves]
            powers = torch.tensor(self.config.powers, dtype=torch.float64, device=device)
            self._powers = 2 * powers.repeat_interleave(self.config.n_chains)  # (W,), of |psi|
            self._exchanges = [self._neighbours(first, device) for first in range(2)]
        self._graphs.update(self.wavefunction)
        self._dealt = self._share_of_present_ranks(device)

    def sample(self, generator: torch.Generator) -> Samples:
        samples = super().sample(generator)
        return samples if self.config.powers[0] == 1 else weighted(samples, self.config.powers[0])

    def state_dict(self) -> dict[str, Tensor]:
        state, power = super().state_dict(), self.config.powers[0]
        return state | {"power": torch.tensor([power], dtype=torch.float64)} if state and power < 1 else state

    @torch.no_grad()
    def warm_start(self, state: dict[str, Tensor], generator: torch.Generator) -> None:
        """As of all Markov chains; walkers of another power forget their distribution like a random start."""
        before = state["power"].item() if "power" in state else 1.0
        super().warm_start(state, generator)
        if self.walkers is not None and before != self.config.powers[0]:
            walkers = self._begun(generator)
            self.thermalise(walkers, generator)
            self.walkers = walkers.n

    def _share_of_present_ranks(self, device: torch.device) -> DealtWalkers | None:
        """None where all ranks move all walkers: a single one, or proposals that depend on other walkers."""
        ranks = communicator()
        independent = all(getattr(proposer, "walkers_independent", False) for proposer in self._proposers)
        if ranks.size == 1 or not independent:
            return None
        if ranks.size not in self._shares:
            copies = len(self.config.powers)
            self._shares[ranks.size] = DealtWalkers(ranks, self.config.n_chains, copies, device)
        return self._shares[ranks.size]

    def _advance(self, walkers: Walkers, generator: torch.Generator) -> None:
        before = self._accepted
        super()._advance(walkers, generator)
        if self._dealt is not None:
            self._accepted = before + self._dealt.gather(walkers, self._accepted - before)

    def step(self, walkers: Walkers, number: int, generator: torch.Generator) -> Bool[Tensor, " c"]:
        return self._move(self.wavefunction, walkers, number, generator, log_psi_in_chunks)

    def replayed(self, walkers: Walkers, generator: torch.Generator) -> tuple[int, Tensor | int]:
        n_kinds, n_parities = len(self._proposers), 1 if len(self.config.powers) == 1 else 2
        moves = math.lcm(n_kinds, n_parities)
        periods = self.n_steps // moves
        if not periods or not self.config.use_cuda_graph or not self._can_be_captured(generator.device):
            return 0, 0

        def period(wavefunction: Wavefunction, moved: Walkers, own: torch.Generator) -> Int64[Tensor, ""]:
            accepted = [self._move(wavefunction, moved, number, own, at_once) for number in range(moves)]
            return torch.stack(accepted).sum()

        graph = self._graphs.graph(period, self.wavefunction, walkers)
        return (0, 0) if graph is None else (periods * moves, graph(walkers, periods, generator))

    def _can_be_captured(self, device: torch.device) -> bool:
        moves = all(getattr(proposer, "capturable", False) for proposer in self._proposers)
        return device.type in GRAPH_DEVICES and moves and self.wavefunction.capturable

    def _move(
        self,
        wavefunction: Wavefunction,
        walkers: Walkers,
        number: int,
        generator: torch.Generator,
        evaluate: Callable[[Wavefunction, Tensor], LogPsi],
    ) -> Bool[Tensor, " c"]:
        """Move `number` of a round; which of the recorded chains accepted theirs, of several ranks the own ones."""
        proposal = self._proposers[number % len(self._proposers)](walkers.n, generator)
        if self._dealt is None:
            log_psi = log_psi_by_all_ranks(wavefunction, proposal.configurations, evaluate)
        else:
            log_psi = self._dealt.log_psi(wavefunction, walkers, proposal.configurations, evaluate)
        log_ratio = self._powers * (log_psi.log_modulus - walkers.log_modulus) + proposal.log_ratio
        accepted = metropolis(log_ratio, generator)
        walkers.move(accepted, proposal.configurations, log_psi)
        if len(self.config.powers) > 1:
            self._exchange(walkers, number % 2, generator)
        recorded = accepted[: self.config.n_chains]
        return recorded if self._dealt is None else recorded[self._dealt.chains]

    def _neighbours(self, first: int, device: torch.device) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """Rows of all pairs of walkers of neighbouring powers, beginning with the pair (first, first + 1)."""
        K, C = len(self.config.powers), self.config.n_chains
        upper = torch.arange(K - 1, device=device)[first::2]
        rows = (upper[:, None] * C + torch.arange(C, device=device)).flatten()
        return rows, rows + C

    def _exchange(self, walkers: Walkers, first: int, generator: torch.Generator) -> None:
        """Exchange the configurations of pairs of neighbouring powers."""
        rows, other = self._exchanges[first]
        if not len(rows):
            return
        change = walkers.log_modulus[other] - walkers.log_modulus[rows]
        accepted = metropolis((self._powers[rows] - self._powers[other]) * change, generator)
        order = torch.arange(len(walkers.n), device=walkers.n.device)
        order[rows], order[other] = torch.where(accepted, other, rows), torch.where(accepted, rows, other)
        walkers.n, walkers.log_modulus, walkers.phase = (x[order] for x in walkers.tensors)
