"""One training run: a model, a sampler and an optimiser for a time, and the energy that it ends at.

Every run draws from the wavefunction (no sums over the sector), with the steps that the recipes have for large systems:
as many as fit into the time, a fixed number of distinct configurations in each, momentum, and no average over a
symmetry, which would hide differences between networks.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nqs.models.parts import ByPosition, ComposedConfig, LatentConfig, TokenPhase
from nqs.models.references.conditionals import StartingState
from nqs.optimisation import StochasticReconfiguration
from nqs.optimisation.stages import Evaluation
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, WavefunctionConfig
from nqs.recipes.optimiser import LARGE, SAMPLED
from nqs.recipes.samplers import DISTINCT_OF_MANY, final_evaluation
from nqs.samplers import TreeSampler
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.orders import displacements, order_of_sites, reordered
from nqs.scripts.ablation.problems import PROBLEMS, known_signs
from nqs.vmc.loop import VMC

WIDTH = {"cpu": 16, "cuda": 48}  # of the baseline, whose number of parameters all variants have, about
LAYERS = 2
LARGEST_WIDTH, WIDTH_STEPS = 512, (4, 8, 16)  # steps: what the numbers of heads allow
COLUMNS = (
    Column("error", "relative error"),
    Column("error_bar", "its error bar", ".1e"),
    Column("v_score", "V-score"),
    Column("parameters", "parameters", ",.0f"),
    Column("steps", "steps", ",.0f"),
)


def reconfiguration() -> StochasticReconfiguration:
    """Stochastic reconfiguration as nqs.recipes has it for large systems."""
    return StochasticReconfiguration(**(SAMPLED | LARGE))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a variant changes, and what all variants of a problem share."""

    hamiltonian: Hamiltonian
    model: Any  # ComposedConfig, or another configuration of a wavefunction
    sampler: SamplerConfig
    optimiser: OptimiserConfig = field(default_factory=reconfiguration)
    temperature: float = 0.0
    match: int | None = None  # number of parameters; None: as the model is


def baseline(job: Job, *, order: str = "rows", start: bool = True) -> Setting:
    """The setting that variants of a problem depart from.

    The parts are those of the default model in large systems: categorical tokens, learned positions, attention by
    displacement, one head on the last position.

    Args:
        order: of the sites.
        start: begin at the amplitudes of the Hartree-Fock determinant, where that gives the signs.
    """
    problem = PROBLEMS[job.problem]
    sites = order_of_sites(order, problem.shape)
    # Displacements of the sites, but a lattice in another order knows its edges alone.
    lattice = problem.lattice if order == "rows" else reordered(problem.lattice, sites)
    hamiltonian = problem.hamiltonian(lattice)
    phase, reference = known_signs(hamiltonian)
    has_start = start and phase == "learned" and isinstance(reference, StartingState)
    kind = torch.device(job.device).type
    model = ComposedConfig(
        mixer=ByPosition(classes=displacements(problem.lattice, sites)),
        phase=TokenPhase() if phase == "learned" else None,
        width=WIDTH[kind],
        layers=LAYERS,
        shape=problem.shape,
        dtype="float32",
        seed=job.seed,
        reference=reference,
        start="reference" if has_start else "uniform",
        initial_phases=0.1 if reference is not None and phase == "learned" else 1.0,
    )
    distinct = min(DISTINCT_OF_MANY[kind], hamiltonian.hilbert.dimension)
    sampler = TreeSampler(n_distinct=distinct, use_cuda_graph=False)  # graphs are for cached decoding
    return Setting(hamiltonian=hamiltonian, model=model, sampler=sampler)


def matched(setting: Setting) -> Any:
    """The model with the width whose number of parameters is closest to the wanted one."""
    wanted = setting.match
    if wanted is None:
        return setting.model

    def number(width: int) -> int:
        """Of parameters; 0 where the heads do not fit the width."""
        try:
            return parameters_of(replace(setting, model=with_width(setting.model, width)))
        except ValueError:
            return 0

    step = next(step for step in WIDTH_STEPS if number(step))
    below = bisect_left(range(1, LARGEST_WIDTH // step + 1), wanted, key=lambda k: number(step * k))
    widths = [step * k for k in (below, below + 1) if k]
    return with_width(setting.model, min(widths, key=lambda width: abs(number(width) - wanted)))


def with_width(model: Any, width: int) -> Any:
    if isinstance(model, LatentConfig):
        return replace(model, component=replace(model.component, width=width))
    return replace(model, width=width)


def parameters_of(setting: Setting) -> int:
    model: WavefunctionConfig = setting.model
    return model.build(setting.hamiltonian.hilbert).n_parameters


def train(job: Job, setting: Setting) -> Row:
    """Optimise and evaluate within the time of the job."""
    problem, device = PROBLEMS[job.problem], torch.device(job.device)
    psi = matched(setting).build(setting.hamiltonian.hilbert, device)
    run = VMC(
        setting.hamiltonian,
        psi,
        setting.sampler,
        setting.optimiser,
        evaluation(psi, setting.sampler),
    )
    minutes, begin = job.seconds / 60, time.perf_counter()
    result = run.run(
        total_minutes=minutes, minutes=minutes, seed=job.seed, progress=False, temperature=setting.temperature
    )
    estimate = result.estimate
    error = None if problem.energy is None else (estimate.energy - problem.energy) / abs(problem.energy)
    return {
        "energy": estimate.energy,
        "energy_error": estimate.error,
        "error": error,
        "variance": estimate.variance,
        "v_score": estimate.v_score,
        "parameters": psi.n_parameters,
        "steps": len(result.history["energy"]),
        "spent": time.perf_counter() - begin,
    }


def evaluation(psi: Wavefunction, of_steps: SamplerConfig) -> Evaluation:
    """Batches of independent samples, however the samples of the steps are drawn."""
    found = final_evaluation(psi, next(psi.parameters()).device, of_steps, sampled=True)
    assert isinstance(found, Evaluation)
    batch: Any = found.sampler
    return replace(found, sampler=replace(batch, use_cuda_graph=getattr(of_steps, "use_cuda_graph", False)))


def trained(setting: Callable[[Job], Setting]) -> Callable[[Job], Row]:
    """A job of a variant: choose its setting, then train."""
    return lambda job: train(job, setting(job))
