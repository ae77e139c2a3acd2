"""A number of nqs.recipes varied around its default, everything else as the recipes choose it: errors, time, memory.

    python scripts/recipe_study.py --number convolutions.WIDTH --values 8 16 32 --problems heisenberg-6x6 --steps 40
    python scripts/recipe_study.py --number samplers.WALKERS --values 250 --problems hubbard-3x4 --minutes 2.5
    python scripts/recipe_study.py --measure sum --problems ising-16 ising-20

The number is replaced in a module of nqs.recipes that uses it; in a dictionary by device it is that of a CPU, for all
modules that import it, in one of options that of a name (optimiser.WARM_UP.final_learning_rate). Measured:

- "run": `--steps`, and the evaluation, as far as it fits into `--minutes`; without a number as many steps as fit; the
  relative error of its energy, or the energy;
- "draw": the first draw of the sampler of the steps after `--steps` of them, by chains that start anew; the mean of
  log |psi|^2, whose bias shows whether they have forgotten their start;
- "sum": an energy summed over the whole sector, or over its orbits;
- "fit": a fit to the exact ground state.

A line for each value and seed, each measured in a process of its own on one thread of a CPU: CPU seconds, and the GiB
that the process grew by at most.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from typing import Any, Literal
from unittest import mock

import torch

from nqs.cli.options import command_line
from nqs.driver import built, carry_out
from nqs.estimators.local_energy import local_energies
from nqs.exact import ground_state
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, Molecule
from nqs.lattice import chain, square
from nqs.optimisation.stages import Evaluation
from nqs.pretraining import VectorTarget, fit
from nqs.recipes import NetworkOptions, Plan, plan
from nqs.recipes.samplers import EXACT_LIMIT, every_configuration
from nqs.recipes.stages import FIT_FIDELITY, FIT_STEPS
from nqs.scripts.ablation.problems import PROBLEMS as OF_ABLATIONS
from nqs.scripts.ablation.problems import ising_ring
from nqs.scripts.benchmark import peak_memory

CPU = torch.device("cpu")
RINGS = (16, 20, 22, 24)  # of Ising, h = 1
WATER = "O 0 0 0; H 0.757 0.586 0; H -0.757 0.586 0"
PROBLEMS: dict[str, Callable[[], Any]] = {
    **{name: partial(found.hamiltonian, found.lattice) for name, found in OF_ABLATIONS.items()},
    **{f"ising-{L}": partial(Ising, chain(L), h=1.0) for L in RINGS},
    **{f"heisenberg-{L}": partial(Heisenberg, chain(L), total_sz=0) for L in (14, 20, 40)},
    **{f"bose-hubbard-{L}": partial(BoseHubbard, chain(L), L, U=4.0) for L in (8, 9, 10)},
    "heisenberg-4x6": partial(Heisenberg, square(4, 6), total_sz=0),
    **{f"j1j2-4x{L}": partial(Heisenberg, square(4, L), total_sz=0, J=(1.0, 0.5)) for L in (4, 6)},
    "j1j2-22": partial(Heisenberg, chain(22), total_sz=0, J=(1.0, 0.4)),
    "j1j2-open-16": partial(Heisenberg, chain(16, boundary="open"), total_sz=0, J=(1.0, 0.4)),
    "hubbard-2x4": partial(FermiHubbard, square(2, 4), 4, 4, U=8.0),
    "tv-4x4": partial(TV, square(4, 4), 5, V=10.0),
    "water": partial(Molecule.from_geometry, WATER, "sto-3g"),
    "water-6-31g": partial(Molecule.from_geometry, WATER, "6-31g"),
    "n2": partial(Molecule.from_geometry, "N 0 0 0; N 0 0 1.5", "sto-3g"),
}
EXACT = {name: found.energy for name, found in OF_ABLATIONS.items()} | {f"ising-{L}": ising_ring(L, 1.0) for L in RINGS}


@dataclass(frozen=True, kw_only=True)
class Config:
    problems: tuple[str, ...]
    measure: Literal["run", "draw", "sum", "fit"] = "run"
    number: str = ""  # module.NAME in nqs.recipes, or module.NAME.key
    values: tuple[str, ...] = ("",)  # "": the default
    seeds: tuple[int, ...] = (0,)
    steps: int = 0
    minutes: float | None = None  # time limit, evaluation included; without steps as many as fit
    batches: int = 0  # of the evaluation; 0: chosen by nqs.recipes
    distinct: int | None = None  # configurations of a step; None: chosen by nqs.recipes
    sampled: bool = False  # no sums over small sectors
    network: Literal["transformer", "determinant", "convolutional", "group-convolutional"] | None = None


def replaced(number: str, value: str) -> Any:
    """Context manager in which a number of the recipes has another value."""
    if not value:
        return nullcontext()
    where, name, *keys = number.split(".")
    module = import_module(f"nqs.recipes.{where}")
    default = getattr(module, name)
    if isinstance(default, dict):
        (key,) = keys or ("cpu",)
        return mock.patch.dict(default, {key: _like(default[key], value)})
    return mock.patch.object(module, name, _like(default, value))


def _like(default: float, value: str) -> float:
    base, _, power = value.partition("**")
    return type(default)(float(base) ** int(power or 1))


def measured(config: Config, problem: str, value: str, seed: int) -> tuple[str, float, float]:
    """What came out, CPU seconds, GiB."""
    torch.set_num_threads(1)
    before, begin = peak_memory(CPU), time.process_time()
    with replaced(config.number, value):
        out = {"run": of_run, "draw": of_draw, "sum": of_sum, "fit": of_fit}[config.measure](config, problem, seed)
    return out, time.process_time() - begin, (peak_memory(CPU) - before) / 2**30


def planned(config: Config, problem: str, seed: int, steps: int | None = None) -> Plan:
    return plan(
        PROBLEMS[problem](), model=NetworkOptions(network=config.network, seed=seed), distinct=config.distinct,
        sampled=config.sampled, seed=seed, steps=steps, minutes=config.minutes, device="cpu", threads=1,
    )  # fmt: skip


def of_run(config: Config, problem: str, seed: int) -> str:
    found = planned(config, problem, seed, steps=config.steps or (None if config.minutes else 0))
    if config.batches and isinstance(found.evaluation, Evaluation):
        found = replace(found, evaluation=replace(found.evaluation, batches=config.batches))
    exact = EXACT.get(problem)
    if exact is None and found.hamiltonian.hilbert.dimension <= EXACT_LIMIT:
        exact = ground_state(found.hamiltonian).energy
    result = carry_out(found, exact=exact, progress=False)
    done = f", {len(result.history['energy']):,} steps" if config.minutes else ""
    if result.exact is None:
        return f"E = {result.estimate.energy:.6f} ± {result.estimate.error:.6f}{done}"
    return f"{result.relative_error:.2e} ± {result.estimate.error / abs(result.exact):.0e}{done}"


def of_draw(config: Config, problem: str, seed: int) -> str:
    found = planned(config, problem, seed)
    psi, sampler = found.model.build(found.hamiltonian.hilbert), found.stages[-1].sampler
    if config.steps:
        built(replace(found, evaluation=sampler), psi).run(config.steps, seed=seed, progress=False)
    begin = time.process_time()
    samples = sampler.build(psi.for_steps()).sample(torch.Generator().manual_seed(seed))
    seconds, x = time.process_time() - begin, 2 * samples.log_modulus
    mean = samples.mean(x)
    error = samples.mean((x - mean) ** 2).sqrt() / math.sqrt(samples.n_samples)
    return f"{mean:.3f} ± {error:.3f}, {samples.n_distinct:,} distinct in {seconds:.2f} s"


def of_sum(config: Config, problem: str, seed: int) -> str:
    found = planned(config, problem, seed)
    hamiltonian, psi = found.hamiltonian, found.model.build(found.hamiltonian.hilbert)
    samples = every_configuration().build(psi).sample(torch.Generator().manual_seed(seed))
    local_energies(hamiltonian, psi, samples)
    return f"{samples.n_distinct:,} of {hamiltonian.hilbert.dimension:,} configurations"


def of_fit(config: Config, problem: str, seed: int) -> str:
    found = planned(config, problem, seed)
    psi, sampler = found.model.build(found.hamiltonian.hilbert), found.stages[-1].sampler
    target = VectorTarget(found.hamiltonian.hilbert, ground_state(found.hamiltonian).state)
    generator = torch.Generator().manual_seed(seed)
    return str(
        fit(
            psi, target, steps=config.steps or FIT_STEPS, fidelity=FIT_FIDELITY, sampler=sampler, generator=generator,
            progress=False,
        )
    )  # fmt: skip


def main(config: Config) -> None:
    print("| number | value | problem | seed | steps | result | CPU seconds | GiB |\n|---|---|---|---|---|---|---|---|")
    context = get_context("forkserver")
    context.set_forkserver_preload(["nqs.driver"])  # imported once
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for problem, value, seed in product(config.problems, config.values, config.seeds):
            out, seconds, memory = pool.submit(measured, config, problem, value, seed).result()
            cells = (config.number, value or "default", problem, seed, config.steps, out, f"{seconds:.1f}")
            print("| " + " | ".join(map(str, (*cells, f"{memory:.2f}"))) + " |", flush=True)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
