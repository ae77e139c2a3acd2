"""Sampling schemes, one a file."""

from nqs.samplers.exhaustive import ExhaustiveSampler
from nqs.samplers.gumbel import GumbelSampler
from nqs.samplers.independent import Independent, autoregressive
from nqs.samplers.tree import TreeSampler

__all__ = ["ExhaustiveSampler", "GumbelSampler", "Independent", "TreeSampler", "autoregressive"]
