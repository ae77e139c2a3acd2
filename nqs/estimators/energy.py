"""Energy estimates with their error bars, and the V-score."""

import math

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.error_bars import ErrorWeights, error_bar
from nqs.estimators.estimate import EnergyEstimate
from nqs.estimators.local_energy import local_energies
from nqs.estimators.unseen import with_unseen
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.samples import Samples

EXHAUSTIVE_LIMIT = 2**20  # largest dimension for which Tr H is summed, not sampled
TRACE_SITES = 2**21  # sites of all random configurations for Tr H: the larger a system, the less E_inf fluctuates


def estimate_energy(
    samples: Samples,
    local_energies: Complex128[Tensor, " U"],
    *,
    energy_infinity: float,
    complete: tuple[Samples, Complex128[Tensor, " M"]] | None = None,
    noise: Float64[Tensor, "U 2"] | None = None,
) -> EnergyEstimate:
    """Mean, error bar, variance and V-score from local energies of distinct configurations.

    Args:
        complete: the samples with what was not drawn (nqs.estimators.unseen), and their local energies, for the error.
        noise: variances of the real and imaginary parts of each local energy, where matrix elements are sampled: part
            of the error, not of the variance of the state.
    """
    energy = samples.mean(local_energies.real).item()
    variance = samples.mean((local_energies - energy).abs().square()).item()  # <H> is real
    known, values = complete or (samples, local_energies)
    error = error_bar(known, values.real).error.item()
    if samples.n_distinct == 1 and not samples.is_exhaustive:  # no scatter: from what was not drawn, if that is known
        weights = ErrorWeights(known)
        p, alone = weights.probability, len(values) == 1 and weights.unseen
        variance = math.nan if p is None or alone else (p @ (values - energy).abs().square()).item()
    if noise is not None:
        error = math.hypot(error, samples.sum(samples.weights.square() * noise[:, 0]).sqrt().item())
        variance = max(0.0, variance - samples.mean(noise.sum(1)).item())
    return EnergyEstimate(
        energy=energy,
        error=error,
        variance=variance,
        v_score=v_score(energy, variance, samples.configurations.shape[1], energy_infinity),
        n_samples=samples.n_samples,
        n_distinct=samples.n_distinct,
    )


def energy_with_unseen(
    hamiltonian: Hamiltonian,
    wavefunction: Wavefunction,
    samples: Samples,
    values: Complex128[Tensor, " U"] | None = None,
    *,
    energy_infinity: float,
    noise: Float64[Tensor, "U 2"] | None = None,
    most: int | None = None,
) -> EnergyEstimate:
    """The energy of a state, with an error bar that counts connected configurations that were not drawn.

    Args:
        values, noise: local energies of the samples and their noise, if they are known.
        most: number of configurations not drawn that there is time for; None: the usual one.
    """
    complete = with_unseen(hamiltonian, wavefunction, samples, most)
    known = 0 if values is None else samples.n_distinct
    local = local_energies(hamiltonian, wavefunction, complete, first=known)
    if values is None:
        values, of_complete = local.values[: samples.n_distinct], local.values
        noise = None if local.noise is None else local.noise[: samples.n_distinct]
    else:
        of_complete = torch.cat([values, local.values[known:]])
    return estimate_energy(
        samples, values, energy_infinity=energy_infinity, complete=(complete, of_complete), noise=noise
    )


def v_score(energy: float, variance: float, n_dof: int, energy_infinity: float) -> float:
    """N Var(H) / (E - E_inf)^2, with E_inf = Tr H / dim; nan without a variance.

    Wu et al., Science 386, 296 (2024), arXiv:2302.04919.
    """
    distance = energy - energy_infinity
    if math.isnan(variance):
        return math.nan
    if not distance:
        return math.inf if variance else 0.0
    return n_dof * (variance / distance / distance)  # the square of the distance could underflow or overflow


def infinite_temperature_energy(hamiltonian: Hamiltonian, seed: int = 0) -> float:
    """E_inf = Tr H / dim in the sector: summed exactly, or over uniform random configurations in large sectors."""
    hilbert = hamiltonian.hilbert
    if hilbert.dimension <= EXHAUSTIVE_LIMIT:
        return hamiltonian.diagonal(hilbert.configurations()).double().mean().item()
    generator = torch.Generator().manual_seed(seed)
    configurations = hilbert.random(max(1, TRACE_SITES // hilbert.n_sites), generator)
    return hamiltonian.diagonal(configurations).double().mean().item()
