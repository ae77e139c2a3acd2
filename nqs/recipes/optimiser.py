"""Rates, shifts and trust region of the natural gradient: `optimiser` gives them with one call.

The limits of its linear solver (`nqs.optimisation.solver`) are properties of the algorithm, not of a recipe.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nqs.optimisation.exact_steps import ExactSteps
from nqs.optimisation.kernel import Precision
from nqs.optimisation.stochastic_reconfiguration import StochasticReconfiguration
from nqs.protocols import OptimiserConfig
from nqs.runtime.options import check_fields

# Sampled steps without averages over a symmetry. Because of the noise they end with a small rate, and with a larger
# shift than exact steps. The optimum is flat: the Heisenberg ring of 14 sites ended at relative errors of 1.9e-4 and
# 2.1e-4 (seeds 0 and 1), and at 1.6e-4 to 2.6e-4 with one of the numbers three to ten times larger or smaller (`nqs run
# heisenberg --shape 14 --distinct 200 --steps 100 --optimiser.max-step 0.3`, for example).
SAMPLED: dict[str, Any] = {
    "learning_rate": 0.3,
    "final_learning_rate": 0.02,
    "diagonal_shift": 1e-3,
    "final_diagonal_shift": 1e-5,
    "max_step": 0.1,
}
# Sums over the whole sector. Without noise the time need not fall, and the shift at the end only guards against steps
# that the linearisation does not describe. The 2x4 Hubbard lattice, half filling, U = 8, ended at a relative error of
# 2.9e-9; at 1.2e-9 and 1.9e-8 with a time of 0.3 and 3, at 2.1e-10 and 1.9e-9 with an initial shift of 1e-4 and 1e-2,
# at 2.9e-9 and 4.3e-9 with a final one of 1e-5 and 1e-9, at 3.4e-6 and 1.0e-8 with a largest step of 0.05 and 0.5 (one
# seed: `nqs run fermi-hubbard --shape 2 4 --U 8 --optimiser.max-step 0.05`, for example; --optimiser.learning-rate is
# the time).
EXACT: dict[str, Any] = {"time": 1.0, "diagonal_shift": 1e-3, "final_diagonal_shift": 1e-7, "max_step": 0.15}
# What follows replaces some of these numbers.
# Few samples of a large sector (DISTINCT_OF_MANY in nqs.recipes.samplers): momentum carries what earlier steps found.
LARGE = {"momentum": 0.9, "final_diagonal_shift": 1e-4}
# A real state whose amplitudes change sign, as determinants: local energies are large close to its nodes, and smaller
# steps lead further. Hubbard 3x4 with 5 + 5 electrons, U = 8, one determinant, 60 s of a core, 500 samples, about 200
# steps: 9.6e-3 and 1.3e-2 above with a rate of 0.1 and a momentum of 0.9, 1.9e-2 with 0.3 and 0.9, 1.5e-2 with 0.1 and
# 0.95.
NODES = {"learning_rate": 0.1, "momentum": 0.9, "final_diagonal_shift": 1e-4}
# A complex state that is sampled by Markov chains. Group convolutions on the J1-J2 lattice of 4x4 sites ended at
# 2.1e-4, 6.8e-5 and 6.5e-5 with rates of 0.05, 0.1 and 0.2 (docs/choosing.md).
COMPLEX = {"learning_rate": 0.1, "momentum": 0.9, "final_diagonal_shift": 1e-3}
# An average over images has the variance of as many independent samples: rates grow with the root of their number, and
# momentum pays off. The 6x6 Heisenberg lattice ended at 3e-5 with a momentum of 0.9 (width 48, 600 steps), and at
# 1.0e-4 before.
AVERAGED = {"final_diagonal_shift": 1e-4, "max_step": 0.2, "momentum": 0.9}
# Of the rate of averages, from the first step to the last; about that of other sampled steps, 15. The Ising ring of 20
# sites ended at 2.5e-4, 3.2e-4 and 3.3e-4 with 5, 20 and 80 after 40 steps (18 CPU s), at 0.9e-6 and 1.5e-6 with 5 and
# 20 after 120 (45 and 49 s; `python scripts/recipe_study.py --number optimiser.FALL --values 5 20 80 --problems
# ising-20 --steps 40`). Flat for 12 bosons on 3x4 sites: -20.4326, -20.4323 and -20.4334 after 60 (29 s; `--problems
# bose-hubbard-3x4 --steps 60`).
FALL = 20
# A warm-up from samples before exhaustive sums need not converge, and stays where noise is harmless. The Ising ring of
# 16 sites ended after 76 steps at 3.6e-9 and 2.8e-8 with a final rate of 0.03 and 0.1 (30 CPU s), after 38 at 7.1e-8,
# 2.4e-4 and 5.8e-1 with 0.03, 0.1 and 0.3, at 3.8e-5, 2.4e-4 and 6.7e-6 with a final shift of 1e-4, 1e-3 and 1e-2 (15
# to 16 s; `python scripts/recipe_study.py --number optimiser.WARM_UP.final_learning_rate --values 0.03 0.1 0.3
# --problems ising-16 --steps 38`, `--number optimiser.WARM_UP.final_diagonal_shift --values 0.0001 0.01`; `--steps
# 76`). Nine bosons on a ring after 38 at 1.5e-7, 1.1e-5 and 2.1e-6 with these rates, at 1.0e-5 with a shift of 1e-2 (16
# s). One seed.
WARM_UP = {"final_learning_rate": 0.1, "final_diagonal_shift": 1e-3}
# Fits. The target is known: a step may change a tenth of the state, |delta psi|^2 = 0.09, nine times as much as a step
# of local energies. With samples the rate ends at a tenth or less of its start, like that of other sampled steps. Fits
# to the exact state of the Heisenberg ring of 14 sites took 12, 6 and 5 steps with 0.1, 0.3 and 0.6, of the 2x4 Hubbard
# lattice 22, 10 and 8 (`python scripts/recipe_study.py --number optimiser.FIT_STEP --values 0.1 0.3 0.6 --problems
# heisenberg-14 hubbard-2x4 --measure fit`); from 200 samples of the ring 20, 22 and 28 with final rates of 0.01, 0.05
# and 0.5 (`--number optimiser.SAMPLED_FIT_RATE --values 0.01 0.05 0.5 --problems heisenberg-14 --distinct 200`).
FIT_STEP, SAMPLED_FIT_RATE = 0.3, 0.05


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """Requested options of the natural gradient; None: chosen by nqs.recipes.

    Attributes:
        learning_rate: imaginary-time step at the start, in inverse units of the energy scale
            (nqs.estimators.energy_scale).
        final_learning_rate: at the end, reached along a cosine.
        diagonal_shift: at the start, in units of the mean eigenvalue of the metric on the samples' span.
        final_diagonal_shift: at the end, reached geometrically.
        max_step: trust region: largest change of the normalised state in one step.
        momentum: of SPRING: keeps what the samples of a step do not determine.
        second_moments: beta of MARCH, their decay: parameters whose updates change much are damped more.
        precision: of the products that form the kernel matrix: "float64"; "float32" for shifts of 1e-5 and more; "tf32"
            for shifts of 1e-3 and more, on GPUs that have it (docs/speed.md).
        memory: GiB of the rows of the Jacobian; where they do not fit they are streamed.
        dense_rows: rows of the largest matrix that is factorised; larger systems are solved by conjugate gradients.
        solver_tolerance: of conjugate gradients: residual relative to the right-hand side.
        solver_iterations: of conjugate gradients, at most.
    """

    learning_rate: float | None = None
    final_learning_rate: float | None = None
    diagonal_shift: float | None = None
    final_diagonal_shift: float | None = None
    max_step: float | None = None
    momentum: float | None = None
    second_moments: float | None = field(default=None, metadata={"stored_if_default": False})
    precision: Precision | None = None
    memory: float | None = None
    dense_rows: int | None = field(default=None, metadata={"stored_if_default": False})
    solver_tolerance: float | None = field(default=None, metadata={"stored_if_default": False})
    solver_iterations: int | None = field(default=None, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        check_fields(self)
        StochasticReconfiguration(**(SAMPLED | self.given))  # refuses impossible values

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def optimiser(
    given: OptimiserConfig | OptimiserOptions | None = None,
    *,
    exact: bool,
    images: int = 1,
    large: bool = False,
    nodes: bool = False,
    phases: bool = False,
) -> OptimiserConfig:
    """The optimiser, fully resolved; an `OptimiserConfig` is returned as it is.

    `VMC` calls this for its own wavefunction where it is given no optimiser, or `OptimiserOptions`. For steps that are
    made by hand, `optimiser(exact=False)` gives those from samples, and `dataclasses.replace` other numbers.

    Args:
        given: options that are kept; None: all are chosen.
        exact: expectation values have no sampling noise.
        images: number of images over which amplitudes are averaged in steps.
        large: steps draw a vanishing part of the sector (nqs.recipes.samplers.is_large).
        nodes: a real state whose amplitudes change sign.
        phases: they are learned by Markov chains (nqs.recipes.samplers.learns_phases_by_chains).

    Raises:
        ValueError: exact steps do not have a requested option.

    >>> chosen = optimiser(OptimiserOptions(max_step=0.05), exact=False)
    >>> chosen.learning_rate, chosen.max_step
    (0.3, 0.05)
    """
    if given is not None and not isinstance(given, OptimiserOptions):
        return given
    wishes = {} if given is None else given.given
    if exact:
        return _exact_steps(wishes)
    chosen: dict[str, Any] = LARGE if large else {}
    if images > 1:
        rate = wishes.get("learning_rate", SAMPLED["learning_rate"] * math.sqrt(images))
        chosen = {"learning_rate": rate, "final_learning_rate": rate / FALL} | AVERAGED
    elif nodes:
        chosen = NODES
    elif phases:
        chosen = COMPLEX
    return StochasticReconfiguration(**(SAMPLED | chosen | wishes))


def _exact_steps(wishes: Mapping[str, Any]) -> ExactSteps:
    options = dict(wishes)
    final = options.pop("final_learning_rate", None)
    for name in ("momentum", "second_moments"):
        if value := options.pop(name, 0.0):
            raise ValueError(f"{name}={value:g}: sums over the whole sector have no use for it; leave it out.")
    if "learning_rate" in options:
        options["time"] = options.pop("learning_rate")
    steps = ExactSteps(**(EXACT | options))
    if final not in (None, steps.time):
        raise ValueError(
            f"final_learning_rate={final:g}: the time of exact steps, which sum over the whole sector, is the same in "
            "every step; leave it out."
        )
    return steps


def warm_up_optimiser() -> StochasticReconfiguration:
    """Of a warm-up from samples before exhaustive sums."""
    return StochasticReconfiguration(**(SAMPLED | WARM_UP))


def fit_optimiser(objective: str, *, exact: bool) -> StochasticReconfiguration:
    """Natural gradient for a fit; a step of rate 1/2 (infidelity: 1) would reach the target if the model could.

    Args:
        objective: "forward", "reverse" or "infidelity" (nqs.pretraining).
        exact: the sector is summed, without sampling noise.
    """
    rate = 1.0 if objective == "infidelity" else 0.5
    final_rate, shifts = (rate, EXACT) if exact else (SAMPLED_FIT_RATE, SAMPLED)
    return StochasticReconfiguration(
        learning_rate=rate,
        final_learning_rate=final_rate,
        diagonal_shift=shifts["diagonal_shift"],
        final_diagonal_shift=shifts["final_diagonal_shift"],
        max_step=FIT_STEP,
    )
