r"""Estimates of what a variational energy lacks: perturbation theory and extrapolation. Neither is an upper bound.

Second order (Epstein-Nesbet), from a state c normalised on a list of configurations i, over all others k:

    E(c) = sum_ij c_i^* H_ij c_j,      E_2 = sum_k |sum_i H_ki c_i|^2 / (E(c) - H_kk).

Extrapolation: near an eigenstate the energy is linear in the variance, E = E_0 + a Var(H), so that the line through the
last steps of a run reaches E_0 at zero variance (Kwon, Ceperley, Martin, Phys. Rev. B 48, 12037 (1993)).
"""

# Shapes: D configurations, L sites, T steps.
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Num, UInt8
from torch import Tensor

from nqs.estimators.selected import NEAR, SelectedMatrix, first_order_space
from nqs.protocols import Hamiltonian

LEAST_POINTS = 5  # of a line whose error is stated
LAST = 0.5  # fraction of the steps that the line goes through


@dataclass(frozen=True, kw_only=True)
class SecondOrder:
    """
    Attributes:
        energy: E(c), an upper bound of the ground-state energy.
        correction: E_2, negative for a ground state; energy + correction is no bound.
        n_configurations: D.
    """

    energy: float
    correction: float
    n_configurations: int


@torch.no_grad()
def second_order(
    hamiltonian: Hamiltonian, configurations: UInt8[Tensor, "D L"], amplitudes: Num[Tensor, " D"]
) -> SecondOrder:
    """E(c) and E_2 of a real Hamiltonian, from the amplitudes of distinct configurations, which need no norm.

    A state that is real up to one phase is taken to be real.

    Raises:
        ValueError: the Hamiltonian has complex elements, or all amplitudes are 0.
    """
    norm = amplitudes.abs().square().sum().sqrt()
    if not len(amplitudes) or not norm > 0:
        raise ValueError("the amplitudes are all 0.")
    largest = amplitudes[amplitudes.abs().argmax()]
    c = (amplitudes * (largest.conj() / largest.abs()) / norm).real.double()
    c = c / c.norm()
    matrix = SelectedMatrix(hamiltonian)
    matrix.extend(configurations)
    energy = matrix.expectation(c.cpu().numpy())
    _, coupling, diagonal = first_order_space(hamiltonian, configurations, c)
    denominator = (energy - diagonal).clamp(max=-NEAR * max(1.0, abs(energy)))
    return SecondOrder(
        energy=energy, correction=(coupling.square() / denominator).sum().item(), n_configurations=len(configurations)
    )


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """
    Attributes:
        energy: at zero variance.
        error: standard error of the fit.
        slope: dE / dVar(H).
        n_steps: number of steps that the line goes through.
    """

    energy: float
    error: float
    slope: float
    n_steps: int


def zero_variance(energies: Float64[np.ndarray, " T"], variances: Float64[np.ndarray, " T"]) -> Extrapolation | None:
    """The line through the last half of the steps; None where there are fewer than five, or one variance alone."""
    first = int(len(energies) * (1 - LAST))
    e, v = (np.asarray(x, dtype=float)[first:] for x in (energies, variances))
    finite = np.isfinite(e) & np.isfinite(v)
    e, v = e[finite], v[finite]
    if len(e) < LEAST_POINTS or not np.ptp(v) > 0:
        return None
    x, origin = v - v.mean(), e.mean()
    slope = float((x * (e - origin)).sum() / np.square(x).sum())
    residual = e - origin - slope * x
    scatter = np.square(residual).sum() / (len(e) - 2)
    error = math.sqrt(scatter * (1 / len(e) + v.mean() ** 2 / np.square(x).sum()))
    return Extrapolation(energy=float(origin - slope * v.mean()), error=error, slope=slope, n_steps=len(e))
