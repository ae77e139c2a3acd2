"""Optimisers with the numbers of nqs.recipes, except for those that a test gives."""

from dataclasses import replace
from typing import Any

from nqs import recipes
from nqs.optimisation import ExactSteps, StochasticReconfiguration, TorchOptimiser


def natural_gradient(**options: Any) -> StochasticReconfiguration:
    """Sampled steps."""
    found = recipes.optimiser(exact=False)
    assert isinstance(found, StochasticReconfiguration)
    return replace(found, **options)


def exact_steps(**options: Any) -> ExactSteps:
    found = recipes.optimiser(exact=True)
    assert isinstance(found, ExactSteps)
    return replace(found, **options)


def first_order(name: str = "Adam", learning_rate: float = 1e-3, final_learning_rate: float = 1e-4) -> TorchOptimiser:
    return TorchOptimiser(name=name, learning_rate=learning_rate, final_learning_rate=final_learning_rate)
