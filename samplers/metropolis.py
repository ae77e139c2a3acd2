"""Metropolis sampling: Markov chains of any wavefunction, which need not be normalised; all walkers move together.

Each walker proposes moves that stay in the sector (nqs.samplers.moves), accepted with the Metropolis-Hastings
probability, so that the chain is stationary for |psi|^2. Metropolis et al., J. Chem. Phys. 21, 1087 (1953); Hastings,
Biometrika 57, 97 (1970).

Walkers are kept between draws, and go on from where they were when the parameters change. The first draw lets them
forget their random start: rounds are discarded, in blocks of doubled length, until log|psi| does not drift in a block
that is much longer than its autocorrelation time.
"""

# Shapes: C chains, T rounds, L sites, U distinct configurations.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.chains import autocorrelation_time, drifts
from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction
from nqs.samplers.correlated import samples_of_chains
from nqs.samplers.moves import Moves, Proposer, default_moves
from nqs.samples import Samples

BLOCKS = 6  # of discarded rounds at most, each twice as long as the one before
STEADY, LENGTH = 2.0, 4.0  # standard errors of the drift, and autocorrelation times, of the last one
ATTEMPTS = 64  # random configurations among which a walker finds one with psi != 0


@dataclass(frozen=True, kw_only=True)
class MetropolisSampler:
    """Walkers that move by Metropolis steps.

    Args:
        n_samples: number of samples, rounded up to a multiple of n_chains.
        n_chains: number of walkers.
        n_steps: proposed moves of a walker from one sample to the next; None: one for each site.
        moves: kinds of moves, used in turn; () for `nqs.samplers.moves.default_moves`.
        n_discarded: rounds of the first block that is discarded before the first draw.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, heads=2, seed=0)
    >>> samples = MetropolisSampler(n_samples=1000, n_chains=100).build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_distinct, samples.r_hat < 1.5
    (1000, 35, True)
    """

    n_samples: int
    n_chains: int = 256
    n_steps: int | None = None
    moves: tuple[Moves, ...] = ()
    n_discarded: int = 16

    def __post_init__(self) -> None:
        for name in ("n_samples", "n_chains", "n_discarded"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1.")
        if self.n_steps is not None and self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps}: give at least 1, or None for one for each site.")
        if self.n_samples < self.n_chains:
            raise ValueError(
                f"n_samples={self.n_samples} of n_chains={self.n_chains}: each chain gives at least one sample."
            )
        object.__setattr__(self, "moves", tuple(self.moves))

    def build(self, wavefunction: Wavefunction) -> "MetropolisSampling":
        """Raises ValueError: fewer steps than kinds of moves."""
        return MetropolisSampling(self, wavefunction)


class Walkers:
    """Configurations of all chains with their amplitudes."""

    def __init__(self, n: UInt8[Tensor, "C L"], log_psi: LogPsi) -> None:
        self.n, self.log_modulus, self.phase = n, log_psi.log_modulus, log_psi.phase

    def move(self, accepted: Tensor, n: UInt8[Tensor, "C L"], log_psi: LogPsi) -> None:
        self.n = torch.where(accepted[:, None], n, self.n)
        self.log_modulus = torch.where(accepted, log_psi.log_modulus, self.log_modulus)
        self.phase = torch.where(accepted, log_psi.phase, self.phase)


class MetropolisSampling:
    """Metropolis sampling of one wavefunction.

    Attributes:
        walkers: last configurations of the chains, (C, L); None before the first draw.
    """

    def __init__(self, config: MetropolisSampler, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.hilbert = wavefunction.hilbert
        self.walkers: UInt8[Tensor, "C L"] | None = None
        self._moves = config.moves or default_moves(self.hilbert)
        self.n_steps = max(self.hilbert.n_sites, len(self._moves)) if config.n_steps is None else config.n_steps
        if self.n_steps < len(self._moves):
            raise ValueError(f"n_steps={self.n_steps} for {len(self._moves)} kinds of moves: give as many at least.")
        self._proposers: list[Proposer] = []
        self._proposed = self._accepted = 0.0

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """Samples of all chains and rounds, equal ones together; representatives of a symmetric state.

        Raises:
            ValueError: psi is zero on the walkers, or the walkers lie outside the sector.
        """
        config = self.config
        walkers = self._begun(generator)
        rounds = []
        self._proposed, self._accepted = 0.0, torch.zeros((), device=generator.device)
        for _ in range(math.ceil(config.n_samples / config.n_chains)):
            self._advance(walkers, generator)
            rounds.append((walkers.n, walkers.log_modulus, walkers.phase))
        self.walkers = walkers.n
        n, log_modulus, phase = (torch.stack(part) for part in zip(*rounds, strict=True))
        return samples_of_chains(self.wavefunction, n, log_modulus, phase, self.acceptance)

    @property
    def acceptance(self) -> float:
        """Fraction of the proposed moves of the last draw that were accepted."""
        return float(self._accepted / self._proposed) if self._proposed else math.nan

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.walkers is None else {"walkers": self.walkers}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError: walkers outside the sector, or of another number."""
        self.walkers = None
        if "walkers" in state:
            walkers = state["walkers"]
            self.hilbert.check(walkers)
            if len(walkers) != self.config.n_chains:
                raise ValueError(f"{len(walkers)} walkers were stored for n_chains={self.config.n_chains}.")
            self.walkers = walkers

    def _begun(self, generator: torch.Generator) -> Walkers:
        """The walkers on the device of the generator, thermalised; amplitudes of the present parameters."""
        device = generator.device
        if not self._proposers:
            self._proposers = [moves.build(self.hilbert, device) for moves in self._moves]
        if self.walkers is not None:
            n = self.walkers.to(device)
            return Walkers(n, log_psi_in_chunks(self.wavefunction, n))
        n = start(self.wavefunction, self.config.n_chains, generator)
        walkers = Walkers(n, log_psi_in_chunks(self.wavefunction, n))
        for block in range(BLOCKS):
            series = []
            for _ in range(self.config.n_discarded * 2**block):
                self._advance(walkers, generator)
                series.append(walkers.log_modulus)
            log_modulus = torch.stack(series)
            tau = autocorrelation_time(log_modulus[..., None]).item()
            if not drifts(log_modulus, STEADY) and not len(series) < LENGTH * tau:
                break
        return walkers

    def _advance(self, walkers: Walkers, generator: torch.Generator) -> None:
        """One round: n_steps proposed moves of every walker."""
        for step in range(self.n_steps):
            proposal = self._proposers[step % len(self._proposers)](walkers.n, generator)
            log_psi = log_psi_in_chunks(self.wavefunction, proposal.configurations)
            log_ratio = 2 * (log_psi.log_modulus - walkers.log_modulus) + proposal.log_ratio
            accepted = metropolis(log_ratio, generator)
            walkers.move(accepted, proposal.configurations, log_psi)
            self._proposed += len(accepted)
            self._accepted += accepted.sum()


def metropolis(log_ratio: Float64[Tensor, " C"], generator: torch.Generator) -> Tensor:
    """True with probability min(1, exp(log_ratio)); a ratio that is not a number is refused."""
    u = torch.rand(len(log_ratio), dtype=torch.float64, generator=generator, device=log_ratio.device)
    return u.log() < log_ratio


def start(wavefunction: Wavefunction, n_chains: int, generator: torch.Generator) -> UInt8[Tensor, "C L"]:
    """Random configurations of the sector on which psi is not zero.

    Raises:
        ValueError: none was found.
    """
    hilbert: HilbertSpace = wavefunction.hilbert
    n = hilbert.random(n_chains, generator)
    for _ in range(ATTEMPTS):
        log_modulus = log_psi_in_chunks(wavefunction, n).log_modulus
        possible = log_modulus.isfinite()
        if bool(possible.all()):
            return n
        n = torch.where(possible[:, None], n, hilbert.random(n_chains, generator))
    if not bool(possible.any()):
        raise ValueError(
            f"psi is zero, or not finite, on all {ATTEMPTS * n_chains:,} random configurations of {hilbert}: walkers "
            "need a state with psi != 0 where they start."
        )
    rows = possible.nonzero()[:, 0]
    return n[rows[torch.arange(n_chains, device=n.device) % len(rows)]]
