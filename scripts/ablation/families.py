"""One wavefunction for a family of Hamiltonians, against one for each of them in the same total time.

"one for all" trains on couplings on a grid, keeps the parameters in a file, and measures relative errors at ten
held-out couplings between the grid points and at two outside the range. "fine-tuned" continues from these parameters at
each held-out coupling for a tenth of the time of the family. "one for each" trains ten wavefunctions from the start,
each for a tenth of that time. Errors are printed to the standard error as they are found.
"""

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.estimators.local_energy import Energy, local_energies
from nqs.hamiltonians import BoseHubbard, Family, Heisenberg
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain
from nqs.models.parts import ByPosition, ComposedConfig, FamilyConfig, FamilyWavefunction, GlobalEmbedding
from nqs.optimisation import StochasticReconfiguration
from nqs.protocols import Hamiltonian, Objective, Wavefunction
from nqs.recipes.optimiser import LARGE, SAMPLED
from nqs.recipes.steps import EVALUATION_FRACTION
from nqs.samplers import TreeSampler
from nqs.samples import LocalEnergies, Samples
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.problems import known_signs
from nqs.scripts.ablation.training import LAYERS, WIDTH, reconfiguration
from nqs.vmc.loop import VMC

TRAINED, HELD_OUT = 12, 10
DISTINCT = {"cpu": 600, "cuda": 6_000}  # of a step, over all members
COLUMNS = (
    Column("largest", "largest relative error, held out"),
    Column("median", "median, held out"),
    Column("outside", "outside the range"),
    Column("parameters", "parameters", ",.0f"),
    Column("steps", "steps", ",.0f"),
)
VARIANTS = ("one for all", "fine-tuned", "one for each")
PARAMETERS = Path("results/families")  # of trained families
REPORT = 30.0  # seconds between lines about the steps


@dataclass(frozen=True)
class FamilyProblem:
    """
    Attributes:
        hamiltonian: of a coupling.
        couplings: lowest and highest.
        feature: of a coupling, of order 1, for the global embedding.
        outside: couplings outside the range.
    """

    hamiltonian: Callable[[float], Any]
    couplings: tuple[float, float]
    feature: Callable[[float], float]
    outside: tuple[float, ...]

    def grid(self, number: int) -> list[float]:
        """Couplings at equal distances of the feature."""
        low, high = self.couplings
        return [low + (high - low) * (k / (number - 1)) for k in range(number)]

    def held_out(self, number: int) -> list[float]:
        """In the middle between those trained on, spread over the range."""
        grid = self.grid(TRAINED)
        middle = [(a + b) / 2 for a, b in itertools.pairwise(grid)]
        return [middle[round(k * (len(middle) - 1) / max(1, number - 1))] for k in range(number)]


PROBLEMS = {
    "bose-hubbard-10": FamilyProblem(
        lambda U: BoseHubbard(chain(10), 10, U=U), (1.0, 16.0), lambda U: U / 8, (0.5, 20.0)
    ),
    "xxz-16": FamilyProblem(
        lambda D: Heisenberg(chain(16), total_sz=0, Delta=D), (-0.5, 2.0), lambda D: D, (-0.7, 2.5)
    ),
}

# Exact diagonalisation (`nqs.exact`) at the held-out couplings, then at those outside.
EXACT = {
    "bose-hubbard-10": (
        -14.375120459229821,
        -11.097223188500868,
        -8.567765549040558,
        -6.741632008606909,
        -5.501430809111852,
        -4.0128119594973874,
        -3.533686908129723,
        -3.1562566978058584,
        -2.8513114584633215,
        -2.599859613506223,
        -18.027464189908056,
        -1.9949128983382929,
    ),
    "xxz-16": (
        -4.554936175490748,
        -4.874971786092923,
        -5.239648433425662,
        -5.6450294033996835,
        -6.088833308962225,
        -7.088378919712358,
        -7.644926859046898,
        -8.241031863235936,
        -8.877717242113956,
        -9.554269388749796,
        -4.200245957758978,
        -11.549465242881329,
    ),
}


@dataclass(frozen=True)
class RelativeEnergies(Energy):
    """Local energies of each member, centred by its own mean E_k and in units of its own |E_k|.

    Every member then counts by its relative error: the gradient is that of the mean of sign(E_k) log|E_k|, times the
    mean of |E_k|, which keeps the unit of the rates. |E_k| is taken as at least the energy scale. A common mean would
    give the same gradient on average, because every member is normalised, with more noise.
    """

    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        found = local_energies(self.hamiltonian, wavefunction, samples)
        member, w = samples.configurations[:, 0].long(), samples.weights
        number = wavefunction.hilbert.local_dims[0]
        weight = w.new_zeros(number).index_add_(0, member, w)
        mean = w.new_zeros(number).index_add_(0, member, w * found.values.real) / weight.clamp(min=1e-300)
        scale = mean.abs().clamp(min=self.energy_scale)
        factor, total = (scale.mean() / scale)[member], samples.mean(found.values.real)
        values, diagonal = ((x - mean[member]) * factor + total for x in (found.values, found.diagonal))
        return replace(found, values=values, diagonal=diagonal)


@dataclass(frozen=True, kw_only=True)
class FamilyReconfiguration(StochasticReconfiguration):
    """Stochastic reconfiguration of a family."""

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> RelativeEnergies:
        return RelativeEnergies(hamiltonian, energy_scale)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Any:
        return StochasticReconfiguration.build(self, wavefunction, objective)


def network(problem: FamilyProblem, job: Job) -> ComposedConfig:
    """The network of a member; all members of a family have the same signs."""
    kind, (low, _) = torch.device(job.device).type, problem.couplings
    hamiltonian = problem.hamiltonian(low)
    phase, reference = known_signs(hamiltonian)
    assert phase == "zero"
    classes = tuple(map(tuple, chain(hamiltonian.hilbert.n_sites).displacements().tolist()))
    return ComposedConfig(
        mixer=ByPosition(classes=classes), phase=None, width=WIDTH[kind], layers=LAYERS, dtype="mixed",
        seed=job.seed, reference=reference,
    )  # fmt: skip


def optimise(h: Hamiltonian, psi: Wavefunction, optimiser: StochasticReconfiguration, job: Job, seconds: float) -> int:
    """Steps for the time, without the part that a run keeps for its evaluation, here one draw; their number."""
    kind = torch.device(job.device).type
    sampler = TreeSampler(n_distinct=min(DISTINCT[kind], h.hilbert.dimension // 2), use_cuda_graph=False)
    minutes, due = seconds / 60 / (1 - EVALUATION_FRACTION), time.monotonic() + REPORT

    def report(row: Mapping[str, float]) -> bool:
        nonlocal due
        if time.monotonic() >= due:
            due += REPORT
            say(job, f"step {row['step']:.0f}, energy {row['energy']:.6f}, V-score {row['v_score']:.1e}")
        return False

    run = VMC(h, psi, sampler, optimiser, sampler)
    result = run.run(total_minutes=minutes, seed=job.seed, progress=False, until=report)
    return len(result.history["energy"])


def say(job: Job, text: str) -> None:
    print(f"{job.problem}, {job.variant}, seed {job.seed}: {text}", file=sys.stderr, flush=True)


@torch.no_grad()
def error_of(h: Hamiltonian, psi: Wavefunction, energy: float) -> float:
    """(<H> - E0) / |E0|, summed over the sector."""
    device = next(psi.parameters()).device
    n = h.hilbert.configurations(device=device)
    log_modulus, phase = log_psi_in_chunks(psi, n)
    samples = Samples(
        configurations=n, weights=(2 * log_modulus).softmax(0), log_modulus=log_modulus, phase=phase,
        inclusion_probability=torch.ones_like(log_modulus),
    )  # fmt: skip
    mean = samples.mean(local_energies(h, psi, samples).values.real).item()
    return (mean - energy) / abs(energy)


def run(job: Job) -> Row:
    """The errors of one variant at all held-out couplings, after the time of the job.

    Raises:
        ValueError: fine-tuning without a trained family.
    """
    problem, begin = PROBLEMS[job.problem], time.perf_counter()
    targets = list(zip((*problem.held_out(HELD_OUT), *problem.outside), EXACT[job.problem], strict=True))
    if job.variant == "one for all":
        steps, errors, number = all_at_once(problem, targets, job)
    else:
        targets = targets[:HELD_OUT]
        steps, errors, number = one_by_one(problem, targets, job)
    within = errors[:HELD_OUT]
    return {
        "largest": max(within),
        "median": median(within),
        "outside": max(errors[HELD_OUT:], default=None),
        "errors": errors,
        "couplings": [coupling for coupling, _ in targets],
        "parameters": number,
        "steps": steps,
        "spent": time.perf_counter() - begin,
    }


Target = tuple[float, float]  # a coupling and its exact energy


def all_at_once(problem: FamilyProblem, targets: list[Target], job: Job) -> tuple[int, list[float], int]:
    """Steps, errors and number of parameters of one wavefunction for all couplings, whose parameters are kept."""
    family, steps = trained_family(problem, network(problem, job), job, job.seconds)
    path = parameters_of(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(family.component.state_dict(), path)
    say(job, f"{steps} steps, parameters in {path}")
    errors = [measured(problem, target, family.member((problem.feature(target[0]),)), job) for target in targets]
    return steps, errors, family.component.n_parameters


def one_by_one(problem: FamilyProblem, targets: list[Target], job: Job) -> tuple[int, list[float], int]:
    """Steps, errors and number of parameters of a wavefunction for each coupling, in an equal part of the time each."""
    component, sector, device = network(problem, job), component_sector(problem), torch.device(job.device)
    state, steps, errors = None, 0, []
    if job.variant == "fine-tuned":
        if not (path := parameters_of(job)).exists():
            raise ValueError(f"no {path}: measure the variant 'one for all' with the same seed, time and device first.")
        state = torch.load(path, map_location=device, weights_only=True)
    for target in targets:
        config = replace(component, whole=GlobalEmbedding(couplings=(problem.feature(target[0]),)))
        psi = config.build(sector, device)
        if state is not None:
            psi.load_state_dict(state)
        steps += optimise(problem.hamiltonian(target[0]), psi, reconfiguration(), job, job.seconds / len(targets))
        errors.append(measured(problem, target, psi, job))
    return steps, errors, psi.n_parameters


def measured(problem: FamilyProblem, target: Target, psi: Wavefunction, job: Job) -> float:
    """Relative error at a coupling, printed."""
    coupling, energy = target
    error = error_of(problem.hamiltonian(coupling), psi, energy)
    say(job, f"coupling {coupling:.4f}, relative error {error:.2e}")
    return error


def parameters_of(job: Job) -> Path:
    """Where the parameters of a family are kept."""
    return PARAMETERS / f"{job.problem}-seed-{job.seed}-{job.seconds:g}s-{job.device}.pt"


def component_sector(problem: FamilyProblem) -> HilbertSpace:
    return problem.hamiltonian(problem.couplings[0]).hilbert


def trained_family(
    problem: FamilyProblem, component: ComposedConfig, job: Job, seconds: float
) -> tuple[FamilyWavefunction, int]:
    """The wavefunction of all couplings of the grid, and its steps."""
    grid = problem.grid(TRAINED)
    members = tuple(problem.hamiltonian(coupling) for coupling in grid)
    h, couplings = Family(members), tuple((problem.feature(coupling),) for coupling in grid)
    config = FamilyConfig(component=component, sector=component_sector(problem), couplings=couplings)
    family = config.build(h.hilbert, torch.device(job.device))
    optimiser = FamilyReconfiguration(**(SAMPLED | LARGE))
    return family, optimise(h, family, optimiser, job, seconds)
