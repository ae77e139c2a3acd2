"""Markov chains that draw the last sites, or all of them, anew from an autoregressive proposal.

From a first site that does not depend on the walker all sites are drawn from the proposal q (nqs.samplers.proposal),
and accepted with

    min(1, |psi(n')|^2 q(n) / (|psi(n)|^2 q(n'))),

since the conditionals of the sites before the first one are the same in both directions. From the first site of all on
this is independence Metropolis (Tierney, Ann. Stat. 22, 1701 (1994); Nicoli et al., Phys. Rev. E 101, 023304 (2020),
arXiv:1910.13496). With a random first site it is QUEST (Faria et al., NeurIPS (2024), arXiv:2406.00049), which keeps
the sites before and is accepted more often. Where psi is autoregressive and proposes for itself, every move is
accepted, and a walker that was drawn anew is independent.
"""

# Shapes: C chains, L sites.
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.protocols import Wavefunction
from nqs.samplers.markov_chains import ChainOptions, MarkovChains, Walkers, metropolis
from nqs.samplers.proposal import Proposal
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class IndependenceSampler(ChainOptions):
    """Independence Metropolis: every move draws all sites from the proposal, by default one move between two samples.

    Args:
        n_samples, n_chains, n_steps, n_discarded: as in `ChainOptions`.
        proposal: an autoregressive model; by default the wavefunction itself.

    >>> from nqs.hilbert import bosons
    >>> from nqs.models import Transformer
    >>> model = Transformer(bosons(4, 4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> sampler = IndependenceSampler(n_samples=1000, n_chains=100, n_discarded=16, proposal=Proposal(power=0.5))
    >>> samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.acceptance > 0.5
    (1000, True)
    """

    proposal: Proposal = field(default_factory=Proposal)

    def build(self, wavefunction: Wavefunction) -> "Regeneration":
        """Raises TypeError: the proposal is not autoregressive."""
        return Regeneration(self, wavefunction, random_site=False)


@dataclass(frozen=True, kw_only=True)
class QuestSampler(ChainOptions):
    """QUEST: every move draws the sites from a random one on; arguments as in `IndependenceSampler`."""

    proposal: Proposal = field(default_factory=Proposal)

    def build(self, wavefunction: Wavefunction) -> "Regeneration":
        """Raises TypeError: the proposal is not autoregressive."""
        return Regeneration(self, wavefunction, random_site=True)


class Regeneration(MarkovChains):
    """Chains of one wavefunction that draw their last sites anew."""

    config: IndependenceSampler | QuestSampler

    def __init__(
        self, config: IndependenceSampler | QuestSampler, wavefunction: Wavefunction, *, random_site: bool
    ) -> None:
        super().__init__(config, wavefunction, n_steps=1)
        self.proposal = config.proposal.build(wavefunction)
        self.random_site = random_site
        self._log_q: Float64[Tensor, "C L"] | None = None

    def begin(self, device: torch.device) -> None:
        self._log_q = None  # the proposal, or psi, has changed

    def step(self, walkers: Walkers, number: int, generator: torch.Generator) -> Bool[Tensor, " C"]:
        log_q = self._known(walkers) if self._log_q is None else self._log_q
        first = 0
        if self.random_site:
            sites = self.hilbert.n_sites
            first = int(torch.randint(sites, (), generator=generator, device=walkers.n.device))
        n, log_there = self.proposal.draw(walkers.n, log_q, first, generator)
        log_psi = log_psi_by_all_ranks(self.wavefunction, n)
        log_ratio = 2 * (log_psi.log_modulus - walkers.log_modulus) + (log_q - log_there).sum(1)
        accepted = metropolis(log_ratio, generator)
        walkers.move(accepted, n, log_psi)
        self._log_q = torch.where(accepted[:, None], log_there, log_q)
        return accepted

    def thermalise(self, walkers: Walkers, generator: torch.Generator) -> None:
        """Trains the proposal on the walkers while they forget their start."""
        weights = walkers.log_modulus.new_full((len(walkers.n),), 1 / len(walkers.n))
        for _ in range(self.proposal.n_first):
            self._advance(walkers, generator)
            self.proposal.train(walkers.n, weights, 1)
            self._log_q = None
        super().thermalise(walkers, generator)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        """As `MarkovChains.sample`; the proposal is trained on the walkers afterwards."""
        samples = super().sample(generator)
        if self.walkers is not None:
            weights = torch.full((len(self.walkers),), 1 / len(self.walkers), dtype=torch.float64)
            self.proposal.train(self.walkers, weights.to(self.walkers.device), self.proposal.n_updates)
        return samples

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | self.proposal.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.proposal.load_state_dict(state)

    def _known(self, walkers: Walkers) -> Float64[Tensor, "C L"]:
        """Logarithms of the conditionals at the walkers.

        Raises:
            ValueError: the proposal never gives a configuration with psi != 0.
        """
        log_q = self.proposal.log_q(walkers.n)
        never = (log_q.sum(1) == -torch.inf).nonzero()[:, 0]
        if len(never):
            raise ValueError(
                f"the proposal {type(self.proposal.model).__name__} has probability 0 at n = "
                f"{walkers.n[never[0]].tolist()}, where psi is not 0: it must reach the whole sector."
            )
        return log_q
