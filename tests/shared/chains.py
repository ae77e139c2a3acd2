"""Samplers of Markov chains and of weighted draws with usual numbers, except for those that a test gives."""

from typing import Any

from nqs.protocols import WavefunctionConfig
from nqs.samplers import (
    ImportanceSampler,
    IndependenceSampler,
    MetropolisSampler,
    NormConstrainedSampler,
    Proposal,
    QuestSampler,
    SequentialSampler,
)

CHAINS: dict[str, Any] = {"n_chains": 256, "n_discarded": 16}
GRADIENT: dict[str, Any] = {"step_size": 4.0, "p": 2}
ISLANDS: dict[str, Any] = {"n_islands": 32, "resample_below": 0.5}
TRAINING: dict[str, Any] = {"learning_rate": 5e-3, "n_updates": 5, "n_first": 200}


def metropolis(**options: Any) -> MetropolisSampler:
    return MetropolisSampler(**(CHAINS | options))


def norm_constrained(**options: Any) -> NormConstrainedSampler:
    return NormConstrainedSampler(**(CHAINS | GRADIENT | options))


def independence(**options: Any) -> IndependenceSampler:
    return IndependenceSampler(**(CHAINS | options))


def quest(**options: Any) -> QuestSampler:
    return QuestSampler(**(CHAINS | options))


def importance(*, n_batches: int = 8, **options: Any) -> ImportanceSampler:
    return ImportanceSampler(n_batches=n_batches, **options)


def sequential(*, n_batches: int = 8, **options: Any) -> SequentialSampler:
    return SequentialSampler(n_batches=n_batches, **(ISLANDS | options))


def trained_alongside(model: WavefunctionConfig, **options: Any) -> Proposal:
    return Proposal(model=model, **(TRAINING | options))
