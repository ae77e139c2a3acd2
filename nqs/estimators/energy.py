"""Energy estimates with their error bars, and the V-score."""

import math

import torch
from jaxtyping import Complex128
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


def v_score(energy: float, variance: float, n_dof: int, energy_infinity: float) -> float:
    """N Var(H) / (E - E_inf)^2, with E_inf = Tr H / dim. Wu et al., Science 386, 296 (2024), arXiv:2302.04919."""
    distance = energy - energy_infinity
    if not distance:
        return float("inf") if variance else 0.0
    ratio = math.sqrt(variance) / distance  # squares of the distance could underflow or overflow
    return n_dof * ratio * ratio


def infinite_temperature_energy(hamiltonian: Hamiltonian, seed: int = 0) -> float:
    """E_inf = Tr H / dim in the sector: summed exactly, or over uniform random configurations in large sectors."""
    hilbert = hamiltonian.hilbert
    if hilbert.dimension <= EXHAUSTIVE_LIMIT:
        return hamiltonian.diagonal(hilbert.configurations()).double().mean().item()
    generator = torch.Generator().manual_seed(seed)
    return hamiltonian.diagonal(hilbert.random(TRACE_SAMPLES, generator)).double().mean().item()
