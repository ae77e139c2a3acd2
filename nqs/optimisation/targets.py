"""Residuals, bounded targets for log psi, gain ratio and trust region of natural-gradient steps."""

# Shapes: U distinct samples, R rows of X.
import math

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.protocols import Wavefunction
from nqs.samples import LocalEnergies, Samples

# Of an amplitude in one step of the logarithmic target: a factor e, beyond which log psi is not linear.
MAX_LOG_CHANGE = 1.0
SMALLEST, LARGEST_EXPONENT = 1e-150, 300.0
# Factor on the second-order bound of the energy change above which a step is undone: the bound is that of the linear
# state and the variance a sampled one, so that factors of order 1 are no failure.
SLACK = 3.0


def bounded(rate: float, direction: Float64[Tensor, " rows"], samples: Samples, max_step: float) -> tuple[float, float]:
    """Learning rate reduced to the trust region, and the length of the step.

    The length is that of the finite change psi -> psi exp(-rate c), sqrt(sum w |exp(-rate c) - 1|^2): for small
    changes c of log psi this is the metric, and amplitudes that grow from almost zero count with their new value.

    Args:
        direction: sqrt(w) c, real parts followed by imaginary parts.
    """
    c = direction.view(-1, samples.n_distinct) / samples.weights.sqrt().clamp(min=SMALLEST)
    while True:
        grown = torch.polar((-rate * c[0]).clamp(max=LARGEST_EXPONENT).exp(), -rate * c[1:].sum(0))
        norm = samples.mean((grown - 1).abs().square()).sqrt().item()
        if norm <= max_step or rate < SMALLEST:
            return rate, norm
        rate *= max(0.5, max_step / norm)


def log_of_one_plus(x: Complex128[Tensor, " U"]) -> Complex128[Tensor, " U"]:
    """log(1 + x), its real part at most MAX_LOG_CHANGE in modulus; exact for small x."""
    modulus = torch.log1p((x.abs().square() + 2 * x.real).clamp(min=-1)) / 2
    return torch.complex(modulus.clamp(-MAX_LOG_CHANGE, MAX_LOG_CHANGE), torch.atan2(x.imag, 1 + x.real))


def gain_ratio(
    wavefunction: Wavefunction,
    samples: Samples,
    wanted: Float64[Tensor, " R"],
    linear: Float64[Tensor, " R"],
    stiffness: Float64[Tensor, " R"],
) -> float:
    """Gain ratio (|t|^2 - |t - a|^2) / (|t|^2 - |t - l|^2), actual over predicted approach to the target.

    t is the target change of log psi, a the actual change, l its linear prediction; 1 for a linear step, nan if no
    reduction was predicted. Mean-free norm sum w (1 + eta D) |.|^2.

    Args:
        samples: with log psi before the step.
    """
    after = log_psi_by_all_ranks(wavefunction, samples.configurations)
    change = torch.complex(after.log_modulus - samples.log_modulus, after.phase - samples.phase)
    change = torch.where(samples.weights > 0, change, 0.0)
    actual = residual(samples.weights, change - samples.mean(change), len(wanted)) * stiffness
    predicted = linear @ (2 * wanted - linear)
    return (actual @ (2 * wanted - actual) / predicted).item() if predicted > 0 else math.nan


def residual(weights: Tensor, deviation: Complex128[Tensor, " U"], rows: int) -> Float64[Tensor, " R"]:
    """sqrt(w) times the real parts, followed by the imaginary parts if there are 2 U rows."""
    scaled = weights.sqrt() * deviation
    return scaled.real if rows == len(weights) else torch.cat([scaled.real, scaled.imag])


def energy_limit(samples: Samples, local: LocalEnergies, energy: Float64[Tensor, ""], norm: float) -> float:
    """Upper bound of the energy after a step of length `norm`: second-order bound times SLACK."""
    variance = samples.mean((local.values - energy).abs().square())
    scale = (local.diagonal - energy).abs().max()
    return (energy + SLACK * (2 * variance.sqrt() * norm + scale * norm**2)).item()
