"""State vectors as wavefunctions, and the fidelity with them."""

# Shapes: L sites.
import math

import numpy as np
import torch
from jaxtyping import Complex128, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation, LocalValues, means
from nqs.protocols import LogPsi, Wavefunction
from nqs.samples import Samples

NORM_TOLERANCE = 1e-6  # of state vectors


class StateVector(Wavefunction):
    """A state given by its amplitudes in lexicographic order, as a wavefunction without parameters.

    Raises:
        ValueError: the vector does not have the dimension of the sector, or is not normalised.
    """

    log_modulus: Tensor
    angle: Tensor

    def __init__(self, hilbert: HilbertSpace, state: np.ndarray | Tensor) -> None:
        super().__init__()
        psi = _amplitudes(hilbert, state)
        self.hilbert = hilbert
        self.has_phase = True
        self.register_buffer("log_modulus", psi.abs().log())
        self.register_buffer("angle", psi.angle())

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        inside = self.hilbert.contains(n)
        log_modulus = torch.full((len(n),), -math.inf, dtype=torch.float64, device=n.device)
        phase = torch.zeros_like(log_modulus)
        index = self.hilbert.rank(n[inside])
        log_modulus[inside], phase[inside] = self.log_modulus[index], self.angle[index]
        return LogPsi(log_modulus, phase)

    @property
    def bytes_per_configuration(self) -> int:
        return 64 * self.hilbert.n_sites


def exact_samples(hilbert: HilbertSpace, state: np.ndarray | Tensor, *, device: torch.device | str = "cpu") -> Samples:
    """Exhaustive samples of a normalised vector in lexicographic order; configurations of weight 0 are left out.

    Raises:
        ValueError: the vector does not have the dimension of the sector, or is not normalised.
    """
    psi = _amplitudes(hilbert, state).to(device)
    index = (psi.abs().square() > 0).nonzero()[:, 0]
    psi = psi[index]
    return Samples(
        configurations=hilbert.unrank(index),
        weights=psi.abs().square(),
        log_modulus=psi.abs().log(),
        phase=psi.angle(),
        inclusion_probability=torch.ones(len(index), dtype=torch.float64, device=device),
    )


def _amplitudes(hilbert: HilbertSpace, state: np.ndarray | Tensor) -> Complex128[Tensor, " dimension"]:
    psi = torch.as_tensor(state).to(torch.complex128)
    if psi.shape != (hilbert.dimension,):
        raise ValueError(
            f"the state vector has shape {tuple(psi.shape)}; give one amplitude for each of the {hilbert.dimension:,} "
            f"configurations of the sector, in lexicographic order: {hilbert}."
        )
    norm = torch.linalg.vector_norm(psi).item()
    if not abs(norm - 1) < NORM_TOLERANCE:
        raise ValueError(f"the state vector has norm {norm:.8g}: normalise it to 1.")
    return psi / norm


def fidelity(samples: Samples, hilbert: HilbertSpace, state: np.ndarray | Tensor) -> Expectation:
    """|<psi|phi>|^2 of the sampled state psi with a vector phi in lexicographic order, both normalised; a scalar.

        <psi|phi> = sum |psi(n)|^2 r(n) = <r>,   r(n) = phi(n) / psi(n),   F = |<r>|^2,   error = error of 2 Re(<r>* r).

    r is the same for all n where psi = phi, so that the noise vanishes with 1 - F: <|r|^2> = 1 whatever was drawn, and
    the variance of r is 1 - F. With N independent samples |<r>|^2 exceeds F by (1 - F) / N in the mean, which matters
    only where F is of that order. Exact for exhaustive samples: those of ExhaustiveSampler or `exact_samples`.

    Args:
        state: (dimension,), or orthonormal states of a degenerate level, (states, dimension): the weight of psi in it,
            sum_k |<psi|phi_k>|^2.

    Raises:
        ValueError: the vectors do not have the dimension of the sector, or are not orthonormal.
    """
    states = torch.as_tensor(state).to(torch.complex128)
    states = states if states.ndim == 2 else states[None]
    phi = torch.stack([_amplitudes(hilbert, one) for one in states])
    overlaps = phi.conj() @ phi.T - torch.eye(len(phi))
    if not overlaps.abs().max() < NORM_TOLERANCE:
        raise ValueError("the states of the level are not orthogonal: orthonormalise them.")
    phi = phi.T.to(samples.weights.device)[hilbert.rank(samples.configurations)]  # (U, states)
    r = phi * torch.polar((-samples.log_modulus).exp(), -samples.phase)[:, None]
    if not samples.normalised:  # <|r|^2> is the inverse of the norm
        r = r / samples.mean(r.abs().square()).mean().sqrt()
    overlap = samples.mean(r)
    value = overlap.abs().square().sum()
    along = r @ overlap.conj() / value.sqrt()  # of the member of the level with the largest overlap
    change = 2 * value.sqrt() * along.real
    bound = samples.mean(change.square()) / samples.mean(along.abs().square())  # 4 F, less what is orthogonal to <r>
    second = bound.nan_to_num(0.0).clamp(max=4.0).expand(len(r))
    return Expectation(value, means(samples, lambda rows: LocalValues(change[rows], second[rows]), 16).error)
