"""Samples of Markov chains: equal configurations together, with the autocorrelation time of the chains."""

# Shapes: T rounds, C chains, L sites, U distinct configurations.
import math
from dataclasses import replace

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import folded_by_all_ranks
from nqs.chains import autocorrelation_time, drifts
from nqs.protocols import Wavefunction
from nqs.samples import Samples, distinct

NUMBERS = 2**24  # of a chunk of series


def samples_of_chains(
    wavefunction: Wavefunction,
    n: UInt8[Tensor, "T C L"],
    log_modulus: Float64[Tensor, "T C"],
    phase: Float64[Tensor, "T C"],
    acceptance: float | None = None,
) -> Samples:
    """All configurations of the chains as samples; representatives of a symmetric state.

    The autocorrelation time is the longest one of log|psi| and of the local states of all sites; it is not determinable
    (nan) where log|psi| drifts.
    """
    folded, angle = folded_by_all_ranks(wavefunction, n.flatten(0, 1))
    first, classes = distinct(wavefunction.hilbert, folded)
    configurations = folded[first]
    of_distinct = log_modulus.flatten()[first]
    counts = torch.bincount(classes, minlength=len(first))
    probability = None
    if wavefunction.normalised and wavefunction.symmetry is not None:
        probability = (2 * of_distinct).exp() * wavefunction.orbit_sizes(configurations)
    return Samples(
        configurations=configurations,
        weights=counts.double() / counts.sum(),
        log_modulus=of_distinct,
        phase=(phase.flatten() - angle)[first],
        counts=counts,
        autocorrelation_time=longest_time(n, log_modulus),
        probability=probability,
        normalised=wavefunction.normalised,
        chains=classes.view(log_modulus.shape),
        acceptance=acceptance,
    )


def weighted(samples: Samples, power: float) -> Samples:
    """Samples drawn from |psi|^(2 a) as weighted samples of |psi|^2, for a power a below 1.

    They keep the autocorrelation time of the draws, and no rows of the chains: means over these need the weights.
    """
    assert samples.counts is not None
    log_weights = samples.counts.double().log() + 2 * (1 - power) * samples.log_modulus
    return replace(
        samples,
        weights=log_weights.softmax(0),
        counts=None,
        weighted_counts=samples.counts.double(),
        n_drawn=samples.n_samples,
        chains=None,
    )


def longest_time(n: UInt8[Tensor, "T C L"], log_modulus: Float64[Tensor, "T C"]) -> float:
    """Longest autocorrelation time of log|psi| and of the local states, in rounds; nan if it is not determinable."""
    T, C, L = n.shape
    if drifts(log_modulus):
        return math.nan
    times = [autocorrelation_time(log_modulus[..., None])]
    for sites in torch.arange(L, device=n.device).split(max(1, NUMBERS // (T * C))):
        times.append(autocorrelation_time(n[..., sites].double()))
    return torch.cat(times).max().item()  # nan if any is
