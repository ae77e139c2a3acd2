"""Threads for a sampler and a wavefunction."""

from nqs.protocols import SamplerConfig, Wavefunction
from nqs.runtime.threads import use_threads
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler


def use_threads_for(threads: int | None, sampler: SamplerConfig, wavefunction: Wavefunction) -> int:
    """`use_threads` of nqs.runtime, with the size of the steps of that sampler."""
    return use_threads(
        threads,
        jacobian_entries(sampler, wavefunction),
        n_parameters=wavefunction.n_parameters,
        n_images=wavefunction.n_images,
    )


def jacobian_entries(sampler: SamplerConfig, wavefunction: Wavefunction) -> int | None:
    """Distinct configurations of a step, at most, times parameters; None for a sampler of unknown size."""
    rows = wavefunction.hilbert.dimension
    if isinstance(sampler, TreeSampler):
        rows = min(rows, sampler.n_distinct or sampler.n_samples or rows)
    elif isinstance(sampler, GumbelSampler):
        rows = min(rows, sampler.n_distinct)
    elif not isinstance(sampler, ExhaustiveSampler):
        return None
    return rows * wavefunction.n_parameters
