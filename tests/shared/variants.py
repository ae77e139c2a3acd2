"""Stochastic reconfiguration with choices that are not options of users: what tests compare the default choice with."""

from dataclasses import asdict, dataclass
from typing import Any

from optimisers import natural_gradient

from nqs.optimisation import NaturalGradient, StochasticReconfiguration
from nqs.optimisation.solve import Space
from nqs.protocols import Objective, Wavefunction


@dataclass(frozen=True, kw_only=True)
class Variant(StochasticReconfiguration):
    """As `NaturalGradient`."""

    implicit: bool = True
    logarithmic: bool | None = None
    space: Space = "auto"

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> NaturalGradient:
        return NaturalGradient(
            self,
            wavefunction,
            implicit=self.implicit,
            logarithmic=self.logarithmic,
            space=self.space,
        )


def variant(**options: Any) -> Variant:
    """With the numbers of nqs.recipes, except for those that are given."""
    return Variant(**(asdict(natural_gradient()) | options))
