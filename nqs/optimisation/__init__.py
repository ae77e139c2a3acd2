"""Optimisers: stochastic reconfiguration and those of torch.optim."""

from nqs.optimisation.exact_steps import ExactSteps
from nqs.optimisation.first_order import FirstOrder, TorchOptimiser
from nqs.optimisation.stages import Evaluation, RunConfig, Stage, WarmUp
from nqs.optimisation.stochastic_reconfiguration import NaturalGradient, StochasticReconfiguration
from nqs.protocols import Optimiser, OptimiserConfig, StepInfo

__all__ = [
    "Evaluation",
    "ExactSteps",
    "FirstOrder",
    "NaturalGradient",
    "Optimiser",
    "OptimiserConfig",
    "RunConfig",
    "Stage",
    "StepInfo",
    "StochasticReconfiguration",
    "TorchOptimiser",
    "WarmUp",
]
