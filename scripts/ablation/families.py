"""One wavefunction for a family of Hamiltonians, against one for each of them in the same total time.

"one for all" trains on couplings on a grid, and measures relative errors at ten held-out couplings between the grid
points and at two outside the range; fine-tuning then continues at each held-out coupling for a tenth of the time of the
family. "one for each" trains ten wavefunctions, each for a tenth of that time.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from nqs.samplers import TreeSampler
from nqs.samples import LocalEnergies, Samples
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.problems import known_signs
from nqs.scripts.ablation.training import LAYERS, WIDTH, evaluation, reconfiguration
from nqs.vmc.loop import VMC

TRAINED, HELD_OUT = 12, 10
DISTINCT = {"cpu": 600, "cuda": 6_000}  # of a step, over all members
COLUMNS = (
    Column("largest", "largest relative error, held out"),
    Column("median", "median, held out"),
    Column("outside", "outside the range"),
    Column("tuned", "largest, fine-tuned"),
    Column("parameters", "parameters", ",.0f"),
    Column("steps", "steps", ",.0f"),
)
VARIANTS = ("one for all", "one for each")


@dataclass(frozen=True)
class FamilyProblem:
    """
    Attributes:
        hamiltonian: of a coupling.
        couplings: lowest and highest.
        feature: of a coupling, of order 1, for the global embedding.
        outside: couplings outside the range.
    """

    n_sites: int
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
        10, lambda U: BoseHubbard(chain(10), 10, U=U), (1.0, 16.0), lambda U: U / 8, (0.5, 20.0)
    ),
    "xxz-16": FamilyProblem(
        16, lambda D: Heisenberg(chain(16), total_sz=0, Delta=D), (-0.5, 2.0), lambda D: D, (-0.7, 2.5)
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
class EnergyByMember(Energy):
    """Local energies less the mean of their member plus that of all: each member is centred by itself.

    The gradient is the same on average, because every member is normalised, and has less noise.
    """

    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        found = local_energies(self.hamiltonian, wavefunction, samples)
        member, w = samples.configurations[:, 0].long(), samples.weights
        number = wavefunction.hilbert.local_dims[0]
        weight = w.new_zeros(number).index_add_(0, member, w)
        mean = w.new_zeros(number).index_add_(0, member, w * found.values.real) / weight.clamp(min=1e-300)
        shift = (mean - samples.mean(found.values.real))[member]
        return replace(found, values=found.values - shift, diagonal=found.diagonal - shift)


@dataclass(frozen=True, kw_only=True)
class FamilyReconfiguration(StochasticReconfiguration):
    """Stochastic reconfiguration of a family."""

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> EnergyByMember:
        return EnergyByMember(hamiltonian, energy_scale)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Any:
        return StochasticReconfiguration.build(self, wavefunction, objective)


def network(problem: FamilyProblem, job: Job) -> ComposedConfig:
    """The network of a member; all members of a family have the same signs."""
    kind, (low, _) = torch.device(job.device).type, problem.couplings
    phase, reference = known_signs(problem.hamiltonian(low))
    assert phase == "zero"
    classes = tuple(map(tuple, chain(problem.n_sites).displacements().tolist()))
    return ComposedConfig(
        mixer=ByPosition(classes=classes), phase=None, width=WIDTH[kind], layers=LAYERS, dtype="mixed",
        seed=job.seed, reference=reference,
    )  # fmt: skip


def optimise(h: Hamiltonian, psi: Wavefunction, optimiser: StochasticReconfiguration, job: Job, seconds: float) -> int:
    """Steps within the time, without an evaluation; their number."""
    kind = torch.device(job.device).type
    sampler = TreeSampler(n_distinct=min(DISTINCT[kind], h.hilbert.dimension // 2), use_cuda_graph=False)
    run = VMC(h, psi, sampler, optimiser, replace(evaluation(psi, sampler), batches=1))
    minutes = seconds / 60
    return len(run.run(total_minutes=minutes, minutes=minutes, seed=job.seed, progress=False).history["energy"])


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
    """One family and its fine-tuning, or single trainings: half of the time goes to all trainings, half to tuning."""
    problem, device, begin = PROBLEMS[job.problem], torch.device(job.device), time.perf_counter()
    component, held_out = network(problem, job), problem.held_out(HELD_OUT)
    targets = list(zip((*held_out, *problem.outside), EXACT[job.problem], strict=True))
    of_all, of_one = job.seconds / 2, job.seconds / 2 / HELD_OUT
    if job.variant == "one for all":
        family, steps = trained_family(problem, component, job, of_all)
        members = [family.member((problem.feature(coupling),)) for coupling, _ in targets]
        errors = [error_of(problem.hamiltonian(c), psi, E) for (c, E), psi in zip(targets, members, strict=True)]
    else:
        steps, errors, members = 0, [], []
        for coupling, _ in targets[:HELD_OUT]:
            config = replace(component, whole=GlobalEmbedding(couplings=(problem.feature(coupling),)))
            members.append(config.build(component_sector(problem), device))
    # Fine-tuning, or training from the start, in the same time for each.
    tuned = []
    for (coupling, energy), psi in zip(targets[:HELD_OUT], members[:HELD_OUT], strict=True):
        h = problem.hamiltonian(coupling)
        steps += optimise(h, psi, reconfiguration(), job, of_one)
        tuned.append(error_of(h, psi, energy))
    before = errors[:HELD_OUT] or tuned
    return {
        "largest": max(before),
        "median": median(before),
        "outside": max(errors[HELD_OUT:], default=None),
        "tuned": max(tuned) if errors else None,
        "errors": before,
        "tuned_errors": tuned,
        "couplings": held_out,
        "parameters": members[0].n_parameters,
        "steps": steps,
        "spent": time.perf_counter() - begin,
    }


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
    optimiser = FamilyReconfiguration(momentum=0.9, final_diagonal_shift=1e-4)
    return family, optimise(h, family, optimiser, job, seconds)
