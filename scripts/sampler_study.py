"""Samplers side by side on targets that can be enumerated.

    python scripts/sampler_study.py                      all targets and samplers, 30 trials of 1,000 steps
    python scripts/sampler_study.py --tune               the step size of gradient proposals is tuned for each target
    python scripts/sampler_study.py --targets ising-8 --trials 10 --steps 200
    python scripts/sampler_study.py --samplers importance SMC    samplers whose names begin so
    python scripts/sampler_study.py --tree               time of the tree sampler from 1e4 to 1e18 samples
    python scripts/sampler_study.py --memory 1000000     peak memory of the tree sampler, so many configurations
    python scripts/sampler_study.py --proposals --trials 200 --steps 50   autoregressive proposals for a determinant

Targets: Ising-like distributions log p(x) = x J x / 2 + h x + const of 4, 8 and 16 spins x = +-1 with normal couplings
of the scale --coupling, whose gradient the samplers may use; and exact ground states of three Hamiltonians. All of them
are tables, so that every sampler is compared with the exact distribution, and none pays for a network. The trials are
chains that run side by side; each starts from a draw of the target and makes one step from sample to sample (two steps
for bosons, whose local moves take turns with redrawn ends). The table gives means and standard deviations over the
trials:

    TV            total variation distance of the samples of one trial to the target
    acceptance    of the moves
    tau           autocorrelation time in steps, the longest one of log|psi| and the sites (nqs.samplers.correlated); of
                  weighted particles half the number of those that count as one (nqs.islands), weights left aside
    effective/s   effective number of samples of all trials in a second
    seconds       of all trials together
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from nqs import exact
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import bosons, spins
from nqs.lattice import chain, square
from nqs.models import DeterminantConfig, TransformerConfig
from nqs.protocols import Hamiltonian, SamplerConfig, Wavefunction
from nqs.samplers import (
    ImportanceSampler,
    IndependenceSampler,
    MetropolisSampler,
    NormConstrainedSampler,
    Proposal,
    QuestSampler,
    SequentialSampler,
    TreeSampler,
)
from nqs.samplers.markov_chains import MarkovChains
from nqs.samplers.moves import is_hard
from nqs.samples import Samples
from nqs.scripts.benchmark import peak_memory
from nqs.scripts.interval_coverage import AutoregressiveTable

STEP_SIZES = (2.0, 8.0, 32.0, 128.0)
TRIES = (4, 8, 16, 32)
PILOT = 100  # steps of a tuning run


class IsingTable(AutoregressiveTable):
    """An Ising-like distribution of free spins, with its gradient."""

    def __init__(self, n_sites: int, coupling: float, seed: int = 0) -> None:
        hilbert, rng = spins(n_sites), np.random.default_rng(seed)
        J = torch.from_numpy(coupling * rng.standard_normal((n_sites, n_sites)) / math.sqrt(n_sites))
        h = torch.from_numpy(0.3 * coupling * rng.standard_normal(n_sites))
        x = 2 * hilbert.configurations().double() - 1
        super().__init__(hilbert, (log_p(J, h, x) / 2).exp().numpy())
        self.J, self.h = J, h

    def relaxed_log_modulus(self, one_hot: Tensor) -> Tensor:
        """Log modulus, up to a constant, as a smooth function of one-hot occupations (B, L, 2)."""
        return log_p(self.J, self.h, one_hot[..., 1] - one_hot[..., 0]) / 2


def log_p(J: Tensor, h: Tensor, x: Tensor) -> Tensor:
    """x J x / 2 + h x."""
    return torch.einsum("bi,ij,bj->b", x, J, x) / 2 + x @ h


def targets(coupling: float) -> dict[str, AutoregressiveTable]:
    """All targets by name."""
    physical: dict[str, Hamiltonian] = {
        "Heisenberg 10": Heisenberg(chain(10), total_sz=0),
        "Bose-Hubbard 6, U=4": BoseHubbard(chain(6), 6, U=4.0),
        "Hubbard 6, 3+3, U=8": FermiHubbard(chain(6), 3, 3, U=8.0),
    }
    found: dict[str, AutoregressiveTable] = {f"ising-{L}": IsingTable(L, coupling) for L in (4, 8, 16)}
    return found | {name: AutoregressiveTable(h.hilbert, exact.ground_state(h).state) for name, h in physical.items()}


def samplers(trials: int, steps: int, n_steps: int = 1) -> dict[str, SamplerConfig]:
    """All samplers by name; n_steps from sample to sample."""
    chains: dict[str, Any] = {"n_samples": trials * steps, "n_chains": trials, "n_steps": n_steps, "n_discarded": 16}
    gradient: dict[str, Any] = chains | {"step_size": 4.0, "p": 2}
    particles: dict[str, Any] = {"n_samples": trials * steps, "n_islands": trials, "n_effective": 1, "n_batches": 1}
    flat = Proposal(power=0.5)
    return {
        "Metropolis": MetropolisSampler(**chains),
        "tempering, 4 powers": MetropolisSampler(**chains, powers=(1, 0.7, 0.4, 0.1)),
        "NCG, p=1": NormConstrainedSampler(**(gradient | {"p": 1})),
        "NCG, p=2": NormConstrainedSampler(**gradient),
        **{f"NCG, p=2, {M} tries": NormConstrainedSampler(**gradient, n_tries=M) for M in TRIES},
        "NCG, p=2, 8 tries, constant": NormConstrainedSampler(**gradient, n_tries=8, weighting="constant"),
        "NCG, p=2, 8 tries, importance": NormConstrainedSampler(**gradient, n_tries=8, weighting="importance"),
        "QUEST, own conditionals": QuestSampler(**chains),
        "QUEST, conditionals^0.5": QuestSampler(**chains, proposal=flat),
        "independence, conditionals^0.5": IndependenceSampler(**chains, proposal=flat),
        "importance, conditionals^0.5": SequentialSampler(**particles, resample_below=0.0, proposal=flat),
        "SMC, conditionals^0.5": SequentialSampler(**particles, resample_below=0.5, proposal=flat),
        "SMC, conditionals^0.5, resampled at every site": SequentialSampler(
            **particles, resample_below=1.0, proposal=flat
        ),
        "autoregressive": TreeSampler(n_samples=trials * steps),
    }


class Found(NamedTuple):
    """One row of the table."""

    variation: tuple[float, float]
    acceptance: float
    tau: float
    rate: float
    seconds: float


def measured(sampler: SamplerConfig, psi: Wavefunction, trials: int, seed: int) -> Found:
    """Numbers of one sampler on one target."""
    generator = torch.Generator().manual_seed(seed)
    sampling = sampler.build(psi)
    p = (2 * psi.log_psi(psi.hilbert.configurations()).log_modulus).exp()
    if isinstance(sampling, MarkovChains):
        rows = torch.multinomial(p, sampling.n_walkers, replacement=True, generator=generator)
        sampling.load_state_dict({"walkers": psi.hilbert.configurations()[rows]})
    begin = time.perf_counter()
    samples = sampling.sample(generator)
    seconds = time.perf_counter() - begin
    variations = [abs(weights - p.numpy()).sum() / 2 for weights in of_trials(samples, psi, trials, seed)]
    return Found(
        variation=(float(np.mean(variations)), float(np.std(variations))),
        acceptance=1.0 if samples.acceptance is None else samples.acceptance,
        tau=samples.correlation / 2,
        rate=samples.n_effective / seconds,
        seconds=seconds,
    )


def of_trials(samples: Samples, psi: Wavefunction, trials: int, seed: int) -> list[np.ndarray]:
    """The distribution sampled by every trial, (dimension,) each; of islands of particles by each
    island; independent samples are dealt to the trials."""
    rank = psi.hilbert.rank(samples.configurations).numpy()
    if samples.islands is not None:
        islands = zip(samples.islands.rows.numpy(), samples.islands.weights.numpy(), strict=True)
        return [np.bincount(rank[rows], w / w.sum(), minlength=psi.hilbert.dimension) for rows, w in islands]
    if samples.chains is not None:
        rows = samples.chains.numpy()
    else:
        assert samples.counts is not None
        every = np.repeat(np.arange(samples.n_distinct), samples.counts.numpy())
        rows = np.random.default_rng(seed).permutation(every).reshape(-1, trials)
    return [np.bincount(rank[column], minlength=psi.hilbert.dimension) / len(column) for column in rows.T]


def tuned(sampler: NormConstrainedSampler, psi: Wavefunction, trials: int, seed: int) -> NormConstrainedSampler:
    """With the step size of the largest effective number of samples in a pilot run."""
    short = replace(sampler, n_samples=trials * PILOT)
    choices = [replace(short, step_size=size) for size in STEP_SIZES]
    best = min(choices, key=lambda choice: measured(choice, psi, trials, seed).tau)
    return replace(sampler, step_size=best.step_size)


def tree_times(repetitions: int = 5) -> None:
    """Time of the tree sampler at a fixed number of distinct configurations."""
    model = TransformerConfig(width=32, layers=2, heads=4, mlp_ratio=2).build(bosons(8, 6))
    print("| samples | distinct | seconds |\n|---|---|---|")
    for power in range(4, 19, 2):
        sampling, generator = TreeSampler(n_samples=10**power).build(model), torch.Generator().manual_seed(0)
        seconds = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            samples = sampling.sample(generator)
            seconds.append(time.perf_counter() - begin)
        print(f"| 1e{power} | {samples.n_distinct} | {min(seconds):.4f} |", flush=True)


def tree_memory(n_samples: int) -> None:
    """Peak memory of a draw on a 64-site chain whose samples are all distinct, above that of the program."""
    model = TransformerConfig(width=8, layers=1, heads=2, mlp_ratio=2, phase="zero").build(spins(64, 0))
    generator = torch.Generator().manual_seed(0)
    TreeSampler(n_samples=100).build(model).sample(generator)
    before, begin = peak_memory(torch.device("cpu")), time.process_time()
    samples = TreeSampler(n_samples=n_samples).build(model).sample(generator)
    seconds, taken = time.process_time() - begin, peak_memory(torch.device("cpu")) - before
    print(f"{samples.n_distinct:,} distinct: {taken / 2**30:.2f} GiB, {seconds:.0f} s of CPU time")


def proposal_times(walkers: int, rounds: int, first: int, names: Sequence[str]) -> None:
    """Local moves against autoregressive proposals, trained alongside, for one determinant with backflow."""
    hamiltonian = FermiHubbard(square(4, 4), 5, 5, U=8.0)
    psi = DeterminantConfig(width=16, layers=1, mlp_ratio=2, correction=0.01).build(hamiltonian.hilbert)
    chains: dict[str, Any] = {"n_samples": walkers * rounds, "n_chains": walkers, "n_discarded": 16}
    network = TransformerConfig(width=32, layers=2, heads=4, mlp_ratio=2)
    proposal = Proposal(model=network, n_first=first, n_updates=5, learning_rate=3e-3)
    compared: dict[str, SamplerConfig] = {
        "Metropolis": MetropolisSampler(**chains),
        "independence": IndependenceSampler(**chains, proposal=proposal),
        "QUEST": QuestSampler(**chains, proposal=proposal),
        "importance": ImportanceSampler(n_samples=walkers * rounds, n_batches=1, proposal=proposal),
        "importance, conditionals^0.7": ImportanceSampler(
            n_samples=walkers * rounds, n_batches=1, proposal=replace(proposal, power=0.7)
        ),
        "SMC, conditionals^0.7": SequentialSampler(
            n_samples=walkers * rounds,
            n_batches=1,
            n_islands=max(8, min(32, walkers * rounds // 2)),
            resample_below=0.8,
            proposal=replace(proposal, power=0.7),
        ),
    }
    print("| sampler | acceptance | tau | effective | effective/s | seconds, first draw |\n|---|---|---|---|---|---|")
    for name, sampler in compared.items():
        if not name.startswith(tuple(names)):
            continue
        sampling, generator = sampler.build(psi), torch.Generator().manual_seed(0)
        begin = time.perf_counter()
        sampling.sample(generator)
        middle = time.perf_counter()
        samples = sampling.sample(generator)
        seconds = time.perf_counter() - middle
        acceptance = "-" if samples.acceptance is None else f"{samples.acceptance:.3f}"
        print(
            f"| {name} | {acceptance} | {samples.correlation / 2:.1f} | {samples.n_effective:,.0f} | "
            f"{samples.n_effective / seconds:,.1f} | {middle - begin:.1f} |",
            flush=True,
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    trials: int = 30
    steps: int = 1_000  # of each trial
    targets: tuple[str, ...] = ()  # all by default
    coupling: float = 1.5  # scale of the Ising-like couplings
    tune: bool = False  # tune the step size of gradient proposals
    samplers: tuple[str, ...] = ("",)  # beginnings of their names; all by default
    tree: bool = False  # times of the tree sampler instead
    memory: int = 0  # peak memory of the tree sampler instead, for so many samples of a 64-site chain
    proposals: bool = False  # proposals for a determinant instead: `trials` walkers and `steps` rounds
    first: int = 500  # updates of the proposal before its first draw
    seed: int = 0


def main(config: Config) -> int:
    torch.set_num_threads(1)
    if config.tree:
        tree_times()
        return 0
    if config.memory:
        tree_memory(config.memory)
        return 0
    if config.proposals:
        proposal_times(config.trials, config.steps, config.first, config.samplers)
        return 0
    every = targets(config.coupling)
    unknown = [name for name in config.targets if name not in every]
    if unknown:
        raise SystemExit(f"error: no target {unknown[0]!r}: choose among {', '.join(every)}.")
    print("| target | sampler | TV | acceptance | tau | effective/s | seconds |\n|---|---|---|---|---|---|---|")
    for name in config.targets or every:
        psi = every[name]
        n_steps = 2 if is_hard(psi.hilbert) else 1  # local moves and redrawn ends in turn
        for label, sampler in samplers(config.trials, config.steps, n_steps).items():
            if not label.startswith(config.samplers):
                continue
            used = sampler
            if config.tune and isinstance(sampler, NormConstrainedSampler):
                used = tuned(sampler, psi, config.trials, config.seed)
            found = measured(used, psi, config.trials, config.seed)
            size = f", step size {used.step_size:g}" if isinstance(used, NormConstrainedSampler) else ""
            mean, deviation = found.variation
            print(
                f"| {name} | {label}{size} | {mean:.3f} ± {deviation:.3f} | {found.acceptance:.2f} | {found.tau:.1f} | "
                f"{found.rate:,.0f} | {found.seconds:.1f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
