"""Correlated samples: integrated autocorrelation times and R-hat of several Markov chains.

A chain of T samples x_t with the autocorrelation function rho counts as T / (2 tau) independent samples,

    tau = 1/2 + sum_{t >= 1} rho(t),    Var(mean) = 2 tau Var(x) / T;    1/2 without correlation.

It is estimated in two ways, and the larger value counts: from the autocorrelation function up to the window W >= 5 tau
(Sokal, in Functional Integration, Springer 1997, p. 131), and from the scatter of the means of independent chains,
which also sees correlations longer than a chain.
"""

# Shapes: T rounds, C chains, E quantities.
import math

import torch
from jaxtyping import Float64
from torch import Tensor

WINDOW = 5.0  # of the autocorrelation function, in autocorrelation times
INDEPENDENT = 8  # chains whose means have a scatter that can be trusted
LONG = 50.0  # length of fewer chains, in autocorrelation times
LEAST_ROUNDS = 16  # for an autocorrelation function
DRIFT = 5.0  # standard errors by which both halves of stationary chains do not differ


def autocorrelation_time(x: Float64[Tensor, "T C E"]) -> Float64[Tensor, " E"]:
    """tau of each quantity in rounds, at least 1/2; nan if too few or too short chains do not tell."""
    T, C, _ = x.shape
    deviation = x - x.mean((0, 1))
    variance = deviation.square().mean((0, 1))
    constant = variance <= (1e-14 * x.abs().amax((0, 1))).square()
    tau = torch.full_like(variance, 0.5)
    if C >= INDEPENDENT:
        of_means = deviation.mean(0).square().sum(0) / (C - 1)
        tau = tau.maximum(T * of_means / (2 * variance))
    if T >= LEAST_ROUNDS:
        tau = tau.maximum(_from_function(deviation, variance))
    if C < INDEPENDENT:
        tau = torch.where(LONG * tau <= T, tau, torch.nan) if T >= LEAST_ROUNDS else torch.full_like(tau, torch.nan)
    return torch.where(constant, 0.5, tau)


def _from_function(deviation: Float64[Tensor, "T C E"], variance: Float64[Tensor, " E"]) -> Float64[Tensor, " E"]:
    """tau from the autocorrelation function of all chains."""
    T = len(deviation)
    spectrum = torch.fft.rfft(deviation, n=2 * T, dim=0).abs().square().mean(1)  # (2 T, E)
    number = torch.arange(T, 0, -1, device=deviation.device)[:, None]  # of terms at each distance
    rho = torch.fft.irfft(spectrum, n=2 * T, dim=0)[:T] / number / variance  # (T, E)
    tau = 0.5 + torch.cat([torch.zeros_like(rho[:1]), rho[1:].cumsum(0)])
    window = torch.arange(T, device=rho.device)[:, None]
    large = window >= WINDOW * tau
    first = torch.where(large.any(0), large.to(torch.uint8).argmax(0), T - 1)
    return tau.gather(0, first[None])[0]


def r_hat(x: Float64[Tensor, "T C"]) -> float:
    """Split R-hat: sqrt of the variance of all samples over that within halves of chains; 1 where chains agree.

    Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.4. nan for fewer than four rounds.
    """
    half = len(x) // 2
    if half < 2:
        return math.nan
    halves = torch.cat([x[:half], x[-half:]], dim=1)  # (T / 2, 2 C)
    within = halves.var(0).mean()
    between = half * halves.mean(0).var()
    if not within + between > (1e-14 * x.abs().max()) ** 2:
        return 1.0
    return float((((half - 1) * within + between) / half / within).sqrt())


def drifts(x: Float64[Tensor, "T C"], errors: float = DRIFT) -> bool:
    """Whether the means of the first and second half of the chains differ by more than so many standard errors."""
    half, C = len(x) // 2, x.shape[1]
    if half < 1 or C < INDEPENDENT:
        return False
    change = x[-half:].mean(0) - x[:half].mean(0)  # (C,)
    noise = change.std() / C**0.5 + 1e-14 * x.abs().max()
    return bool(change.mean().abs() > errors * noise)
