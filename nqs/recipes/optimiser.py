"""Rates, shifts and trust region of the natural gradient."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from nqs.optimisation.exact_steps import exact_steps
from nqs.optimisation.kernel import Precision
from nqs.optimisation.stochastic_reconfiguration import StochasticReconfiguration
from nqs.protocols import OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """Wishes for the natural gradient; None: chosen (nqs.recipes).

    Attributes:
        learning_rate: imaginary-time step at the start, in inverse units of the energy.
        final_learning_rate: at the end, reached along a cosine.
        diagonal_shift: at the start, in units of the mean eigenvalue of the metric on the samples' span.
        final_diagonal_shift: at the end, reached geometrically.
        max_step: trust region: largest change of the normalised state in one step.
        momentum: of SPRING: keeps what the samples of a step do not determine.
        precision: of the products that form the kernel matrix: "float64"; "float32" for shifts of 1e-5 and more; "tf32"
            for shifts of 1e-3 and more, on GPUs that have it (docs/profile.md).
        memory: GiB of the rows of the Jacobian; where they do not fit they are streamed.
    """

    learning_rate: float | None = None
    final_learning_rate: float | None = None
    diagonal_shift: float | None = None
    final_diagonal_shift: float | None = None
    max_step: float | None = None
    momentum: float | None = None
    precision: Precision | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        StochasticReconfiguration(**self.given)  # refuses impossible values

    @property
    def given(self) -> dict[str, Any]:
        """What is not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def optimiser(
    given: OptimiserConfig | OptimiserOptions | None = None, *, exact: bool, images: int = 1
) -> OptimiserConfig:
    """The optimiser, with nothing left open; one of a kind that has nothing to choose is returned as it is.

    Sums over the sector have no noise: steps follow exp(-(H - E) / J) itself, a shift of 1e-7 guards only against steps
    that the linearisation does not describe, and the rate need not fall. Sampled steps end with a small rate and a
    larger shift, for the noise. An amplitude that is an average over images has the variance of as many independent
    samples, so that rates grow with the root of their number, and momentum pays off: the 6x6 Heisenberg lattice ended
    at 3e-5 with a momentum of 0.9 (width 48, 600 steps), and at 1.0e-4 before.

    Args:
        exact: expectation values have no sampling noise.
        images: over which amplitudes are averaged in steps.
    """
    if given is None or isinstance(given, OptimiserOptions):
        given = StochasticReconfiguration(**({} if given is None else given.given))
        if exact:
            return exact_steps(given)
    if not isinstance(given, StochasticReconfiguration):
        return given
    if exact:
        rate = given.learning_rate or 0.3
        final_rate, final_shift, max_step, momentum = rate, 1e-7, 0.15, 0.0
    elif images == 1:
        return given.completed()
    else:
        rate = given.learning_rate or 0.3 * math.sqrt(images)
        final_rate, final_shift, max_step, momentum = rate / 20, 1e-4, 0.2, 0.9
    return replace(
        given,
        learning_rate=rate,
        final_learning_rate=given.final_learning_rate or final_rate,
        final_diagonal_shift=given.final_diagonal_shift or final_shift,
        max_step=given.max_step or max_step,
        momentum=momentum if given.momentum is None else given.momentum,
    )


def of_warm_up() -> StochasticReconfiguration:
    """Rate and shift stay where noise is harmless: a warm-up from samples need not converge."""
    return StochasticReconfiguration(
        learning_rate=0.3, final_learning_rate=0.1, final_diagonal_shift=1e-3, max_step=0.1, momentum=0.0
    )
