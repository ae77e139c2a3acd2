"""Fits of a wavefunction to a target state, before a run or instead of one."""

from nqs.pretraining.divergences import Comparison, Divergence, FitObjective, compare
from nqs.pretraining.fitting import FitResult, fit
from nqs.pretraining.targets import MeanField, ProductState, Target, VectorTarget

__all__ = [
    "Comparison",
    "Divergence",
    "FitObjective",
    "FitResult",
    "MeanField",
    "ProductState",
    "Target",
    "VectorTarget",
    "compare",
    "fit",
]
