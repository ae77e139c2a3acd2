"""What natural-gradient steps follow and how far they may go: residuals, bounded changes of log psi, trust region."""

# Shapes: U distinct samples, R rows of X.
import math

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.protocols import Wavefunction
from nqs.samples import LocalEnergies, Samples

MAX_LOG_CHANGE = 1.0  # of an amplitude in one step of the logarithmic target
SMALLEST, LARGEST_EXPONENT = 1e-150, 300.0
SLACK = 3.0  # times what a step of its length can do to the energy is still no reason to undo it


def bounded(rate: float, direction: Float64[Tensor, " rows"], samples: Samples, max_step: float) -> tuple[float, float]:
    """The learning rate, lowered until the step is short enough, and the length of that step.

    The length is that of the finite change psi -> psi exp(-rate c), sqrt(sum w |exp(-rate c) - 1|^2): where the change
    c of log psi is small that is the metric, and an amplitude that would grow from nothing counts with what it is then.

    Args:
        direction: sqrt(w) c, real parts and below them imaginary ones.
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
    """By how much a step brought log psi nearer to its target, (|t|^2 - |t - a|^2) / (|t|^2 - |t - l|^2).

    t is the wanted change, a the one that was made, l its linear prediction; 1 where the step was linear. In the norm
    sum w (1 + eta D) |.|^2, mean free. nan where nothing was predicted.

    Args:
        samples: with log psi before the step.
    """
    after = log_psi_in_chunks(wavefunction, samples.configurations)
    moved = torch.complex(after.log_modulus - samples.log_modulus, after.phase - samples.phase)
    moved = torch.where(samples.weights > 0, moved, 0.0)
    made = residual(samples.weights, moved - samples.mean(moved), len(wanted)) * stiffness
    promised = linear @ (2 * wanted - linear)
    return (made @ (2 * wanted - made) / promised).item() if promised > 0 else math.nan


def residual(weights: Tensor, deviation: Complex128[Tensor, " U"], rows: int) -> Float64[Tensor, " R"]:
    """sqrt(w) times the real parts, and below them the imaginary ones where there are 2 U rows."""
    scaled = weights.sqrt() * deviation
    return scaled.real if rows == len(weights) else torch.cat([scaled.real, scaled.imag])


def energy_limit(samples: Samples, local: LocalEnergies, energy: Float64[Tensor, ""], norm: float) -> float:
    """What the energy may at most become by a step of length `norm`, with SLACK for what is not of second order."""
    variance = samples.mean((local.values - energy).abs().square())
    scale = (local.diagonal - energy).abs().max()
    return (energy + SLACK * (2 * variance.sqrt() * norm + scale * norm**2)).item()
