"""Sampling schemes, one a file; docs/adding_sampler.md shows how to add one."""

from typing import TYPE_CHECKING

from nqs.runtime.lazy import on_first_use

if TYPE_CHECKING:
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
    from nqs.samplers.sequential import SequentialSampler
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
    "SequentialSampler",
    "TreeSampler",
    "autoregressive",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "coverage": "CoverageSampler",
        "exhaustive": "ExhaustiveSampler",
        "gumbel": "GumbelSampler",
        "importance": "ImportanceSampler",
        "independent": "Independent autoregressive",
        "metropolis": "MetropolisSampler",
        "moves": "ConnectedMoves LocalMoves Redraw",
        "norm_constrained": "NormConstrainedSampler",
        "proposal": "Proposal",
        "regeneration": "IndependenceSampler QuestSampler",
        "sequential": "SequentialSampler",
        "tree": "TreeSampler",
    },
)
