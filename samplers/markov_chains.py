"""What all Markov chain samplers have in common: walkers that are kept between draws, thermalisation, samples.

A sampler fills in how its walkers move. They go on from where they were when the parameters change. The first draw lets
them forget their random start: rounds are discarded, in blocks of doubled length, until log|psi| does not drift in a
block that is much longer than its autocorrelation time.
"""

# Shapes: C chains, T rounds, W walkers, L sites.
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.chains import autocorrelation_time, drifts
from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.options import check_fields
from nqs.samplers.correlated import samples_of_chains
from nqs.samples import Samples

BLOCKS = 6  # of discarded rounds at most, each twice as long as the one before
STEADY, LENGTH = 2.0, 4.0  # standard errors of the drift, and autocorrelation times, of the last one
ATTEMPTS = 64  # random configurations among which a walker finds one with psi != 0


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """Options of all Markov chain samplers.

    `nqs.recipes.chains(wavefunction, n_samples)` gives `MetropolisSampler` with the numbers of the recipes.

    Args:
        n_samples: number of samples, rounded up to a multiple of n_chains.
        n_chains: number of walkers.
        n_steps: moves of a walker from one sample to the next; None: chosen by the sampler.
        n_discarded: rounds of the first block that is discarded before the first draw.
    """

    n_samples: int
    n_chains: int
    n_steps: int | None = None
    n_discarded: int

    def __post_init__(self) -> None:
        check_fields(self, at_least=dict.fromkeys(("n_samples", "n_chains", "n_steps", "n_discarded"), 1))
        if self.n_samples < self.n_chains:
            raise ValueError(
                f"n_samples={self.n_samples} of n_chains={self.n_chains}: each chain gives at least one sample."
            )

    @property
    def max_distinct(self) -> int:
        return math.ceil(self.n_samples / self.n_chains) * self.n_chains

    @property
    def summary(self) -> str:
        return f"{self.n_samples:,} samples of {self.n_chains:,} Markov chains"


class Walkers:
    """Configurations of all walkers with their amplitudes."""

    def __init__(self, n: UInt8[Tensor, "W L"], log_psi: LogPsi) -> None:
        self.n, self.log_modulus, self.phase = n, log_psi.log_modulus, log_psi.phase

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.n, self.log_modulus, self.phase

    def move(self, accepted: Bool[Tensor, " W"], n: UInt8[Tensor, "W L"], log_psi: LogPsi) -> None:
        """Accepted walkers to other configurations with their amplitudes."""
        self.n = torch.where(accepted[:, None], n, self.n)
        self.log_modulus = torch.where(accepted, log_psi.log_modulus, self.log_modulus)
        self.phase = torch.where(accepted, log_psi.phase, self.phase)

    def overwrite(self, walkers: "Walkers") -> None:
        """Copy other walkers into the memory of these."""
        for own, given in zip(self.tensors, walkers.tensors, strict=True):
            own.copy_(given)


class MarkovChains(ABC):
    """Markov chains of one wavefunction.

    Attributes:
        walkers: last configurations, (W, L), those of the chains that are recorded first; None before the first draw.
        n_steps: moves of a walker in a round.
    """

    def __init__(self, config: ChainOptions, wavefunction: Wavefunction, n_steps: int, copies: int = 1) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.hilbert = wavefunction.hilbert
        self.n_steps = n_steps if config.n_steps is None else config.n_steps
        self.n_walkers = copies * config.n_chains
        self.walkers: UInt8[Tensor, "W L"] | None = None
        self._proposed, self._accepted = 0, torch.zeros((), dtype=torch.int64)

    @abstractmethod
    def step(self, walkers: Walkers, number: int, generator: torch.Generator) -> Bool[Tensor, " C"]:
        """Move `number` of a round; which of the recorded chains accepted theirs."""

    @abstractmethod
    def begin(self, device: torch.device) -> None:
        """Called before each draw: what depends on the device or on the present parameters."""

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """Samples of all chains and rounds, equal ones together; representatives of a symmetric state.

        Raises:
            ValueError: psi is zero where the walkers start.
        """
        config = self.config
        walkers = self._begun(generator)
        rounds = []
        self._proposed, self._accepted = 0, torch.zeros((), dtype=torch.int64, device=generator.device)
        for _ in range(math.ceil(config.n_samples / config.n_chains)):
            self._advance(walkers, generator)
            rounds.append([x[: config.n_chains] for x in walkers.tensors])
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
            if len(walkers) != self.n_walkers:
                raise ValueError(
                    f"{len(walkers)} walkers were stored for {self.n_walkers}: n_chains={self.config.n_chains}."
                )
            self.walkers = walkers

    def warm_start(self, state: dict[str, Tensor], generator: torch.Generator) -> None:
        """With the walkers, if they are as many; one draw is discarded, for they last moved with other parameters."""
        try:
            self.load_state_dict(state)
        except ValueError:  # another number of walkers: these start anew
            return
        if self.walkers is not None:
            self.sample(generator)

    def _begun(self, generator: torch.Generator) -> Walkers:
        """The walkers on the device of the generator, thermalised; amplitudes of the present parameters."""
        self.begin(generator.device)
        if self.walkers is not None:
            n = self.walkers.to(generator.device)
            return Walkers(n, log_psi_by_all_ranks(self.wavefunction, n))
        n = start(self.wavefunction, self.n_walkers, generator)
        walkers = Walkers(n, log_psi_by_all_ranks(self.wavefunction, n))
        self.thermalise(walkers, generator)
        return walkers

    def thermalise(self, walkers: Walkers, generator: torch.Generator) -> None:
        """Rounds until the walkers have forgotten their random start."""
        for block in range(BLOCKS):
            series = []
            for _ in range(self.config.n_discarded * 2**block):
                self._advance(walkers, generator)
                series.append(walkers.log_modulus[: self.config.n_chains])
            log_modulus = torch.stack(series)
            tau = autocorrelation_time(log_modulus[..., None]).item()
            if not drifts(log_modulus, STEADY) and not len(series) < LENGTH * tau:
                break

    def replayed(self, walkers: Walkers, generator: torch.Generator) -> tuple[int, Tensor | int]:
        """Make the first moves of a round in another way; their number, and how many the recorded chains accepted."""
        return 0, 0

    def _advance(self, walkers: Walkers, generator: torch.Generator) -> None:
        """One round."""
        first, accepted = self.replayed(walkers, generator)
        for number in range(first, self.n_steps):
            accepted = accepted + self.step(walkers, number, generator).sum()
        self._proposed += self.n_steps * self.config.n_chains
        self._accepted = self._accepted + accepted


def metropolis(log_ratio: Float64[Tensor, " W"], generator: torch.Generator) -> Bool[Tensor, " W"]:
    """True with probability min(1, exp(log_ratio)); a ratio that is not a number is refused."""
    u = torch.rand(len(log_ratio), dtype=torch.float64, generator=generator, device=log_ratio.device)
    return u.log() < log_ratio


def start(wavefunction: Wavefunction, n_walkers: int, generator: torch.Generator) -> UInt8[Tensor, "W L"]:
    """Configurations of the sector on which psi is not zero, as the wavefunction gives them, or random ones.

    Raises:
        ValueError: none was found.
    """
    hilbert: HilbertSpace = wavefunction.hilbert
    n = wavefunction.initial_configurations(n_walkers, generator)
    for _ in range(ATTEMPTS):
        possible = log_psi_by_all_ranks(wavefunction, n).log_modulus.isfinite()
        if bool(possible.all()):
            return n
        n = torch.where(possible[:, None], n, hilbert.random(n_walkers, generator))
    if not bool(possible.any()):
        raise ValueError(
            f"psi is zero, or not finite, on all {ATTEMPTS * n_walkers:,} random configurations of {hilbert}: walkers "
            "need a state with psi != 0 where they start."
        )
    rows = possible.nonzero()[:, 0]
    return n[rows[torch.arange(n_walkers, device=n.device) % len(rows)]]
