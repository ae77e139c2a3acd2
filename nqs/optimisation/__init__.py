"""Optimisers: stochastic reconfiguration and those of torch.optim."""

from nqs.optimisation.contract import Optimiser, OptimiserConfig, StepInfo
from nqs.optimisation.first_order import FirstOrder, TorchOptimiser
from nqs.optimisation.stochastic_reconfiguration import NaturalGradient, StochasticReconfiguration

__all__ = [
    "FirstOrder",
    "NaturalGradient",
    "Optimiser",
    "OptimiserConfig",
    "StepInfo",
    "StochasticReconfiguration",
    "TorchOptimiser",
]
