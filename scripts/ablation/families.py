"""One wavefunction for a family of Hamiltonians, against one for each of them in the same total time.

A job trains on couplings on a grid, or on a single held-out coupling, and measures relative errors at held-out
couplings between the grid points; "extrapolated" ones lie outside. Fine-tuning continues from the parameters of the
family for a tenth of its time, at a single coupling.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.estimators.local_energy import Energy, local_energies
from nqs.hamiltonians import BoseHubbard, Family, Heisenberg
from nqs.lattice import chain
from nqs.models.parts import ByPosition, ComposedConfig, FamilyConfig, GlobalEmbedding
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
    Column("parameters", "parameters", ",.0f"),
    Column("steps", "steps", ",.0f"),
)
VARIANTS = ("one for all", "one for each", "fine-tuned")


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

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0) -> EnergyByMember:
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
    problem, device, begin = PROBLEMS[job.problem], torch.device(job.device), time.perf_counter()
    base = network(problem, job)
    held_out = problem.held_out(HELD_OUT)
    steps, errors, outside = 0, [], []
    if job.variant == "one for each":
        for coupling, energy in zip(held_out, EXACT[job.problem], strict=False):
            h = problem.hamiltonian(coupling)
            whole = GlobalEmbedding(couplings=(problem.feature(coupling),))
            psi: Any = replace(base, whole=whole).build(h.hilbert, device)
            steps += optimise(h, psi, reconfiguration(), job, job.seconds / HELD_OUT)
            errors.append(error_of(h, psi, energy))
    else:
        grid = problem.grid(TRAINED)
        members = tuple(problem.hamiltonian(coupling) for coupling in grid)
        h = Family(members)
        couplings = tuple((problem.feature(coupling),) for coupling in grid)
        config = FamilyConfig(component=base, sector=members[0].hilbert, couplings=couplings)
        family: Any = config.build(h.hilbert, device)
        steps += optimise(h, family, FamilyReconfiguration(momentum=0.9, final_diagonal_shift=1e-4), job, job.seconds)
        for coupling, energy in zip((*held_out, *problem.outside), EXACT[job.problem], strict=True):
            single = problem.hamiltonian(coupling)
            psi = family.member((problem.feature(coupling),))
            if job.variant == "fine-tuned":
                steps += optimise(single, psi, reconfiguration(), job, job.seconds / 10)
            (outside if coupling in problem.outside else errors).append(error_of(single, psi, energy))
    return {
        "largest": max(errors),
        "median": sorted(errors)[len(errors) // 2],
        "outside": max(outside, default=None),
        "errors": errors,
        "couplings": held_out,
        "parameters": psi.n_parameters,
        "steps": steps,
        "spent": time.perf_counter() - begin,
    }
