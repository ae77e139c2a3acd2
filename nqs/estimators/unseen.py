"""Configurations that were not drawn, beside those that were: what they can contribute to a mean is then known.

Of a peaked state a few configurations carry most of the weight, and the rest of it, whose local energies differ most,
may not have been drawn at all. Its configurations are connected with those that were drawn, and their probabilities are
known. They are added with weight 0: means do not change, and error bars count them (nqs.error_bars).
"""

# Shapes: U samples, K connected configurations.
from dataclasses import replace

import torch
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.error_bars import ErrorWeights
from nqs.protocols import Hamiltonian, Wavefunction, max_connected
from nqs.samples import Lookup, Samples, distinct

PEAKED = 0.5  # unseen weight below which samples are completed; above it those drawn once stand for the others
LEAST = 2**10  # configurations that are added at most, or as many as were drawn
CONNECTED = 2**18  # connected configurations among which they are chosen


@torch.no_grad()
def with_unseen(
    hamiltonian: Hamiltonian, wavefunction: Wavefunction, samples: Samples, most: int | None = None
) -> Samples:
    """The samples, followed by the most important connected configurations that were not drawn, with weight 0.

    The most important ones have the largest <|<n'|H|n>|^2>, the second moment that they can contribute to the local
    energies. Samples that are exhaustive, or leave most of the weight unseen, are returned as they are.

    Args:
        samples: representatives if the wavefunction is symmetric and they have a `probability`; else configurations.
        most: number of configurations that there is time for; None: the usual one.
    """
    weights = ErrorWeights(samples)
    if (
        most == 0
        or not wavefunction.normalised
        or weights.probability is None
        or not 0 < weights.unseen < PEAKED
        or samples.is_exhaustive
    ):
        return samples
    representatives = samples.probability is not None
    n = samples.configurations
    sources = max(1, CONNECTED // max_connected(hamiltonian))
    rows = weights.probability.topk(min(sources, len(n))).indices
    found, elements, parents = hamiltonian.connected(n[rows])
    if representatives:
        found = wavefunction.fold(found)[0]
    unknown = Lookup(wavefunction.hilbert, n).rows(found) < 0
    found, moments = found[unknown], (elements.abs().square() * weights.probability[rows][parents])[unknown]
    first, classes = distinct(wavefunction.hilbert, found)
    total = torch.zeros(len(first), dtype=torch.float64, device=n.device).index_add_(0, classes, moments)
    added = max(LEAST, len(n)) if most is None else min(most, max(LEAST, len(n)))
    chosen = total.topk(min(len(first), added)).indices.sort().values
    return _followed_by(samples, wavefunction, found[first[chosen]], representatives)


def _followed_by(samples: Samples, wavefunction: Wavefunction, n: Tensor, representatives: bool) -> Samples:
    log_modulus, phase = log_psi_by_all_ranks(wavefunction, n, log_psi_sharing_prefixes)
    possible = log_modulus > -torch.inf
    n, log_modulus, phase = n[possible], log_modulus[possible], phase[possible]
    probability = (2 * log_modulus).exp() * (wavefunction.orbit_sizes(n) if representatives else 1)
    nothing = torch.zeros_like(log_modulus)
    inclusion = samples.inclusion_probability
    if inclusion is not None:
        assert samples.threshold is not None
        inclusion = torch.cat([inclusion, -torch.expm1(-probability / samples.threshold)])
    return replace(
        samples,
        configurations=torch.cat([samples.configurations, n]),
        weights=torch.cat([samples.weights, nothing]),
        log_modulus=torch.cat([samples.log_modulus, log_modulus]),
        phase=torch.cat([samples.phase, phase]),
        counts=None if samples.counts is None else torch.cat([samples.counts, nothing.long()]),
        inclusion_probability=inclusion,
        probability=None if samples.probability is None else torch.cat([samples.probability, probability]),
    )
