"""Norm-constrained gradient proposals (p-NCG): all sites move at once, towards larger |psi|^2.

With f = log|psi|^2 a walker at n proposes n' from

    q(n'|n) ~ exp( [f(n') - f(n)]_1 / 2 - |n' - n|_p^p / (2 epsilon) ),    p = 1 or 2,

where [..]_1 is of first order in the change, so that q is a product over sites. Rhodes and Gutmann, Enhanced
gradient-based MCMC in discrete spaces (2022), arXiv:2208.00040. Where charges are conserved, the sites are paired at
random in each step, and q is a product over pairs, each of which keeps its charges: the sector is never left. The
change of f is that of the gradient of the wavefunction with respect to one-hot occupations, where it has one
(`relaxed_log_modulus`), else the exact difference for every change of a single site or pair.

The factors 1 / 2 and 1 / (2 epsilon) are those of the paper, but n is measured in charges, not by a code of the states:
a boson more changes |n' - n|_p^p by 1, an electron by 1 (each spin is a charge of its own), a flip of a spin 1/2,
whose 2 Sz is +-1, by 2^p. For variables 0 and 1, where a flip counts 1, the same proposal has epsilon / 2^p. States of
equal charges are 1 apart. Pairs of sites and exact differences are no part of the paper.

The multiple-try version draws M candidates n_i, chooses one with a probability proportional to a weight w(n_i|n), draws
M - 1 candidates from there, and accepts with the probability that keeps |psi|^2 stationary for any positive w. Liu,
Liang, Wong, J. Am. Stat. Assoc. 95, 121 (2000); Pandolfi, Bartolucci, Friel, AISTATS (2010):

    constant      1
    importance    |psi(n_i)|^2 / q(n_i|n)
    target        |psi(n_i)|^2 q(n|n_i)
    balanced      sqrt( |psi(n_i)|^2 q(n|n_i) / (|psi(n)|^2 q(n_i|n)) )    Chang et al. (2022), arXiv:2207.00689
"""

# Shapes: B walkers, M tries, L sites, d local states, G groups of k sites, D = d^k combined states of a group.
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.distributed import communicator
from nqs.runtime.options import check_fields
from nqs.samplers.markov_chains import ChainOptions, MarkovChains, Walkers, metropolis
from nqs.samplers.moves import Redraw, is_hard

Weighting = Literal["constant", "importance", "target", "balanced"]


@dataclass(frozen=True, kw_only=True)
class NormConstrainedSampler(ChainOptions):
    """Markov chains with norm-constrained gradient proposals, one step from sample to sample by default.

    Args:
        n_samples, n_chains, n_steps, n_discarded: as in `ChainOptions`.
        step_size: epsilon; larger ones change more sites at once. The best one differs by state (docs/samplers.md: 2 to
            128).
        p: 1 or 2, the norm of a change of the charges on a site.
        n_tries: M; 1 for plain Metropolis-Hastings.
        weighting: w of several tries.

    >>> from nqs.hilbert import spins
    >>> from nqs.models import Transformer
    >>> model = Transformer(spins(4), width=8, layers=2, heads=2, mlp_ratio=2)
    >>> sampler = NormConstrainedSampler(
    ...     n_samples=1000, n_chains=100, n_discarded=16, step_size=10.0, p=2, n_tries=4
    ... )
    >>> samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    >>> samples.n_samples, samples.n_distinct
    (1000, 16)
    """

    step_size: float
    p: int
    n_tries: int = 1
    weighting: Weighting = "balanced"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("step_size",), at_least={"n_tries": 1})
        if self.p not in (1, 2):
            raise ValueError(f"p={self.p}: choose 1 or 2.")

    def build(self, wavefunction: Wavefunction) -> "NormConstrainedSampling":
        """Raises ValueError: fewer steps than kinds of moves."""
        return NormConstrainedSampling(self, wavefunction)


class Groups:
    """Single sites, or pairs of sites where charges are conserved, and what they can change to."""

    def __init__(self, hilbert: HilbertSpace, p: int, device: torch.device) -> None:
        L, d = hilbert.n_sites, hilbert.local_dim
        conserved = [charge for charge in hilbert.charges if charge.target is not None]
        self.hilbert, self.k = hilbert, min(2 if conserved else 1, L)
        self.charges = [
            (torch.tensor(hilbert.table(charge.values).copy(), device=device), charge.modulus) for charge in conserved
        ]
        self.exists = torch.arange(d, device=device) < torch.tensor(hilbert.local_dims, device=device)[:, None]
        distance = torch.zeros((L, d, d), dtype=torch.float64, device=device)
        for charge in hilbert.charges:
            values = torch.tensor(hilbert.table(charge.values).copy(), device=device).double()
            distance += (values[:, :, None] - values[:, None, :]).abs() ** p
        different = ~torch.eye(d, dtype=torch.bool, device=device)
        self.distance = torch.where(different & (distance == 0), 1.0, distance)  # (L, d, d)
        states = torch.cartesian_prod(*self.k * [torch.arange(d, device=device)])
        self.states = states.view(d**self.k, self.k)  # (D, k)
        self.powers = torch.tensor([d**j for j in reversed(range(self.k))], device=device)

    def random(self, generator: torch.Generator) -> Int64[Tensor, "G k"]:
        """All sites, at random in groups; what is left over stays as it is."""
        L = self.hilbert.n_sites
        if self.k == 1:
            return torch.arange(L, device=generator.device)[:, None]
        return torch.randperm(L, generator=generator, device=generator.device)[: L - L % self.k].view(-1, self.k)

    def codes(self, n: UInt8[Tensor, "B L"], groups: Int64[Tensor, "G k"]) -> Int64[Tensor, "B G"]:
        """Combined local state of every group."""
        return (n[:, groups].long() * self.powers).sum(-1)

    def allowed(self, codes: Int64[Tensor, "B G"], groups: Int64[Tensor, "G k"]) -> Bool[Tensor, "B G D"]:
        """Combined states with the same charges."""
        place = torch.arange(self.k, device=codes.device)
        exist = self.exists[groups][:, place, self.states].all(-1)  # (G, D)
        allowed = exist.expand(len(codes), -1, -1)
        for values, modulus in self.charges:
            total = values[groups][:, place, self.states].sum(-1)  # (G, D)
            difference = total - total.expand(len(codes), -1, -1).gather(2, codes[..., None])
            allowed = allowed & ((difference if modulus is None else difference % modulus) == 0)
        return allowed

    def norm(self, codes: Int64[Tensor, "B G"], groups: Int64[Tensor, "G k"]) -> Float64[Tensor, "B G D"]:
        """|n' - n|_p^p of every change."""
        place = torch.arange(self.k, device=codes.device)
        now = self.states[codes]  # (B, G, k)
        rows = self.distance[groups, now]  # (B, G, k, d)
        return rows[:, :, place, self.states].sum(-1)

    def changed(
        self, n: UInt8[Tensor, "B L"], groups: Int64[Tensor, "G k"], codes: Int64[Tensor, "B G"]
    ) -> UInt8[Tensor, "B L"]:
        """The configurations with other combined states."""
        states = self.states[codes].flatten(1).to(torch.uint8)
        return n.scatter(1, groups.flatten().expand(len(n), -1), states)


class NormConstrainedSampling(MarkovChains):
    """Chains of one wavefunction with norm-constrained gradient proposals."""

    config: NormConstrainedSampler

    def __init__(self, config: NormConstrainedSampler, wavefunction: Wavefunction) -> None:
        hard = is_hard(wavefunction.hilbert)
        super().__init__(config, wavefunction, n_steps=2 if hard else 1)
        self._redraw = Redraw() if hard else None
        if hard and self.n_steps < 2:
            raise ValueError(
                f"n_steps={self.n_steps}: give at least 2 in this sector, where every other step draws sites anew."
            )

    def begin(self, device: torch.device) -> None:
        self._groups = Groups(self.hilbert, self.config.p, device)

    def step(self, walkers: Walkers, number: int, generator: torch.Generator) -> Bool[Tensor, " C"]:
        if self._redraw is not None and number % 2:
            proposal = self._redraw.build(self.hilbert, walkers.n.device)(walkers.n, generator)
            log_psi = log_psi_by_all_ranks(self.wavefunction, proposal.configurations)
            accepted = metropolis(2 * (log_psi.log_modulus - walkers.log_modulus), generator)
            walkers.move(accepted, proposal.configurations, log_psi)
            return accepted
        groups = self._groups.random(generator)
        there = self._proposal(walkers.n, walkers.log_modulus, groups)
        tries = self._draw(walkers.n, walkers.log_modulus, there, groups, self.config.n_tries, generator)
        chosen = tries.chosen(generator)
        n = tries.n.gather(1, chosen[:, :, None].expand(-1, -1, tries.n.shape[2]))[:, 0]
        log_psi = LogPsi(tries.log_modulus.gather(1, chosen)[:, 0], tries.phase.gather(1, chosen)[:, 0])
        back = self._proposal(n, log_psi.log_modulus, groups)
        references = self._draw(n, log_psi.log_modulus, back, groups, self.config.n_tries - 1, generator)
        log_there = tries.log_q.gather(1, chosen)[:, 0]
        log_back = log_probability(back, self._groups.codes(walkers.n, groups)[:, None])[:, 0]
        f, f_there = 2 * walkers.log_modulus, 2 * log_psi.log_modulus
        log_ratio = f_there + log_back - f - log_there
        if self.config.n_tries > 1:
            w_there = tries.log_weight.gather(1, chosen)[:, 0]
            w_back = self._weight(f_there[:, None], f[:, None], log_back[:, None], log_there[:, None])
            all_back = torch.cat([references.log_weight, w_back], dim=1)
            log_ratio += w_back[:, 0] - all_back.logsumexp(1) - w_there + tries.log_weight.logsumexp(1)
        accepted = metropolis(log_ratio, generator)
        walkers.move(accepted, n, log_psi)
        return accepted

    def _proposal(
        self, n: UInt8[Tensor, "B L"], log_modulus: Float64[Tensor, " B"], groups: Int64[Tensor, "G k"]
    ) -> Float64[Tensor, "B G D"]:
        """log q of every combined state of every group."""
        codes = self._groups.codes(n, groups)
        allowed = self._groups.allowed(codes, groups)
        change = self._change(n, log_modulus, codes, allowed, groups)
        logits = change / 2 - self._groups.norm(codes, groups) / (2 * self.config.step_size)
        return logits.masked_fill(~allowed, -math.inf).log_softmax(-1)

    def _change(
        self,
        n: UInt8[Tensor, "B L"],
        log_modulus: Float64[Tensor, " B"],
        codes: Int64[Tensor, "B G"],
        allowed: Bool[Tensor, "B G D"],
        groups: Int64[Tensor, "G k"],
    ) -> Float64[Tensor, "B G D"]:
        """Change of log|psi|^2 with each combined state of a group: by the gradient, or exact."""
        relaxed = getattr(self.wavefunction, "relaxed_log_modulus", None)
        if relaxed is not None:
            d = self.hilbert.local_dim
            ranks = communicator()
            with torch.enable_grad():
                x = torch.nn.functional.one_hot(n[ranks.share(len(n))].long(), d).double().requires_grad_()
                (gradient,) = torch.autograd.grad(2 * relaxed(x).sum(), x)  # (B, L, d)
            (gradient,) = ranks.gather(gradient, number=len(n))
            change = gradient - gradient.gather(2, n.long()[..., None])
            place = torch.arange(self._groups.k, device=n.device)
            return change[:, groups][:, :, place, self._groups.states].sum(-1)
        other = allowed.scatter(2, codes[..., None], value=False)
        row, group, code = other.nonzero().T
        moved = n[row].scatter(1, groups[group], self._groups.states[code].to(torch.uint8))
        found = torch.full((len(row),), -math.inf, dtype=torch.float64, device=n.device)
        inside = self.hilbert.contains(moved) if self.hilbert.exclusions else torch.ones_like(row, dtype=torch.bool)
        found[inside] = log_psi_by_all_ranks(self.wavefunction, moved[inside]).log_modulus
        change = torch.zeros(allowed.shape, dtype=torch.float64, device=n.device)
        now = torch.where(log_modulus.isfinite(), log_modulus, 0.0)  # candidates outside the sector are refused anyway
        change[row, group, code] = 2 * (found - now[row])
        return change

    def _draw(
        self,
        n: UInt8[Tensor, "B L"],
        log_modulus: Float64[Tensor, " B"],
        log_q: Float64[Tensor, "B G D"],
        groups: Int64[Tensor, "G k"],
        number: int,
        generator: torch.Generator,
    ) -> "Tries":
        """Candidates with their weights."""
        B, L = n.shape
        G, D = log_q.shape[1:]
        if not number:
            nothing = log_modulus.new_zeros((B, 0))
            return Tries(n.new_zeros((B, 0, L)), nothing, nothing, nothing, nothing)
        codes = torch.multinomial(log_q.exp().view(B * G, D), number, replacement=True, generator=generator)
        codes = codes.view(B, G, number).transpose(1, 2)  # (B, M, G)
        moved = self._groups.changed(n.repeat_interleave(number, 0), groups, codes.flatten(0, 1))
        found = log_psi_by_all_ranks(self.wavefunction, moved)
        if self.hilbert.exclusions:
            found = LogPsi(found.log_modulus.masked_fill(~self.hilbert.contains(moved), -math.inf), found.phase)
        log_there = log_probability(log_q, codes)
        log_back = torch.zeros_like(log_there)
        if number > 1 and self.config.weighting in ("target", "balanced"):
            back = self._proposal(moved, found.log_modulus, groups)
            now = self._groups.codes(n, groups).repeat_interleave(number, 0)
            log_back = log_probability(back, now[:, None])[:, 0].view(B, number)
        f = 2 * found.log_modulus.view(B, number)
        weight = self._weight(2 * log_modulus[:, None], f, log_there, log_back)
        return Tries(moved.view(B, number, L), f / 2, found.phase.view(B, number), log_there, weight)

    def _weight(
        self,
        f: Float64[Tensor, "B 1"],
        f_there: Float64[Tensor, "B M"],
        log_there: Float64[Tensor, "B M"],
        log_back: Float64[Tensor, "B M"],
    ) -> Float64[Tensor, "B M"]:
        """log w(n'|n)."""
        if self.config.weighting == "constant":
            return torch.zeros_like(f_there)
        if self.config.weighting == "importance":
            return f_there - log_there
        target = f_there + log_back
        return target if self.config.weighting == "target" else (target - f - log_there) / 2


class Tries:
    """Candidates of every walker with their amplitudes, log q and log w."""

    def __init__(
        self,
        n: UInt8[Tensor, "B M L"],
        log_modulus: Float64[Tensor, "B M"],
        phase: Float64[Tensor, "B M"],
        log_q: Float64[Tensor, "B M"],
        log_weight: Float64[Tensor, "B M"],
    ) -> None:
        self.n, self.log_modulus, self.phase, self.log_q, self.log_weight = n, log_modulus, phase, log_q, log_weight

    def chosen(self, generator: torch.Generator) -> Int64[Tensor, "B 1"]:
        """One candidate of each walker, by weight."""
        w = (self.log_weight - self.log_weight.amax(1, keepdim=True)).exp().nan_to_num(1.0)  # nan: all are impossible
        return torch.multinomial(w, 1, generator=generator)


def log_probability(log_q: Float64[Tensor, "B G D"], codes: Int64[Tensor, "B M G"]) -> Float64[Tensor, "B M"]:
    """log q of changes of all groups together."""
    return log_q.gather(2, codes.transpose(1, 2)).sum(1)
