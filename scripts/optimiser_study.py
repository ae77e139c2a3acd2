"""Momentum and second moments of the natural gradient (SPRING, MARCH) side by side at equal CPU time.

    python scripts/optimiser_study.py                                  three sampled problems, two seeds, 90 s each
    python scripts/optimiser_study.py --problems hubbard-3x4 --seconds 30 --decays 0 0.9
    python scripts/optimiser_study.py --seconds 300 --seeds 0

Samplers, rates, shifts and networks are those of nqs.recipes for systems that are too large for a sum, without an
average over a symmetry; only the decay of the second moments differs (0: SPRING), and with --rates the rate. The number
of steps of each variant follows from the CPU time of its first steps, so that other processes do not matter much. A
line for each variant and seed: steps, CPU seconds of the steps, energy from samples of its own, relative error.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import tyro

from nqs.estimators.energy import estimate_energy
from nqs.estimators.local_energy import local_energies
from nqs.optimisation import StochasticReconfiguration
from nqs.protocols import SamplerConfig
from nqs.recipes import NetworkOptions, plan
from nqs.samplers import MetropolisSampler, TreeSampler
from nqs.scripts.ablation.problems import PROBLEMS
from nqs.vmc.loop import VMC

PILOT, FIRST = 12, 4  # steps of a pilot run, and those of them that are not timed
EVALUATED = 8_000  # samples of the energy


@dataclass(frozen=True, kw_only=True)
class Config:
    problems: tuple[str, ...] = ("heisenberg-6x6", "hubbard-3x4", "bose-hubbard-4x4")
    decays: tuple[float, ...] = (0.0, 0.995)  # of second moments
    rates: tuple[float, ...] = (1.0,)  # factors on the learning rates
    seeds: tuple[int, ...] = (0, 1)
    seconds: float = 90.0  # CPU time of the steps


class Found(NamedTuple):
    """One run."""

    steps: int
    seconds: float
    energy: float
    error: float


def trained(problem: str, decay: float, rate: float, seed: int, seconds: float) -> Found:
    """Optimise with as many steps as fit into the CPU time."""
    pilot = Run(problem, decay, rate, seed)
    pilot.steps(PILOT)
    step = (pilot.times[-1] - pilot.times[FIRST]) / (PILOT - FIRST)
    run, steps = Run(problem, decay, rate, seed), max(1, round(seconds / step))
    run.steps(steps)
    return Found(steps, run.times[-1] - run.times[0], *run.energy(seed))


class Run:
    """A run of one variant.

    Attributes:
        times: CPU time at the start, and after every step.
    """

    def __init__(self, problem: str, decay: float, rate: float, seed: int) -> None:
        chosen = PROBLEMS[problem]
        self.hamiltonian, self.seed = chosen.hamiltonian(chosen.lattice), seed
        found = plan(
            self.hamiltonian, model=NetworkOptions(seed=seed), symmetry="none", sampled=True, seed=seed, steps=PILOT,
            device="cpu", threads=1,
        )  # fmt: skip
        stage = found.stages[-1]
        self.sampler, optimiser = stage.sampler, stage.optimiser
        assert isinstance(optimiser, StochasticReconfiguration)
        self.optimiser = replace(
            optimiser,
            momentum=0.9,
            second_moments=decay,
            learning_rate=rate * optimiser.learning_rate,
            final_learning_rate=rate * optimiser.final_learning_rate,
        )
        self.psi = found.model.build(self.hamiltonian.hilbert, "cpu")
        self.times: list[float] = []

    def steps(self, number: int) -> None:
        """So many steps; what is measured afterwards has one sample, because it is not used."""
        few: SamplerConfig = TreeSampler(n_samples=1)
        if isinstance(self.sampler, MetropolisSampler):
            few = replace(self.sampler, n_samples=1, n_chains=1)
        self.times.append(time.process_time())
        vmc = VMC(self.hamiltonian, self.psi, self.sampler, self.optimiser, few)
        vmc.run(number, seed=self.seed, progress=False, until=self._timed)

    def _timed(self, row: Mapping[str, float]) -> bool:
        self.times.append(time.process_time())
        return False

    def energy(self, seed: int) -> tuple[float, float]:
        """Of the state, with its error."""
        sampler: SamplerConfig = TreeSampler(n_samples=EVALUATED, use_cuda_graph=False)
        if isinstance(self.sampler, MetropolisSampler):
            sampler = replace(self.sampler, n_samples=EVALUATED)
        samples = sampler.build(self.psi).sample(torch.Generator().manual_seed(1_000 + seed))
        values = local_energies(self.hamiltonian, self.psi, samples).values
        estimate = estimate_energy(samples, values, energy_infinity=0.0)
        return estimate.energy, estimate.error


def main(config: Config) -> int:
    torch.set_num_threads(1)
    unknown = [name for name in config.problems if name not in PROBLEMS]
    if unknown:
        raise SystemExit(f"error: no problem {unknown[0]!r}: choose among {', '.join(PROBLEMS)}.")
    print("| problem | second moments | rate | seed | steps | CPU seconds | energy | relative error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for problem in config.problems:
        exact = PROBLEMS[problem].energy
        for seed in config.seeds:
            for decay in config.decays:
                for rate in config.rates:
                    found = trained(problem, decay, rate, seed, config.seconds)
                    error = "-" if exact is None else f"{(found.energy - exact) / abs(exact):.2e}"
                    print(
                        f"| {problem} | {decay:g} | {rate:g} | {seed} | {found.steps} | {found.seconds:.0f} | "
                        f"{found.energy:.5f} ± {found.error:.5f} | {error} |",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
