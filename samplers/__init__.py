"""Sampling schemes, one a file."""

from nqs.samplers.exhaustive import ExhaustiveSampler
from nqs.samplers.gumbel import GumbelSampler
from nqs.samplers.independent import Independent, autoregressive
from nqs.samplers.metropolis import MetropolisSampler
from nqs.samplers.moves import ConnectedMoves, LocalMoves, Redraw
from nqs.samplers.tree import TreeSampler

__all__ = [
    "ConnectedMoves",
    "ExhaustiveSampler",
    "GumbelSampler",
    "Independent",
    "LocalMoves",
    "MetropolisSampler",
    "Redraw",
    "TreeSampler",
    "autoregressive",
]
