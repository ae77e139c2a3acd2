"""What optimisers and their configurations promise."""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nqs.estimators.local_energy import LocalEnergies
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """What one update did.

    Attributes:
        learning_rate: factor on the update direction that was really used.
        update_norm: length of the update: in the metric, eta sqrt(delta^T X^T X delta), for the natural gradient, where
            it is the change of the state to first order; of the parameter vector for first-order optimisers.
        gradient_norm: Euclidean norm of the energy gradient.
    """

    learning_rate: float
    update_norm: float
    gradient_norm: float


class Optimiser(Protocol):
    """Runtime side of an optimiser configuration: moves the parameters, and keeps state that can be archived."""

    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        """One update from the local energies of the samples; progress runs from 0 to 1."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser for a wavefunction; archives store it."""

    def build(self, wavefunction: Wavefunction, hamiltonian: Hamiltonian | None = None) -> Optimiser:
        """Optimisers that need H itself and not only local energies raise a ValueError without it."""


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: it must be a positive number.")
