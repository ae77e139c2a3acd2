"""One optimisation step: sample, local values, check, update; for energies and for fits to a target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nqs.protocols import Objective, Optimiser, OptimiserConfig, Sampler, StepInfo, Wavefunction
from nqs.runtime.distributed import communicator
from nqs.samples import LocalEnergies, Samples
from nqs.vmc.guard import Guard, NonFiniteError, is_finite

REJECTED = StepInfo(learning_rate=0.0, update_norm=0.0, gradient_norm=0.0)


class RunningStage:
    """Sampler, objective and optimiser of a stage, built for a wavefunction."""

    def __init__(
        self, wavefunction: Wavefunction, sampler: Sampler, objective: Objective, config: OptimiserConfig
    ) -> None:
        self.wavefunction = wavefunction
        self.sampler = sampler
        self.objective = objective
        self.config = config
        self.renew()

    def renew(self) -> None:
        """Build the optimiser anew, without its accumulated state."""
        self.optimiser: Optimiser = self.config.build(self.wavefunction, self.objective)


def annealed(local: LocalEnergies, samples: Samples, temperature: float) -> LocalEnergies:
    """Local values of the free energy <H> + T <log |psi|^2>.

    Hibat-Allah et al., Nat. Mach. Intell. 3, 952 (2021), arXiv:2101.10154: the entropy term prevents an early collapse
    onto few configurations.
    """
    return local if temperature == 0 else replace(local, values=local.values + 2 * temperature * samples.log_modulus)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Input and outcome of a step.

    Attributes:
        samples, local: of the state before the update.
        info: of the update; `REJECTED` if a better state was restored instead.
        retries: number of repetitions because an energy or a parameter was not finite.
        enough: the stopping criterion was met, no update was made.
    """

    samples: Samples
    local: LocalEnergies
    info: StepInfo
    retries: int
    enough: bool = False


def make_step(
    running: RunningStage,
    guard: Guard,
    generator: torch.Generator,
    progress: float,
    *,
    temperature: float = 0.0,
    enough: Callable[[Samples, LocalEnergies], bool] = lambda samples, local: False,
) -> Step:
    """One step of a stage.

    Args:
        progress: within the stage, from 0 to 1.
        temperature: weight of the entropy.
        enough: stopping criterion, evaluated before the update.

    Raises:
        NonFiniteError: also after retries from the last finite state; the parameters before the step are restored.
    """
    begin = now = guard.current()
    retries = 0
    while True:
        samples = running.sampler.sample(generator)
        local = running.objective.local(running.wavefunction, samples)
        mean, variance = communicator().numbers(
            samples.mean(local.values.real).item(), samples.variance(local.values).item()
        )
        if is_finite(mean, variance):
            if enough(samples, local):
                return Step(samples=samples, local=local, info=REJECTED, retries=retries, enough=True)
            target = annealed(local, samples, temperature)
            if guard.rose(samples, target, progress, drifts=temperature == 0):
                running.optimiser.reject()
                return Step(samples=samples, local=local, info=REJECTED, retries=retries)
            scale = running.objective.energy_scale
            info = running.optimiser.step(samples, target.in_units_of(scale), progress)
            info = info._replace(gradient_norm=scale * info.gradient_norm, energy_limit=scale * info.energy_limit)
            factor = guard.factor
            # No limit while annealing: free energies rise as the temperature falls.
            if guard.accept(now, info.energy_limit if temperature == 0 else math.inf):
                info = info._replace(learning_rate=factor * info.learning_rate, update_norm=factor * info.update_norm)
                return Step(samples=samples, local=local, info=info, retries=retries)
        elif guard.before is not None:
            now = guard.before
        if not guard.retreat(now):
            guard.restore(begin)
            raise NonFiniteError(mean, variance, retries)
        running.renew()  # discard the momentum
        retries += 1
