"""Length, randomness and stages of a run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nqs.optimisation.exact_steps import ExactSteps
from nqs.protocols import Hamiltonian, Objective, Optimiser, OptimiserConfig, Sampler, SamplerConfig, Wavefunction
from nqs.samples import LocalEnergies, Samples
from nqs.vmc.warm_up import WarmUp


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and randomness of a run.

    Attributes:
        steps: optimisation steps in all; None: chosen from the problem.
        seed: of the samples.
        temperature: T of entropy annealing at the start, in the Hamiltonian's unit; 0 for none.
        annealing: fraction of the steps over which T falls to zero.
    """

    steps: int | None = None
    seed: int = 0
    temperature: float = 0.0
    annealing: float = 0.5

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least one step must be made.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature}: it must be 0 (no annealing) or positive.")
        if not 0 < self.annealing <= 1:
            raise ValueError(f"annealing={self.annealing}: give the fraction of the steps, above 0 and at most 1.")

    def temperature_at(self, progress: float) -> float:
        """Linear from `temperature` to 0, for a progress from 0 to 1."""
        return self.temperature * max(0.0, 1 - progress / self.annealing)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps first, first + 1, ..., last - 1 of a run, all made in the same way."""

    sampler: SamplerConfig
    optimiser: OptimiserConfig
    first: int
    last: int

    def __contains__(self, step: int) -> bool:
        return self.first <= step < self.last

    def progress(self, step: int) -> float:
        return (step - self.first) / (self.last - self.first)

    def start(self, hamiltonian: Hamiltonian, wavefunction: Wavefunction) -> "RunningStage":
        """What its steps are made with."""
        objective = self.optimiser.objective(hamiltonian)
        return RunningStage(wavefunction, self.sampler.build(wavefunction), objective, self.optimiser)


class RunningStage:
    """Sampler, objective and optimiser of a stage, at work on a wavefunction."""

    def __init__(
        self, wavefunction: Wavefunction, sampler: Sampler, objective: Objective, config: OptimiserConfig
    ) -> None:
        self.wavefunction = wavefunction
        self.sampler = sampler
        self.objective = objective
        self.config = config
        self.renew()

    def renew(self) -> None:
        """The optimiser without what it has gathered in its steps."""
        self.optimiser: Optimiser = self.config.build(self.wavefunction, self.objective)


def stages(
    run: RunConfig, sampler: SamplerConfig, optimiser: OptimiserConfig, warm_up: WarmUp | None
) -> Iterator[Stage]:
    """The stages of a run: a warm-up, annealing where the main steps cannot see a free energy, the main steps.

    Exact steps follow the energy alone. While the temperature is above zero they are stochastic reconfiguration with
    the same options.
    """
    assert run.steps is not None
    begin = 0
    if warm_up is not None:
        begin = warm_up.steps(run.steps)
        if begin:
            yield Stage(sampler=warm_up.sampler, optimiser=warm_up.optimiser, first=0, last=begin)
    if isinstance(optimiser, ExactSteps):
        cold = next((k for k in range(begin, run.steps) if run.temperature_at(k / run.steps) == 0), run.steps)
        if cold > begin:
            yield Stage(sampler=sampler, optimiser=optimiser.without_matrix, first=begin, last=cold)
        begin = cold
    if begin < run.steps:
        yield Stage(sampler=sampler, optimiser=optimiser, first=begin, last=run.steps)


def annealed(local: LocalEnergies, samples: Samples, temperature: float) -> LocalEnergies:
    """Local values of the free energy <H> + T <log |psi|^2>.

    Hibat-Allah et al., Nat. Mach. Intell. 3, 952 (2021), arXiv:2101.10154: entropy keeps the state from settling on few
    configurations early.
    """
    return local if temperature == 0 else replace(local, values=local.values + 2 * temperature * samples.log_modulus)
