"""Length, seed and stages of an optimisation: plain data, stored in archives."""

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass, field

from nqs.optimisation.exact_steps import ExactSteps
from nqs.protocols import OptimiserConfig, SamplerConfig, with_times_as_many
from nqs.runtime.options import check_fields, summary_of

UNKNOWN = sys.maxsize  # number of steps of a run that is sized by its time


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and randomness of a run.

    Attributes:
        steps: number of optimisation steps, all stages together; None: as many as fit into `total_minutes`.
        total_minutes: time of the run ("minutes" in archives), evaluation included and over all processes that continue
            it, for which the number of steps is chosen after the first ones were measured; only without `steps`.
        seed: of the samples.
        temperature: initial temperature T of entropy annealing, in the Hamiltonian's unit; 0 for none.
        annealing: fraction of the steps over which T falls to zero.
    """

    steps: int | None = None
    total_minutes: float | None = field(default=None, metadata={"stored_as": "minutes"})
    seed: int = 0
    temperature: float = 0.0
    annealing: float

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least one step must be made.")
        minutes = self.total_minutes
        if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
            raise ValueError(f"total_minutes={minutes}: the time of a run is a positive number of minutes.")
        if minutes is not None and self.steps is not None:
            raise ValueError(
                f"steps={self.steps} and total_minutes={minutes:g}: a run has a number of steps or a time."
            )
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature}: it must be 0 (no annealing) or positive.")
        if not 0 < self.annealing <= 1:
            raise ValueError(f"annealing={self.annealing}: give the fraction of the steps, above 0 and at most 1.")

    def temperature_at(self, progress: float) -> float:
        """Linear from `temperature` to 0, for a progress from 0 to 1."""
        return self.temperature * max(0.0, 1 - progress / self.annealing)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Sampled steps before sums over the whole sector; these then start close to the minimum and need few steps.

    Attributes:
        share: fraction of the steps of a run, above 0 and below 1.
        sampler, optimiser: of these steps.
    """

    share: float
    sampler: SamplerConfig
    optimiser: OptimiserConfig

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share}: give the fraction of the steps, above 0 and below 1.")

    def steps(self, total: int) -> int:
        """Number of warm-up steps in a run of `total` steps; the last step of a run never belongs to the warm-up."""
        return min(round(self.share * total), total - 1)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the energy of a state is evaluated: batch by batch.

    Attributes:
        sampler: of a batch.
        batches: their largest number.
        error: the evaluation ends at an error bar of this size, in units of |E - E_inf|, E_inf = Tr H / dim.

    Raises:
        ValueError: no batch, or an error that is not positive.
    """

    sampler: SamplerConfig
    batches: int
    error: float

    def __post_init__(self) -> None:
        check_fields(self, at_least={"batches": 1})
        if not self.error > 0:
            raise ValueError(f"error={self.error}: it must be positive.")

    @property
    def summary(self) -> str:
        return f"up to {self.batches} batches, {summary_of(self.sampler)} in each"

    @property
    def whole(self) -> SamplerConfig:
        """A sampler of as many distinct configurations, or samples of Markov chains, as all batches have."""
        return with_times_as_many(self.sampler, self.batches)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive steps with the same sampler and optimiser.

    Attributes:
        name: "warm-up", "annealing" or "main".
        sampler, optimiser: fully resolved configurations.
        first: index of the first step in the run.
        steps: number of steps.
    """

    name: str
    sampler: SamplerConfig
    optimiser: OptimiserConfig
    first: int
    steps: int

    def __contains__(self, step: int) -> bool:
        return self.first <= step < self.first + self.steps

    def progress(self, step: int) -> float:
        """Progress within the stage, from 0 to below 1."""
        return (step - self.first) / self.steps


def stages(
    run: RunConfig, sampler: SamplerConfig, optimiser: OptimiserConfig, warm_up: WarmUp | None
) -> tuple[Stage, ...]:
    """Stages of a run: warm-up, annealing where the main optimiser cannot use a free energy, main steps.

    Exact steps follow the energy alone. While the temperature is above zero they are replaced by stochastic
    reconfiguration with the same options. A run that is sized by its time has one stage.
    """
    if run.steps is None:
        return (Stage(name="main", sampler=sampler, optimiser=optimiser, first=0, steps=UNKNOWN),)
    begin, found = 0, []
    if warm_up is not None:
        begin = warm_up.steps(run.steps)
        found.append(Stage(name="warm-up", sampler=warm_up.sampler, optimiser=warm_up.optimiser, first=0, steps=begin))
    if isinstance(optimiser, ExactSteps):
        of_run, after = range(run.steps), run.steps
        cold = bisect_left(of_run, True, begin, after, key=lambda k: run.temperature_at(k / after) == 0)
        annealing = optimiser.without_matrix
        found.append(Stage(name="annealing", sampler=sampler, optimiser=annealing, first=begin, steps=cold - begin))
        begin = cold
    found.append(Stage(name="main", sampler=sampler, optimiser=optimiser, first=begin, steps=run.steps - begin))
    return tuple(stage for stage in found if stage.steps)
