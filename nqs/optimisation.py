"""Updates of the parameters from samples and their local energies: natural gradient and torch optimisers.

With O = d log psi / d theta, weights w of the distinct samples, centred and weighted rows
    X = [ sqrt(w) (Re O - <Re O>) ; sqrt(w) (Im O - <Im O>) ],   (2 U, P)
    e = [ sqrt(w) Re(E_loc - E)   ; sqrt(w) Im(E_loc - E)   ],   (2 U,)
the energy gradient is 2 X^T e and the metric (real part of the quantum geometric tensor) is X^T X. Stochastic
reconfiguration (Sorella, Phys. Rev. B 64, 024512 (2001)) solves

    (X^T X + s) delta = X^T e           in parameter space, P x P, or equivalently
    delta = X^T (X X^T + s)^-1 e        in sample space (minSR: Chen and Heyl, Nat. Phys. 20, 1476 (2024), arXiv:2302.01941;
                                        Rende et al., Commun. Phys. 7, 260 (2024), arXiv:2310.05715),

whichever matrix is smaller. Momentum follows SPRING (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190): the part of
the previous update delta' that the present samples do not see is kept,

    delta = mu delta' + X^T (X X^T + s)^-1 (e - mu X delta').
"""

# Shapes: U distinct samples, P parameters.
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Complex128, Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.jacobian import jacobian
from nqs.protocols import Wavefunction
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """What one update did.

    Attributes:
        learning_rate: factor on the update direction that was really used.
        update_norm: length of the update in the metric, sqrt(delta^T S delta): the change of the state to first order.
        gradient_norm: Euclidean norm of the energy gradient.
    """

    learning_rate: float
    update_norm: float
    gradient_norm: float


class Optimiser(Protocol):
    """Runtime side of an optimiser configuration: moves the parameters, and keeps state that can be archived."""

    def step(self, samples: Samples, local_energies: Complex128[Tensor, " U"], progress: float) -> StepInfo:
        """One update from local energies of the samples; progress runs from 0 to 1 over the whole optimisation."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser for a wavefunction; archives store it."""

    def build(self, wavefunction: Wavefunction) -> Optimiser: ...


def cosine(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine. Loshchilov and Hutter, arXiv:1608.03983, eq. (5)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def geometric(start: float, end: float, progress: float) -> float:
    """From start to end with a constant ratio per step."""
    return start ** (1 - min(progress, 1.0)) * end ** min(progress, 1.0)


@dataclass(frozen=True, kw_only=True)
class StochasticReconfiguration:
    """Natural gradient with a bounded step.

    Attributes:
        learning_rate: imaginary-time step at the start, in inverse units of the energy ...
        final_learning_rate: ... and at the end, along a cosine.
        diagonal_shift: s in units of the mean eigenvalue of the metric over the samples' span, at the start ...
        final_diagonal_shift: ... and at the end, geometrically.
        momentum: mu of SPRING; 0 for plain stochastic reconfiguration.
        max_step: trust region: the update is shortened to this length in the metric.
        space: "samples" (minSR) or "parameters"; "auto" takes the smaller matrix.
    """

    learning_rate: float = 0.1
    final_learning_rate: float = 0.02
    diagonal_shift: float = 1e-3
    final_diagonal_shift: float = 1e-4
    momentum: float = 0.0
    max_step: float = 0.1
    space: Literal["auto", "samples", "parameters"] = "auto"

    def build(self, wavefunction: Wavefunction) -> "NaturalGradient":
        return NaturalGradient(self, wavefunction)


class NaturalGradient:
    """Stochastic reconfiguration of one wavefunction."""

    def __init__(self, config: StochasticReconfiguration, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.parameters = [p for p in wavefunction.parameters() if p.requires_grad]
        self.update = torch.zeros_like(parameters_to_vector(self.parameters), dtype=torch.float64)

    @torch.no_grad()
    def step(self, samples: Samples, local_energies: Complex128[Tensor, " U"], progress: float) -> StepInfo:
        config = self.config
        X, e = centred(*jacobian(self.wavefunction, samples.configurations), samples.weights, local_energies)
        shift = geometric(config.diagonal_shift, config.final_diagonal_shift, progress)
        previous = config.momentum * self.update.to(X.dtype)
        residual = e - X @ previous if config.momentum else e
        self.update = (previous + solve(X, residual, shift, config.space)).double()
        norm = (X @ self.update.to(X.dtype)).norm().item()
        rate = cosine(config.learning_rate, config.final_learning_rate, progress)
        rate = min(rate, config.max_step / norm) if norm > 0 else rate
        flat = parameters_to_vector(self.parameters)
        vector_to_parameters(flat - rate * self.update.to(flat.dtype), self.parameters)
        gradient_norm = 2 * (X.T @ e).norm().item()
        return StepInfo(learning_rate=rate, update_norm=rate * norm, gradient_norm=gradient_norm)

    def state_dict(self) -> dict[str, Tensor]:
        return {"update": self.update}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.update = state["update"].to(self.update.device)


def centred(
    log_modulus: Tensor, phase: Tensor | None, weights: Tensor, local_energies: Tensor
) -> tuple[Float[Tensor, "rows P"], Float[Tensor, " rows"]]:
    """X and e of the module docstring, 2 U rows, or U where there is no phase to learn."""
    root = weights.sqrt()
    deviation = (local_energies - weights @ local_energies.real) * root  # E is real for a Hermitian H

    def rows(O: Tensor) -> Tensor:
        w = weights.to(O.dtype)
        return (O - w @ O) * root.to(O.dtype)[:, None]

    if phase is None:
        X, e = rows(log_modulus), deviation.real
    else:
        X, e = torch.cat([rows(log_modulus), rows(phase)]), torch.cat([deviation.real, deviation.imag])
    return X, e.to(X.dtype)


def solve(X: Tensor, e: Tensor, shift: float, space: str) -> Float[Tensor, " P"]:
    """(X^T X + s)^-1 X^T e, in the smaller of sample and parameter space."""
    in_samples = X.shape[0] <= X.shape[1] if space == "auto" else space == "samples"
    matrix = X @ X.T if in_samples else X.T @ X
    matrix = matrix.double()
    s = shift * matrix.trace() / min(X.shape)
    matrix.diagonal().add_(s)
    if in_samples:
        return X.T @ torch.linalg.solve(matrix, e.double()).to(X.dtype)
    return torch.linalg.solve(matrix, (X.T @ e).double()).to(X.dtype)
