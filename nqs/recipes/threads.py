"""How many threads of the CPU a run uses."""

from nqs.protocols import SamplerConfig, Wavefunction, max_distinct
from nqs.recipes.samplers import is_exhaustive
from nqs.runtime.threads import usable_threads

# Entries of the Jacobian of a step from which on all threads pay off. Measured with 4,882 parameters on two cores that
# shared their time with four other processes: 32 configurations took 0.19 s with one thread and 0.32 s with two, 128
# took 0.26 to 0.34 s and 0.09 to 0.35 s, 512 0.83 s and 0.33 s (medians of wall times; CPU times grew by a third,
# by 4 % and by nothing).
LARGE_JACOBIAN = 2**18
# Averages over a symmetry spend their time on the images of connected configurations, in chunks that are small for
# networks of fewer parameters than these: 120 steps of the Ising ring of 20 sites took 130 s with two threads on an
# idle machine, and 130 to 134 s with one while another such run had the other core.
SMALL_NETWORK = 10_000


def threads(sampler: SamplerConfig, wavefunction: Wavefunction) -> int:
    """One for small steps, on which a second one mostly waits, else all that are usable (nqs.runtime.threads)."""
    small = jacobian_entries(sampler, wavefunction) < LARGE_JACOBIAN
    small |= wavefunction.n_images > 1 and wavefunction.n_parameters < SMALL_NETWORK
    return 1 if small else usable_threads()


def jacobian_entries(sampler: SamplerConfig, wavefunction: Wavefunction) -> int:
    """Distinct configurations of a step, at most, times parameters."""
    rows, most = wavefunction.hilbert.dimension, max_distinct(sampler)
    if most is None and not is_exhaustive(sampler):
        return LARGE_JACOBIAN  # unknown
    return (rows if most is None else min(rows, most)) * wavefunction.n_parameters
