"""Steps from samples that come before sums over the whole sector.

Far from the ground state the noise of a few hundred samples does no harm, and such steps cost a small part of a sum.
The sums then start near the end, where they converge in a few steps.
"""

from dataclasses import dataclass, field

from nqs.optimisation.stochastic_reconfiguration import StochasticReconfiguration
from nqs.recipes.optimiser import of_warm_up
from nqs.samplers import TreeSampler


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The first steps of a run.

    Attributes:
        share: of the steps of a run that they are, above 0 and below 1.
        sampler: what they are made from.
        optimiser: what makes them; by default one whose rate and shift stay where noise is harmless.
    """

    share: float
    sampler: TreeSampler
    optimiser: StochasticReconfiguration = field(default_factory=of_warm_up)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share}: give the share of the steps, above 0 and below 1.")

    def steps(self, of: int) -> int:
        """Steps of the warm-up in a run of so many, of which the last one is never a part of it."""
        return min(round(self.share * of), of - 1)
