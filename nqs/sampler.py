"""Contract of samplers, and of the configurations that build them."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from nqs.samples import Samples
from nqs.wavefunction import Wavefunction


class Sampler(Protocol):
    """Draws configurations from |psi|^2 of one wavefunction, whose parameters may change between draws.

    Samplers that learn while the parameters change (walkers, a trained proposal) may have a method
    `warm_start(state, generator)`, which takes over the state of another one of the same kind.
    """

    def sample(self, generator: torch.Generator) -> Samples:
        """Samples on the device of the generator."""

    def state_dict(self) -> dict[str, Tensor]:
        """State between draws (walkers of Markov chains), checkpointed; empty for independent draws."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class SamplerConfig(Protocol):
    """A frozen dataclass that builds a sampler of a wavefunction; archives store it.

    Optional attributes:
        summary: a few words for the printed plan; by default the name of the class.
        max_distinct: largest number of distinct configurations that a draw is expected to have, whatever the dimension
            of the sector; by default unknown.
        n_distinct: a field, the number of distinct configurations that a draw is asked for, or None. Runs build the
            sampler with other numbers (`with_distinct`): a smaller one where a draw takes longer than the time that is
            left, a larger one for all batches of an evaluation at once. A number of another meaning needs another name.
        n_chains, n_samples: fields of Markov chains; all batches of an evaluation at once have a larger n_samples.
    """

    def build(self, wavefunction: Wavefunction) -> Sampler: ...


def max_distinct(sampler: SamplerConfig) -> int | None:
    """Largest number of distinct configurations that a draw is expected to have; None if unknown."""
    return getattr(sampler, "max_distinct", None)


def distinct_of(sampler: SamplerConfig) -> int | None:
    """Number of distinct configurations that a sampler is asked for; None if it is not asked for a number."""
    return getattr(sampler, "n_distinct", None)


def with_distinct(sampler: SamplerConfig, number: int) -> SamplerConfig:
    """The same sampler, asked for another number of distinct configurations; for those with `distinct_of`."""
    config: Any = sampler
    return replace(config, n_distinct=number)


def with_times_as_many(sampler: SamplerConfig, factor: int) -> SamplerConfig:
    """The same sampler for `factor` times as many distinct configurations, or samples of Markov chains.

    Samplers without such a number are returned as they are.
    """
    config: Any = sampler
    if hasattr(config, "n_chains"):
        return replace(config, n_samples=factor * config.n_samples)
    number = distinct_of(sampler)
    return sampler if number is None else with_distinct(sampler, factor * number)
