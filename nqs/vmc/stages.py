"""Length, randomness and stages of a run."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nqs.optimisation.contract import OptimiserConfig
from nqs.protocols import SamplerConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and randomness of a run.

    Attributes:
        steps: optimisation steps in all; None: chosen from the problem.
        seed: of the samples.
        temperature: T of entropy annealing at the start, in the Hamiltonian's unit; 0 for none.
        annealing: share of the steps over which T falls to zero.
        clip: local energies further from their median than so many median absolute deviations are moved there, for the
            update alone; None for none. The column "clipped" of the history has the share of the weight. The natural
            gradient bounds what an outlier does on its own; where it was tried, clipping made it slower (README).
        first_samples: share of the sampler's n_distinct or n_samples that the first step has; it grows geometrically to
            1 at the last step. Saves time where a step costs in proportion, at the price of noisier first steps.
    """

    steps: int | None = None
    seed: int = 0
    temperature: float = 0.0
    annealing: float = 0.5
    clip: float | None = None
    first_samples: float = 1.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least one step must be made.")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: it must be 0 (no annealing) or positive.")
        if not 0 < self.annealing <= 1:
            raise ValueError(f"annealing={self.annealing}: give the share of the steps, above 0 and at most 1.")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"clip={self.clip}: it must be a positive number of deviations, or None for no clipping.")
        if not 0 < self.first_samples <= 1:
            raise ValueError(
                f"first_samples={self.first_samples}: give the share of the samples, above 0 and at most 1."
            )

    def share_of_samples(self, step: int) -> float:
        """Geometric from `first_samples` in step 0 to 1 in the last one."""
        last = max(1, (self.steps or 1) - 1)
        return self.first_samples ** max(0.0, 1 - step / last)

    def temperature_at(self, progress: float) -> float:
        """Linear from `temperature` to 0, for a progress from 0 to 1."""
        return self.temperature * max(0.0, 1 - progress / self.annealing)


class _Stage(NamedTuple):
    """Steps first, first + 1, ..., last - 1 of a run."""

    sampler: SamplerConfig
    optimiser: OptimiserConfig
    first: int
    last: int

    def progress(self, step: int) -> float:
        return (step - self.first) / (self.last - self.first)


def with_share(sampler: SamplerConfig, share: float) -> SamplerConfig:
    """The sampler with that share of its distinct configurations, or of its samples.

    Raises:
        ValueError: it has no such number.
    """
    sizes = {name: getattr(sampler, name, None) for name in ("n_distinct", "n_samples")}
    wanted = {name: max(1, round(share * size)) for name, size in sizes.items() if isinstance(size, int)}
    if not wanted:
        raise ValueError(
            f"first_samples={share:g}, but {type(sampler).__name__} has no number of samples that could grow: leave "
            "first_samples at 1, or give a sampler with n_distinct or n_samples, such as TreeSampler(n_distinct=1000) "
            "(--distinct 1000)."
        )
    config: Any = sampler  # a dataclass: archives store samplers
    return replace(config, **wanted)
