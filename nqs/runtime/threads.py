"""How many threads a run uses on a CPU."""

import torch

from nqs.protocols import SamplerConfig, Wavefunction
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler

# Entries of the Jacobian of a step from which on all threads pay off. Measured with 4,882 parameters on two cores that
# shared their time with four other processes: 32 configurations took 0.19 s with one thread and 0.32 s with two, 128
# took 0.26 to 0.34 s and 0.09 to 0.35 s, 512 0.83 s and 0.33 s (medians of wall times; CPU times grew by a third,
# by 4 % and by nothing).
MANY = 2**18
# Averages over a symmetry spend their time on the images of connected configurations, in pieces that are small for
# networks of fewer parameters than these: 120 steps of the Ising ring of 20 sites took 130 s with two threads on an
# idle machine, and 130 to 134 s with one while another such run had the other core.
FEW = 10_000


def use_threads(threads: int | None, sampler: SamplerConfig, wavefunction: Wavefunction) -> int:
    """Sets the threads of this process, and returns how many.

    Args:
        threads: their number, or None: one for small steps, on which a second one mostly waits, else as many as torch
            has set (one a core, unless OMP_NUM_THREADS says otherwise).

    Raises:
        ValueError: less than one thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: at least one is needed; leave it out to have it chosen by size.")
    small = jacobian_entries(sampler, wavefunction) < MANY or (
        wavefunction.n_images > 1 and wavefunction.n_parameters < FEW
    )
    if threads is None and small:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def jacobian_entries(sampler: SamplerConfig, wavefunction: Wavefunction) -> int:
    """Distinct configurations of a step, at most, times parameters."""
    rows = wavefunction.hilbert.dimension
    if isinstance(sampler, TreeSampler):
        rows = min(rows, sampler.n_distinct or sampler.n_samples or rows)
    elif isinstance(sampler, GumbelSampler):
        rows = min(rows, sampler.n_distinct)
    elif not isinstance(sampler, ExhaustiveSampler):
        return MANY  # unknown
    return rows * wavefunction.n_parameters
