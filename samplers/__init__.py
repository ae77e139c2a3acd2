"""Sampling schemes, one a file."""

from nqs.samplers.coverage import CoverageSampler
from nqs.samplers.exhaustive import ExhaustiveSampler
from nqs.samplers.gumbel import GumbelSampler
from nqs.samplers.importance import ImportanceSampler
from nqs.samplers.independent import Independent, autoregressive
from nqs.samplers.metropolis import MetropolisSampler
from nqs.samplers.moves import ConnectedMoves, LocalMoves, Redraw
from nqs.samplers.norm_constrained import NormConstrainedSampler
from nqs.samplers.proposal import Proposal
from nqs.samplers.regeneration import IndependenceSampler, QuestSampler
from nqs.samplers.tree import TreeSampler

__all__ = [
    "ConnectedMoves",
    "CoverageSampler",
    "ExhaustiveSampler",
    "GumbelSampler",
    "ImportanceSampler",
    "IndependenceSampler",
    "Independent",
    "LocalMoves",
    "MetropolisSampler",
    "NormConstrainedSampler",
    "Proposal",
    "QuestSampler",
    "Redraw",
    "TreeSampler",
    "autoregressive",
]
