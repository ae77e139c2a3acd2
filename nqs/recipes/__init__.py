"""Defaults that depend on the problem, with the measurement that chose each number, or what it bounds.

`plan` resolves all choices for a Hamiltonian; `nqs.ground_state` runs the plan. `VMC` uses the same functions for parts
that are not given.
"""

from nqs.recipes.choices import Choices
from nqs.recipes.known_signs import signs
from nqs.recipes.model import NetworkOptions, network, on_lattice
from nqs.recipes.optimiser import OptimiserOptions, fit_optimiser, optimiser, warm_up_optimiser
from nqs.recipes.plan import Plan, plan
from nqs.recipes.samplers import chains, evaluations, final_evaluation, training_sampler
from nqs.recipes.sector import symmetrised
from nqs.recipes.stages import method, subgroup_of_steps, warm_up
from nqs.recipes.steps import seconds, steps, steps_within
from nqs.recipes.threads import threads
from nqs.recipes.wavefunction import Reason
from nqs.runtime.device import checked_device, default_device

__all__ = [
    "Choices",
    "NetworkOptions",
    "OptimiserOptions",
    "Plan",
    "Reason",
    "chains",
    "checked_device",
    "default_device",
    "evaluations",
    "final_evaluation",
    "fit_optimiser",
    "method",
    "network",
    "on_lattice",
    "optimiser",
    "plan",
    "seconds",
    "signs",
    "steps",
    "steps_within",
    "subgroup_of_steps",
    "symmetrised",
    "threads",
    "training_sampler",
    "warm_up",
    "warm_up_optimiser",
]
