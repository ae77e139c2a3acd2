"""Diagnostics of samples, whatever drew them: what they show of the distribution, and how close to it they are.

    distinct          fraction of the samples that are distinct configurations
    effective         fraction of the samples that count as independent ones
    space             fraction of the configurations of the sector that were sampled
    weight            |psi|^2 on these, where psi is normalised
    entropy           -<log|psi|^2>, of the weights where psi is not normalised
    perplexity        its exponential: number of equally likely configurations with the same entropy
    renyi_efficiency  Renyi entropy -log sum p^2 over that of the uniform distribution on the sector
    total_variation   1/2 sum |w(n) - p(n)| over the sector, w the weights of the samples; of small sectors
    expected_variation   its mean for as many independent samples as count (central limit theorem)
    acceptance, autocorrelation_time, r_hat   of Markov chains

Samples of symmetric states are orbits: all of these are of the distribution over orbits, but for `space`.
"""

# Shapes: U samples, D representatives.
import math

import torch

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.protocols import Wavefunction
from nqs.samples import Lookup, Samples

ENUMERATED = 2**16  # network evaluations of an enumerated distribution


@torch.no_grad()
def diagnostics(samples: Samples, wavefunction: Wavefunction, limit: int = ENUMERATED) -> dict[str, float]:
    """The numbers above that exist for these samples.

    Args:
        limit: largest number of network evaluations for the total variation distance.
    """
    hilbert, w = wavefunction.hilbert, samples.weights
    total = samples.n_samples
    found = {"distinct": int((w > 0).sum()) / total}
    if samples.inclusion_probability is None:
        found["effective"] = samples.n_effective / total
    sizes = wavefunction.orbit_sizes(samples.configurations)
    found["space"] = float(sizes[w > 0].sum().item() / hilbert.dimension)
    of_orbit = 2 * samples.log_modulus + sizes.double().log()
    if samples.normalised:
        found["weight"] = min(1.0, of_orbit[w > 0].exp().sum().item())
        found["entropy"] = -(w @ of_orbit.clamp(min=-1e300)).item()
        purity = (w @ of_orbit.exp()).item()
    else:
        found["entropy"] = -(w[w > 0] @ w[w > 0].log()).item()
        purity = w.square().sum().item()
    found["perplexity"] = math.exp(found["entropy"]) if found["entropy"] < 700 else math.inf
    if hilbert.dimension > 1:
        found["renyi_efficiency"] = -math.log(purity) / math.log(hilbert.dimension)
    order = 1 if wavefunction.symmetry is None else wavefunction.symmetry.order
    if wavefunction.n_images * (hilbert.dimension // order) <= limit:
        found |= _variation(samples, wavefunction)
    chains = {
        "acceptance": samples.acceptance,
        "autocorrelation_time": None if samples.chains is None else samples.autocorrelation_time,
        "r_hat": samples.r_hat,
    }
    return found | {name: number for name, number in chains.items() if number is not None}


def _variation(samples: Samples, wavefunction: Wavefunction) -> dict[str, float]:
    """Total variation distance to the enumerated distribution, and its mean for independent samples."""
    n, members = wavefunction.representatives(samples.weights.device)
    p = (2 * log_psi_in_chunks(wavefunction, n).log_modulus + members.double().log()).softmax(0)
    rows = Lookup(wavefunction.hilbert, n).rows(samples.configurations)
    known = rows >= 0
    w = torch.zeros_like(p).index_add_(0, rows[known], samples.weights[known])
    found = {"total_variation": ((w - p).abs().sum() + samples.weights[~known].sum()).item() / 2}
    if samples.inclusion_probability is None:
        scatter = (p * (1 - p) * 2 / (math.pi * samples.n_effective)).clamp(min=0).sqrt()
        # Of a configuration that is hardly ever drawn |w - p| is p in the mean, or 2 p where the theorem does not hold.
        found["expected_variation"] = scatter.minimum(2 * p).sum().item() / 2
    return found
