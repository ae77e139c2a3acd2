"""Samplers: exhaustive sums if a step then takes about a second, else a number of distinct configurations.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

import torch

from nqs.protocols import SamplerConfig, Wavefunction
from nqs.samplers import ExhaustiveSampler, TreeSampler

# Largest number of configurations (or orbits) in an exhaustive step, and number of distinct ones in a sampled step:
# about one second per step with a network of width 32. Sums reach machine precision (the 440 orbits of eight bosons
# on a ring: 3.4e-13 after 80 steps), samples of the 4,752 orbits of ten bosons 2e-5 in 76 s.
EXHAUSTIVE_ROWS = {"cpu": 3_000, "cuda": 32_000}
DISTINCT = {"cpu": 1_500, "cuda": 8_000}
# Images of all samples of a step in averages over a symmetry, whose evaluation takes most of the time. In equal time
# the 6x6 Heisenberg lattice ended with a V-score of 1.7e-4 (8,000 samples and 640 steps, width 48), and with 4.0e-4 at
# width 32 (12,000 samples and 600 steps, or 6,000 and 1,150).
ALL_IMAGES = {"cpu": 6_000, "cuda": 64_000}
# Distinct configurations of the final energy: drawn once and without gradients, many more than in a step
# take the time of a few steps.
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**19}
# Speed-up of evaluating images of all configurations with shared prefixes.
SHARED_PREFIXES = 16


def is_exhaustive(sampler: SamplerConfig) -> bool:
    """Every draw sums over the whole sector, without sampling noise."""
    return isinstance(sampler, ExhaustiveSampler)


def evaluations(wavefunction: Wavefunction) -> int:
    """Number of network evaluations of a sum over the whole sector."""
    return wavefunction.sampled.hilbert.dimension


def training_sampler(wavefunction: Wavefunction, device: torch.device | str) -> SamplerConfig:
    """Exhaustive sums for small sectors, else tree sampling of DISTINCT configurations."""
    kind = torch.device(device).type
    if evaluations(wavefunction) <= EXHAUSTIVE_ROWS[kind]:
        return ExhaustiveSampler()
    if wavefunction.n_images == 1:
        return TreeSampler(n_distinct=DISTINCT[kind])
    return TreeSampler(n_distinct=max(1, min(2 * DISTINCT[kind], ALL_IMAGES[kind] // wavefunction.n_images)))


def evaluation_sampler(wavefunction: Wavefunction, device: torch.device | str) -> SamplerConfig:
    """For the final energy: the whole sector if one sum is affordable, else many more samples than in a step."""
    limit, each = EVALUATION_DISTINCT[torch.device(device).type], wavefunction.n_images
    if evaluations(wavefunction) <= (limit if each == 1 else ExhaustiveSampler().max_dimension):
        return ExhaustiveSampler()
    return TreeSampler(n_distinct=limit if each == 1 else min(limit, SHARED_PREFIXES * limit // each))
