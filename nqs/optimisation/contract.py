"""What optimisers and their configurations promise."""

# Shapes: U distinct samples, P parameters, R rows of X.
import math
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.estimators.local_energy import Elements
from nqs.protocols import Wavefunction
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

    def step(
        self,
        samples: Samples,
        local_energies: Complex128[Tensor, " U"],
        diagonal: Float64[Tensor, " U"],
        progress: float,
        elements: Elements | None = None,
    ) -> StepInfo:
        """One update from local energies and diagonal elements H_nn of the samples; progress runs from 0 to 1.

        Args:
            elements: of H between samples that are the whole sector, for an optimiser that `propagates`.
        """

    @property
    def propagates(self) -> bool:
        """Whether the optimiser makes use of matrix elements between the samples."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser for a wavefunction; archives store it."""

    def build(self, wavefunction: Wavefunction) -> Optimiser: ...


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: it must be a positive number.")
