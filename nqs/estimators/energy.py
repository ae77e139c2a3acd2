"""Energy estimates with their error bars, and the V-score."""

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.estimators.estimate import EnergyEstimate
from nqs.protocols import Hamiltonian
from nqs.samples import Samples

EXHAUSTIVE_LIMIT = 2**20  # largest dimension for which Tr H is summed, not sampled
TRACE_SAMPLES = 2**17


def estimate_energy(
    samples: Samples, local_energies: Complex128[Tensor, " U"], *, energy_infinity: float
) -> EnergyEstimate:
    """Mean, standard error, variance and V-score from local energies of distinct configurations."""
    energy = samples.mean(local_energies.real).item()
    variance = samples.mean((local_energies - energy).abs().square()).item()  # <H> is real
    error = samples.standard_error(local_energies.real).item()
    return EnergyEstimate(
        energy=energy,
        error=error,
        variance=variance,
        v_score=v_score(energy, variance, samples.configurations.shape[1], energy_infinity),
        n_samples=samples.n_samples,
        n_distinct=samples.n_distinct,
    )


def clipped(
    local_energies: Complex128[Tensor, " U"], weights: Float64[Tensor, " U"], clip: float
) -> tuple[Complex128[Tensor, " U"], float]:
    """Local energies that are no further from their median than `clip` median absolute deviations.

    What is further keeps its direction in the complex plane. For gradients only: the mean of what remains is no energy.
    Where the median deviation is zero, one configuration holding half of the weight, nothing is clipped.

    Returns:
        The values, and the share of the weight that was moved.
    """
    centre = torch.complex(weighted_median(local_energies.real, weights), weighted_median(local_energies.imag, weights))
    deviation = local_energies - centre
    distance = deviation.abs()
    limit = clip * weighted_median(distance, weights)
    outside = (distance > limit) & (limit > 0)
    moved = centre + deviation * (limit / distance.clamp(min=torch.finfo(distance.dtype).tiny))
    return torch.where(outside, moved, local_energies), weights[outside].sum().item()


def weighted_median(values: Float64[Tensor, " U"], weights: Float64[Tensor, " U"]) -> Float64[Tensor, ""]:
    """The smallest value at which at least half of the weight has been reached."""
    values, order = values.sort()
    cumulative = weights[order].cumsum(0)
    return values[torch.searchsorted(cumulative, cumulative[-1:] / 2).clamp(max=len(values) - 1)][0]


def v_score(energy: float, variance: float, n_dof: int, energy_infinity: float) -> float:
    """N Var(H) / (E - E_inf)^2, with E_inf = Tr H / dim. Wu et al., Science 386, 296 (2024), arXiv:2302.04919."""
    distance = energy - energy_infinity
    return n_dof * variance / (distance * distance) if distance else float("inf") if variance else 0.0


def infinite_temperature_energy(hamiltonian: Hamiltonian, seed: int = 0) -> float:
    """E_inf = Tr H / dim in the sector: summed exactly, or over uniform random configurations in large sectors."""
    hilbert = hamiltonian.hilbert
    if hilbert.dimension <= EXHAUSTIVE_LIMIT:
        return hamiltonian.diagonal(hilbert.configurations()).mean().item()
    generator = torch.Generator().manual_seed(seed)
    return hamiltonian.diagonal(hilbert.random(TRACE_SAMPLES, generator)).mean().item()
